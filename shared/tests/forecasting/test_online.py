import copy
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corollary.evaluation import LeakageError, OnlineForecaster, Prequential, Stream, prequential
from corollary.forecasting import (
    Frozen,
    NLinear,
    OnlineGD,
    Problem,
    Split,
    make_optimizer,
    prepare_online,
    restore_streaming_state,
    streaming_state,
)

LOOKBACK, HORIZON, VARIATES = 6, 3, 2


class Noisy(nn.Module):
    """A linear forecaster with dropout and batch norm: random draws and buffers are part of its story."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(VARIATES)
        self.dropout = nn.Dropout(0.3)
        self.linear = NLinear(LOOKBACK, HORIZON, VARIATES)
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        assert self.training == self.dropout.training == self.norm.training
        return self.linear(self.dropout(self.norm(x.mT)).mT)


def noise(rows: int = 60, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, VARIATES, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stream(values: Tensor) -> Stream:
    return Stream(values, lookback=LOOKBACK, horizon=HORIZON)


def gradient(rate: float = 0.05, dtype: torch.dtype = torch.float64) -> OnlineGD:
    torch.manual_seed(0)
    model = NLinear(LOOKBACK, HORIZON, VARIATES).to(dtype)
    return OnlineGD(model, make_optimizer("adam", model.parameters(), rate))


def noisy() -> OnlineGD:
    torch.manual_seed(0)
    model = Noisy().double()
    return OnlineGD(model, make_optimizer("adamw", model.parameters(), 0.05))


def test_they_are_online_forecasters() -> None:
    assert isinstance(gradient(), OnlineForecaster)
    assert isinstance(Frozen(NLinear(6, 3, 2)), OnlineForecaster)


def test_frozen_forecasts_and_does_not_learn() -> None:
    model = Noisy().double()
    forecaster = Frozen(model)
    before = copy.deepcopy(model.state_dict())
    result = prequential(forecaster, stream(noise()), range(5, 57))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(model.modes)
    values = noise()
    with torch.no_grad():
        forecasts = torch.cat([model(values[None, t - 5 : t + 1]) for t in range(5, 57)])
    labels = torch.stack([values[t + 1 : t + 4] for t in range(5, 57)])
    np.testing.assert_allclose(result.squared, (forecasts - labels).square().mean((1, 2)).numpy(), rtol=1e-12)


def adam_by_hand(model: NLinear, pairs: list[tuple[Tensor, Tensor]], rate: float) -> tuple[Tensor, Tensor]:
    """Adam on the mean squared error, with the gradient of a linear map written out."""
    weight, bias = model.linear.weight.detach().clone(), model.linear.bias.detach().clone()
    moments = [[torch.zeros_like(weight), torch.zeros_like(weight)], [torch.zeros_like(bias), torch.zeros_like(bias)]]
    for step, (x, y) in enumerate(pairs, 1):
        centred = (x - x[-1:]).T  # (N, L)
        error = centred @ weight.T + bias + x[-1][:, None] - y.T  # (N, H)
        gradients = 2 * error.T @ centred / error.numel(), 2 * error.sum(0) / error.numel()
        for parameter, slope, state in zip((weight, bias), gradients, moments, strict=True):
            state[0] = 0.9 * state[0] + 0.1 * slope
            state[1] = 0.999 * state[1] + 0.001 * slope**2
            ahead = state[0] / (1 - 0.9**step), state[1] / (1 - 0.999**step)
            parameter -= rate * ahead[0] / (ahead[1].sqrt() + 1e-8)
    return weight, bias


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_updates_are_steps_of_adam_with_moments_kept(steps: int) -> None:
    forecaster, values = gradient(rate=0.05), stream(noise())
    values.advance(59)
    pairs = [values.pair(origin) for origin in range(5, 5 + steps)]
    assert isinstance(forecaster.model, NLinear)
    weight, bias = adam_by_hand(forecaster.model, pairs, 0.05)
    for x, y in pairs:
        forecaster.update(x, y)
        forecaster.predict(x)  # a forecast between updates changes nothing
    torch.testing.assert_close(forecaster.model.linear.weight.detach(), weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(forecaster.model.linear.bias.detach(), bias, rtol=0, atol=1e-12)


def test_update_trains_and_forecast_evaluates() -> None:
    forecaster = noisy()
    prequential(forecaster, stream(noise()), range(5, 20))
    model = forecaster.model
    assert isinstance(model, Noisy)
    assert model.modes == [False] * 3 + [True, False] * 12
    x = noise()[:6]
    assert torch.equal(forecaster.predict(x), forecaster.predict(x))
    assert not forecaster.predict(x).requires_grad


def test_loss_of_a_pair() -> None:
    forecaster, values = gradient(), noise()
    x, y = values[:6], values[6:9]
    expected = (forecaster.predict(x) - y).square().sum() / 6
    torch.testing.assert_close(forecaster.loss(x, y).detach(), expected, rtol=1e-14, atol=0)


def test_rate_zero_is_frozen() -> None:
    still, frozen = gradient(rate=0.0), Frozen(gradient().model)
    results = [prequential(forecaster, stream(noise()), range(5, 57)) for forecaster in (still, frozen)]
    np.testing.assert_array_equal(results[0].squared, results[1].squared)


def test_learning_follows_a_pattern() -> None:
    steps = torch.arange(300, dtype=torch.float64)[:, None]
    waves = torch.cat([torch.sin(0.7 * steps), torch.cos(0.3 * steps)], 1)
    origins = range(5, 297)
    learned = prequential(gradient(rate=0.02), stream(waves), origins)
    frozen = prequential(Frozen(gradient().model), stream(waves), origins)
    assert learned.squared[-100:].mean() < 0.25 * frozen.squared[-100:].mean()


# Preparation


class Listening(Frozen):
    def __init__(self) -> None:
        super().__init__(NLinear(LOOKBACK, HORIZON, VARIATES))
        self.origins: list[int] = []

    def update(self, x: Tensor, y: Tensor) -> None:
        self.origins.append(int(x[-1, 0]))
        assert y[:, 0].tolist() == [self.origins[-1] + h for h in range(1, HORIZON + 1)]


def counting_problem() -> Problem:
    rows = torch.arange(100.0)[:, None].expand(-1, VARIATES)
    return Problem(
        name="rows", values=rows, variates=2, split=Split(40, 60, 90), lookback=LOOKBACK, horizon=HORIZON, period=1
    )


def test_preparation_and_test_update_on_every_pair_once() -> None:
    problem, forecaster = counting_problem(), Listening()
    prepare_online(forecaster, problem)
    # The walk is over origins 39 .. 58; the pair of each was complete three rows before.
    assert forecaster.origins == list(range(36, 56))
    prequential(forecaster, problem.stream(), problem.test_origins)
    assert forecaster.origins == list(range(36, problem.test_origins[-1] - 2))
    assert problem.test_origins == range(59, 87)


def test_preparation_sees_nothing_of_the_test_rows() -> None:
    class Greedy(Listening):
        def prepare(self, stream: Stream, origins: object) -> None:
            assert stream.now == 59  # the last validation row
            self.update(*stream.pair(56))
            for origin in (57, 58, 59):
                with pytest.raises(LeakageError):
                    stream.pair(origin)
            stream.window(59)
            with pytest.raises(LeakageError):
                stream.window(60)

    forecaster = Greedy()
    prepare_online(forecaster, counting_problem())
    assert forecaster.origins == [56]


def test_forecaster_without_preparation_is_left_alone() -> None:
    class Bare:
        def update(self, x: Tensor, y: Tensor) -> None:
            pytest.fail("updated")

        def predict(self, x: Tensor) -> Tensor:
            pytest.fail("asked")

    prepare_online(Bare(), counting_problem())


def test_preparation_skips_origins_without_a_whole_window() -> None:
    forecaster = Listening()
    series = counting_problem().stream(until=59)
    forecaster.prepare(series, range(0, 12))
    assert forecaster.origins == [5, 6, 7, 8]


# State


@pytest.mark.parametrize("build", [gradient, noisy])
@pytest.mark.parametrize("stop", [0, 1, 20])
def test_restored_forecaster_goes_on_bit_identically(build: Callable[[], OnlineGD], stop: int) -> None:
    def fresh(forecaster: OnlineForecaster) -> Prequential:
        return Prequential(forecaster, stream(noise()), range(5, 57), traced=0)

    whole = fresh(build())
    while not whole.finished:
        whole.step()
    first = fresh(build())
    for _ in range(stop):
        first.step()
    file = io.BytesIO()
    torch.save({"run": first.state_dict(), **streaming_state(first.forecaster)}, file)
    for _ in range(5):
        first.step()
    torch.manual_seed(99)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = fresh(build())
    torch.manual_seed(99)
    resumed.load_state_dict(state["run"])
    restore_streaming_state(resumed.forecaster, state)
    while not resumed.finished:
        resumed.step()
    for name in ("origins", "squared", "absolute", "forecasts"):
        np.testing.assert_array_equal(getattr(resumed.result(), name), getattr(whole.result(), name))


def test_forgetting_the_generator_shows() -> None:
    """The control of the test above: without the generator's state, dropout draws something else."""
    forecaster = noisy()
    x, y = noise()[:6], noise()[6:9]
    state = copy.deepcopy(streaming_state(forecaster))
    forecaster.update(x, y)
    first = forecaster.predict(x)
    forecaster.load_state_dict(state["forecaster"])
    forecaster.update(x, y)
    assert not torch.equal(forecaster.predict(x), first)
    restore_streaming_state(forecaster, state)
    forecaster.update(x, y)
    assert torch.equal(forecaster.predict(x), first)


def test_state_of_frozen_is_its_model() -> None:
    one, other = Frozen(Noisy()), Frozen(Noisy())
    x = noise(dtype=torch.float32)[:6]
    assert not torch.equal(one.predict(x), other.predict(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.predict(x), other.predict(x))


def test_forecaster_without_state_cannot_be_saved() -> None:
    class Stateless:
        def update(self, x: Tensor, y: Tensor) -> None: ...

        def predict(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ValueError, match="Stateless has no state_dict, so its state cannot be saved"):
        streaming_state(Stateless())


def test_modules_follow_the_mode() -> None:
    forecaster = noisy()
    for mode in (True, False):
        forecaster.train(mode)
        assert {module.training for module in forecaster.model.modules()} == {mode}
