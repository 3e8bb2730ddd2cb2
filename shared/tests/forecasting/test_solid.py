import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.evaluation import LeakageWarning, LeakyStream, Stream, prequential
from corollary.forecasting import NLinear, make_method, make_setting
from corollary.forecasting.selection import History, Rows, Selection
from corollary.forecasting.solid import SOLID, SOLIDMethod, SOLIDpp, SOLIDppMethod, head_parameters

LOOKBACK, HORIZON, VARIATES = 6, 3, 2
SIZES = {"lookback": LOOKBACK, "horizon": HORIZON, "variates": VARIATES}


def noise(rows: int, columns: int = VARIATES, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs_of(values: Tensor, first: int, last: int) -> list[tuple[Tensor, Tensor]]:
    origins = range(first, last + 1)
    return [(values[k - LOOKBACK + 1 : k + 1], values[k + 1 : k + HORIZON + 1, :VARIATES]) for k in origins]


class Deep(nn.Module):
    """A body, batch normalisation and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(LOOKBACK * VARIATES, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, HORIZON * VARIATES)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.body(x.flatten(1))))).unflatten(1, (HORIZON, VARIATES))


def plain_model() -> NLinear:
    torch.manual_seed(0)
    return NLinear(LOOKBACK, HORIZON, VARIATES).double()


def solid(model: nn.Module, *, rate: float = 0.05, head: Any = None, **selection: Any) -> SOLID:
    return SOLID(model, rate=rate, selection=Selection(**selection), head=head, **SIZES)


def solid_pp(model: nn.Module, **selection: Any) -> SOLIDpp:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return SOLIDpp(model, optimizer, selection=Selection(**selection), **SIZES)


def test_phases_on_both_sides_or_on_one() -> None:
    # period 24 and tolerance 0.1: up to 2.4 rows; the candidate of age a is 5 + a rows back
    ages = Selection(candidates=60, period=24).ages(delay=5)
    assert [5 + age for age in ages] == [22, 23, 24, 25, 26, 46, 47, 48, 49, 50]
    one_sided = Selection(candidates=60, period=24, one_sided=True).ages(delay=5)
    assert [5 + age for age in one_sided] == [24, 25, 26, 48, 49, 50]


def test_candidates_end_with_the_oldest_of_the_window() -> None:
    assert Selection(candidates=20, period=24).ages(delay=5)[-1] == 19
    assert Selection(candidates=7, period=1).ages(delay=5) == list(range(7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"period": 0}, "period must be at least 1, got 0"),
        ({"tolerance": 1.5}, r"tolerance must be in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_selections_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(**options)


@pytest.mark.parametrize("first", [1, 3, 5])
def test_rows_keep_the_last(first: int) -> None:
    table = torch.arange(60.0)[:, None]
    rows = Rows(5)
    with pytest.raises(ValueError, match="no rows yet"):
        _ = rows.last
    rows.append(table[:first])
    for count in range(first + 1, 60):
        rows.append(table[count - 1 : count])
        assert torch.equal(rows.last, table[max(count - 5, 0) : count])
        assert rows.last.is_contiguous()


@pytest.mark.parametrize("columns", [VARIATES, VARIATES + 3])
def test_the_history_gives_back_the_pairs_and_their_distances(columns: int) -> None:
    values = noise(80, columns)
    history = History(10, **SIZES)
    pairs = pairs_of(values, LOOKBACK - 1, 70)
    for count, (x, y) in enumerate(pairs, start=1):
        history.store(x, y)
        assert history.count == min(count, 10)
        ages = torch.arange(history.count)
        expected = [pairs[count - 1 - age] for age in range(history.count)]
        inputs, labels = history.pairs(ages)
        assert torch.equal(inputs, torch.stack([x for x, _ in expected]))
        assert torch.equal(labels, torch.stack([y for _, y in expected]))
        window = noise(LOOKBACK, columns, seed=9)
        distances = [(x - window)[:, :VARIATES].square().sum().sqrt() for x, _ in expected]
        torch.testing.assert_close(history.distances(window, ages), torch.stack(distances), rtol=0, atol=1e-13)


def test_pairs_with_a_gap_are_refused() -> None:
    values = noise(30)
    history = History(10, **SIZES)
    first, _, third = pairs_of(values, LOOKBACK - 1, LOOKBACK + 1)
    history.store(*first)
    with pytest.raises(ValueError, match="consecutive origins"):
        history.store(*third)
    with pytest.raises(ValueError, match="consecutive origins"):
        history.store(*first)


def test_a_horizon_of_one_is_stored_likewise() -> None:
    values = noise(30)
    history = History(4, lookback=2, horizon=1, variates=VARIATES)
    for origin in range(1, 20):
        history.store(values[origin - 1 : origin + 1], values[origin + 1 : origin + 2])
    inputs, labels = history.pairs(torch.tensor([0, 3]))
    assert torch.equal(inputs, torch.stack([values[18:20], values[15:17]]))
    assert torch.equal(labels, torch.stack([values[20:21], values[17:18]]))
    with pytest.raises(ValueError, match="consecutive origins"):
        history.store(values[3:5], values[5:6])


def nearest(values: Tensor, origin: int, *, candidates: int, samples: int, period: int, delay: int) -> list[int]:
    """Origins of the chosen pairs, by comparing all of them one by one."""
    present = values[origin - LOOKBACK + 1 : origin + 1]
    found = []
    for candidate in range(origin - delay, max(origin - delay - candidates, LOOKBACK - 2), -1):
        lag = abs((origin % period) - (candidate % period))
        if min(lag, period - lag) <= 0.1 * period:
            distance = (values[candidate - LOOKBACK + 1 : candidate + 1] - present)[:, :VARIATES].norm()
            found.append((float(distance), candidate))
    return [candidate for _, candidate in sorted(found)[:samples]]


@pytest.mark.parametrize("prepared", [False, True])
def test_the_nearest_pairs_in_phase_are_chosen(prepared: bool) -> None:
    values = noise(160)
    sizes = {"candidates": 50, "samples": 4, "period": 11}
    forecaster = solid(plain_model(), **sizes)
    chosen: list[list[int]] = []

    class Watched:
        def update(self, x: Tensor, y: Tensor) -> None:
            forecaster.update(x, y)

        def predict(self, x: Tensor) -> Tensor:
            chosen.append([first - HORIZON - int(age) + len(chosen) for age in forecaster.select(x)])
            return forecaster.predict(x)

    stream = Stream(values, lookback=LOOKBACK, horizon=HORIZON)
    first = 70 if prepared else LOOKBACK - 1
    if prepared:
        stream.advance(first)
        forecaster.prepare(stream, range(60, first))
        assert forecaster.history.count == 50  # it reaches back before the first of these origins
    origins = range(first, 150)
    prequential(Watched(), stream, origins)
    assert chosen == [nearest(values, origin, **sizes, delay=HORIZON) for origin in origins]
    assert any(chosen)


def test_under_the_leaky_protocol_phases_follow_the_shorter_delay() -> None:
    with pytest.warns(LeakageWarning):
        stream = LeakyStream(noise(60), lookback=LOOKBACK, horizon=HORIZON)
    forecaster = solid(plain_model(), candidates=20, period=5)
    stream.advance(30)
    forecaster.prepare(stream, range(20, 30))
    assert forecaster.delay == 1
    assert forecaster.history.count == 20
    assert forecaster.select(noise(LOOKBACK)).remainder(5).eq(4).all()  # 1 + age is a multiple of the period


def expected_forecast(model: nn.Module, forecaster: SOLID, x: Tensor, parameters: list[str], rate: float) -> Tensor:
    """One written-out gradient step on a copy, in training mode, then the forecast in evaluation mode."""
    copied = copy.deepcopy(model).requires_grad_(True)
    inputs, labels = forecaster.history.pairs(forecaster.select(x))
    copied.train()
    functional.mse_loss(copied(inputs), labels).backward()
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if name in parameters:
                assert parameter.grad is not None
                parameter -= rate * parameter.grad
    copied.eval()
    with torch.no_grad():
        return copied(x[None])[0]


@pytest.mark.parametrize(
    ("head", "parameters"),
    [
        (None, ["head.weight", "head.bias"]),
        ("body", ["body.weight", "body.bias"]),
        (lambda model: [model.norm.weight], ["norm.weight"]),
    ],
)
def test_a_forecast_takes_one_step_of_the_head_and_takes_it_back(head: Any, parameters: list[str]) -> None:
    values, model = noise(60), Deep()
    forecaster = solid(model, head=head, samples=3)
    before = copy.deepcopy(model.state_dict())
    pairs = pairs_of(values, LOOKBACK - 1, 30)
    for x, y in pairs:
        forecaster.update(x, y)
    frozen = Deep().eval()
    for window, _ in pairs_of(values, 31, 36):
        expected = expected_forecast(model, forecaster, window, parameters, 0.05)
        forecast = forecaster.predict(window)
        torch.testing.assert_close(forecast, expected, rtol=0, atol=1e-13)
        assert not torch.allclose(forecast, frozen(window[None])[0], atol=1e-4)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_solid_pp_keeps_its_steps() -> None:
    values, model = noise(60), plain_model()
    forecaster = solid_pp(model, samples=3)
    reference = plain_model()
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.01)
    for x, y in pairs_of(values, LOOKBACK - 1, 30):
        forecaster.update(x, y)  # only stores
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=0, atol=0)
    for window, _ in pairs_of(values, 31, 36):
        inputs, labels = forecaster.history.pairs(forecaster.select(window))
        optimizer.zero_grad()
        functional.mse_loss(reference(inputs), labels).backward()
        optimizer.step()
        torch.testing.assert_close(forecaster.predict(window), reference(window[None])[0].detach(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("build", [solid, solid_pp])
def test_without_a_pair_in_phase_the_model_forecasts_as_it_is(build: Any) -> None:
    values, model = noise(60), plain_model()
    forecaster = build(model, period=20, candidates=10)  # lags 3 to 12: none within 2 of a multiple of 20
    window = values[:LOOKBACK]
    expected = model(window[None])[0].detach()
    assert torch.equal(forecaster.predict(window), expected)
    for x, y in pairs_of(values, LOOKBACK - 1, 30):
        forecaster.update(x, y)
    lags = [lag for lag in range(3, 13) if min(lag % 20, 20 - lag % 20) <= 2]
    assert lags == []
    assert torch.equal(forecaster.predict(window), expected)


@pytest.mark.parametrize("build", [solid, solid_pp])
def test_preparation_learns_nothing(build: Any) -> None:
    model = plain_model()
    stream = Stream(noise(60), lookback=LOOKBACK, horizon=HORIZON)
    stream.advance(40)
    forecaster = build(model, candidates=15)
    forecaster.prepare(stream, range(20, 40))
    assert forecaster.history.count == 15
    torch.testing.assert_close(model.state_dict(), plain_model().state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(("build", "stored"), list(itertools.product([solid, solid_pp], [0, 2, 40])))
def test_a_restored_forecaster_goes_on_bit_identically(build: Any, stored: int) -> None:
    values = noise(120)
    pairs = pairs_of(values, LOOKBACK - 1, 100)
    first, second = build(plain_model(), candidates=12), build(plain_model(), candidates=12)
    for x, y in pairs[:stored]:
        first.update(x, y)
        first.predict(y.new_ones(LOOKBACK, VARIATES))
    for x, y in pairs[50:60]:
        second.update(x, y)  # must be forgotten
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for x, y in pairs[stored : stored + 40]:
        for forecaster in (first, second):
            forecaster.update(x, y)
        assert torch.equal(first.predict(x), second.predict(x))


def test_restored_weights_are_those_that_steps_start_from() -> None:
    other = plain_model()
    with torch.no_grad():
        other.linear.weight.add_(1.0)
    source, target = solid(other), solid(plain_model())
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    for x, y in pairs_of(noise(60), LOOKBACK - 1, 20):
        target.update(x, y)
        target.predict(x)
    torch.testing.assert_close(target.model.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_heads_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="head must be the name of a module, got 'tail'"):
        head_parameters(Deep(), "tail")
    with pytest.raises(ValueError, match="has no parameters in the head None"):
        head_parameters(nn.ReLU())
    with pytest.raises(ValueError, match="rate must be positive, got 0"):
        solid(plain_model(), rate=0.0)


def test_presets_are_those_of_the_scripts() -> None:
    setting = make_setting("Weather", "tcn", 24)
    assert SOLIDppMethod.preset(setting) == SOLIDppMethod(rate=3e-6, candidates=2000, samples=20)
    assert SOLIDMethod.preset(setting) == SOLIDMethod(rate=3e-6, candidates=2000, samples=20)
    at_home = make_setting("ETTh2", "nlinear", 24)
    assert SOLIDppMethod.preset(at_home) == make_method("solid++", rate=1e-4, candidates=500, samples=5)
