import copy
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.forecasting import NLinear, OnlineGD, make_method, make_setting
from corollary.forecasting.replay import ER, DERpp, DERppMethod, ERMethod, Reservoir

LOOKBACK, HORIZON, VARIATES = 6, 3, 2


def record(value: int) -> Tensor:
    return torch.tensor([float(value)])


def filled(capacity: int, count: int, seed: int = 0) -> Reservoir:
    reservoir = Reservoir(capacity, seed=seed)
    for value in range(count):
        reservoir.store(record(value))
    return reservoir


def contents(reservoir: Reservoir) -> list[int]:
    return sorted(int(value) for value in reservoir.draw(len(reservoir))[0])


def pair(index: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(index)
    values = torch.randn(LOOKBACK + HORIZON, VARIATES, generator=generator, dtype=torch.float64)
    return values[:LOOKBACK], values[LOOKBACK:]


def linear_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return NLinear(LOOKBACK, HORIZON, VARIATES).double()


def sgd(model: nn.Module, rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=rate)


class WithBuffer(nn.Module):
    """The same function, in a model whose buffer counts the forward passes."""

    passes: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.model(x)


def test_the_first_records_are_all_kept() -> None:
    assert contents(filled(10, 7)) == list(range(7))
    assert contents(filled(10, 10)) == list(range(10))


def test_every_record_is_kept_with_the_same_probability() -> None:
    capacity, count, repeats = 5, 20, 2000
    kept = Counter(value for seed in range(repeats) for value in contents(filled(capacity, count, seed)))
    expected = repeats * capacity / count
    deviation = math.sqrt(expected * (1 - capacity / count))
    assert set(kept) == set(range(count))
    assert all(abs(kept[value] - expected) < 4.5 * deviation for value in range(count)), kept


def test_a_draw_has_no_record_twice_and_is_uniform() -> None:
    reservoir = filled(10, 10)
    drawn: Counter[int] = Counter()
    for _ in range(1000):
        values = [int(value) for value in reservoir.draw(4)[0]]
        assert len(set(values)) == 4
        drawn.update(values)
    assert all(abs(drawn[value] - 400) < 4.5 * math.sqrt(1000 * 0.4 * 0.6) for value in range(10)), drawn


def test_a_draw_gives_what_there_is() -> None:
    assert len(filled(10, 3).draw(8)[0]) == 3
    with pytest.raises(ValueError, match="empty reservoir"):
        Reservoir(10, seed=0).draw(1)


def test_items_of_a_record_stay_together() -> None:
    reservoir = Reservoir(4, seed=0)
    for value in range(50):
        reservoir.store(record(value), record(value) ** 2)
    first, second = reservoir.draw(4)
    assert torch.equal(first**2, second)


@pytest.mark.parametrize("count", [0, 3, 30])
def test_a_restored_reservoir_stores_and_draws_the_same(count: int) -> None:
    first, second = filled(8, count), filled(8, 20, seed=5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for value in range(100, 140):
        first.store(record(value))
        second.store(record(value))
        assert torch.equal(first.draw(5)[0], second.draw(5)[0])


def test_the_first_update_is_that_of_gradient_descent() -> None:
    models = [linear_model() for _ in range(3)]
    forecasters = [
        OnlineGD(models[0], sgd(models[0])),
        ER(models[1], sgd(models[1]), seed=0),
        DERpp(models[2], sgd(models[2]), seed=0),
    ]
    for forecaster in forecasters:
        forecaster.update(*pair(0))
    torch.testing.assert_close(models[1].state_dict(), models[0].state_dict(), rtol=0, atol=1e-15)
    torch.testing.assert_close(models[2].state_dict(), models[0].state_dict(), rtol=0, atol=1e-15)


def test_one_step_of_er_descends_its_loss() -> None:
    # with fewer pairs stored than drawn the memory term is over all of them, whatever the draw
    model, reference = linear_model(), linear_model()
    forecaster = ER(model, sgd(model), seed=0, labels=0.3)
    optimizer = sgd(reference)
    for index in range(5):
        x, y = pair(index)
        optimizer.zero_grad()
        loss = functional.mse_loss(reference(x[None])[0], y)
        if index:
            memory = [torch.stack(items) for items in zip(*(pair(i) for i in range(index)), strict=True)]
            loss = loss + 0.3 * functional.mse_loss(reference(memory[0]), memory[1])
        loss.backward()
        optimizer.step()
        forecaster.update(x, y)
        torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("labels", [0.0, 0.4])
def test_one_step_of_der_descends_its_loss(labels: float) -> None:
    model, reference = linear_model(), linear_model()
    forecaster = DERpp(model, sgd(model), seed=0, forecasts=0.5, labels=labels)
    optimizer = sgd(reference)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    for index in range(5):
        x, y = pair(index)
        optimizer.zero_grad()
        forecast = reference(x[None])[0]
        loss = functional.mse_loss(forecast, y)
        if seen:
            inputs, targets, forecasts = (torch.stack(items) for items in zip(*seen, strict=True))
            loss = loss + 0.5 * functional.mse_loss(reference(inputs), forecasts)
            loss = loss + labels * functional.mse_loss(reference(inputs), targets)
        loss.backward()
        optimizer.step()
        seen.append((x, y, forecast.detach()))  # the forecast from before the step
        forecaster.update(x, y)
        torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=0, atol=1e-13)


def test_the_two_draws_of_der_are_independent() -> None:
    model = linear_model()
    forecaster = DERpp(model, sgd(model), seed=0, draws=3)
    for index in range(60):
        forecaster.update(*pair(index))
    draws = [[inputs for _, inputs, _ in forecaster.remembered()] for _ in range(20)]
    assert any(not torch.equal(first.sort(0).values, second.sort(0).values) for first, second in draws)


def test_der_without_labels_draws_once() -> None:
    model = linear_model()
    forecaster = DERpp(model, sgd(model), seed=0, labels=0.0)
    forecaster.update(*pair(0))
    assert [weight for weight, _, _ in forecaster.remembered()] == [0.2]


def test_the_stored_forecast_is_that_of_training_mode() -> None:
    model = nn.Sequential(NLinear(LOOKBACK, HORIZON, VARIATES), nn.Dropout(0.999999))
    forecaster = DERpp(model, sgd(model), seed=0)
    forecaster.predict(torch.ones(LOOKBACK, VARIATES))  # leaves evaluation mode behind
    x, y = pair(0)
    forecaster.update(x.float(), y.float())
    _, _, forecast = forecaster.memory.draw(1)
    assert torch.count_nonzero(forecast) == 0


@pytest.mark.parametrize("kind", [ER, DERpp])
def test_a_model_with_buffers_gets_one_forward_pass_for_each_term(kind: type[ER]) -> None:
    plain, counting = linear_model(), WithBuffer(linear_model())
    forecasters = [kind(plain, sgd(plain), seed=0), kind(counting, sgd(counting), seed=0)]
    for index in range(20):
        for forecaster in forecasters:
            forecaster.update(*pair(index))
    torch.testing.assert_close(counting.model.state_dict(), plain.state_dict(), rtol=0, atol=1e-13)
    assert int(counting.passes) == 20 + 19 * (1 if kind is ER else 2)


@pytest.mark.parametrize("kind", [ER, DERpp])
def test_a_restored_forecaster_goes_on_with_a_full_memory(kind: type[ER]) -> None:
    def build(seed: int) -> ER:
        model = linear_model(seed)
        return kind(model, torch.optim.Adam(model.parameters(), lr=1e-2), seed=seed, capacity=10)

    first, second = build(0), build(1)
    for index in range(30):
        first.update(*pair(index))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for index in range(30, 60):
        first.update(*pair(index))
        second.update(*pair(index))
        assert torch.equal(first.predict(pair(index)[0]), second.predict(pair(index)[0]))


def test_the_seed_decides_what_is_replayed() -> None:
    def forecast(seed: int) -> Tensor:
        model = linear_model()
        forecaster = ER(model, sgd(model), seed=seed, draws=2)
        for index in range(20):
            forecaster.update(*pair(index))
        return forecaster.predict(pair(99)[0])

    assert torch.equal(forecast(3), forecast(3))
    assert not torch.equal(forecast(3), forecast(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"capacity": 0}, "capacity must be at least 1, got 0"),
        ({"labels": -0.1}, "labels must be 0 or more, got -0.1"),
        ({"forecasts": -1.0}, r"forecasts must be 0 or more, got -1.0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    model = linear_model()
    with pytest.raises(ValueError, match=message):
        DERpp(model, sgd(model), seed=0, **options)


def test_presets_take_the_rate_of_gradient_descent_and_the_official_terms() -> None:
    setting = make_setting("ETTm1", "tcn", 24)
    assert ERMethod.preset(setting) == ERMethod(rate=1e-6)
    assert DERppMethod.preset(setting) == DERppMethod(rate=1e-6, forecasts=0.2, labels=0.0)
    assert make_method("der++") == DERppMethod(labels=0.2)
