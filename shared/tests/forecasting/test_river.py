import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corollary.evaluation import Stream, prequential
from corollary.forecasting import NLinear, OnlineGD, make_optimizer
from corollary.forecasting.river import RiverForecaster

NAMES = ["load", "oil", "wind"]


def gradient(lookback: int, horizon: int, variates: int) -> OnlineGD:
    torch.manual_seed(0)
    model = NLinear(lookback, horizon, variates)
    return OnlineGD(model, make_optimizer("adam", model.parameters(), 0.01))


class Recorder:
    """Writes down what it is shown, and spoils it."""

    def __init__(self, horizon: int, variates: int) -> None:
        self.horizon, self.variates = horizon, variates
        self.pairs: list[tuple[list, list]] = []
        self.windows: list[list] = []

    def update(self, x: Tensor, y: Tensor) -> None:
        self.pairs.append((x.tolist(), y.tolist()))
        x.fill_(-1)
        y.fill_(-1)

    def predict(self, x: Tensor) -> Tensor:
        self.windows.append(x.tolist())
        x.fill_(-1)
        return torch.arange(float(self.horizon * self.variates)).reshape(self.horizon, self.variates)


@pytest.mark.parametrize(("lookback", "horizon"), [(6, 3), (5, 1), (1, 4), (1, 1)])
def test_it_is_the_prequential_protocol_step_by_step(lookback: int, horizon: int) -> None:
    values = np.random.default_rng(0).normal(size=(90, 3)).cumsum(0)
    origins = range(lookback - 1, 90 - horizon)
    stream = Stream(torch.from_numpy(values.astype(np.float32)), lookback=lookback, horizon=horizon)
    expected = gradient(lookback, horizon, 3)
    model = RiverForecaster(gradient(lookback, horizon, 3), lookback, horizon, NAMES)
    forecasts: list[np.ndarray] = []
    mirror: list[np.ndarray] = []

    class Mirror:
        def update(self, x: Tensor, y: Tensor) -> None:
            expected.update(x, y)

        def predict(self, x: Tensor) -> Tensor:
            mirror.append(expected.predict(x).numpy())
            return torch.from_numpy(mirror[-1])

    result = prequential(Mirror(), stream, origins)
    for t, row in enumerate(values[: origins[-1] + 1]):
        model.learn_one(dict(zip(NAMES, row.tolist(), strict=True)))
        if t in origins:
            forecasts.append(np.array([[step[name] for name in NAMES] for step in model.forecast(horizon)]))
    np.testing.assert_array_equal(np.stack(forecasts), np.stack(mirror))
    truths = np.stack([values[t + 1 : t + 1 + horizon].astype(np.float32) for t in origins])
    np.testing.assert_allclose(((np.stack(forecasts) - truths) ** 2).mean((1, 2)), result.squared, rtol=1e-13)
    assert not np.array_equal(forecasts[0], forecasts[-1])


@settings(max_examples=50, deadline=None)
@given(lookback=st.integers(1, 5), horizon=st.integers(1, 5), rows=st.integers(1, 60))
def test_pairs_and_windows_are_the_right_ones(lookback: int, horizon: int, rows: int) -> None:
    recorder = Recorder(horizon, 1)
    model = RiverForecaster(recorder, lookback, horizon)
    for t in range(rows):
        model.learn_one(float(t))
        if t + 1 >= lookback:
            model.forecast(1)
    column = [[float(t)] for t in range(rows)]
    assert recorder.windows == [column[t - lookback + 1 : t + 1] for t in range(lookback - 1, rows)]
    origins = range(lookback - 1, rows - horizon)
    assert recorder.pairs == [(column[k - lookback + 1 : k + 1], column[k + 1 : k + 1 + horizon]) for k in origins]
    assert model.observations == rows


def test_order_of_keys_does_not_matter() -> None:
    recorder = Recorder(1, 3)
    model = RiverForecaster(recorder, 2, 1, NAMES)
    model.learn_one({"load": 1.0, "oil": 2.0, "wind": 3.0})
    model.learn_one({"wind": 6.0, "load": 4.0, "oil": 5.0})
    assert model.forecast(1) == [{"load": 0.0, "oil": 1.0, "wind": 2.0}]
    assert list(model.forecast(1)[0]) == NAMES
    assert recorder.windows == [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]


def test_covariates_follow_the_variates_in_windows_only() -> None:
    recorder = Recorder(1, 1)
    model = RiverForecaster(recorder, 2, 1, ["load"], covariates=["hour", "day"])
    for t in range(3):
        model.learn_one({"load": 10.0 * t}, {"day": 1, "other": "ignored", "hour": t})
    assert recorder.pairs == [([[0.0, 0.0, 1.0], [10.0, 1.0, 1.0]], [[20.0]])]
    with pytest.raises(ValueError, match="x must hold the covariates hour, day, got none called 'day'"):
        model.learn_one({"load": 1.0}, {"hour": 3})
    with pytest.raises(ValueError, match="got none called 'hour'"):
        model.learn_one({"load": 1.0})
    assert model.observations == 3


def test_univariate_numbers_in_and_out() -> None:
    model = RiverForecaster(Recorder(3, 1), 2, 3)
    for t in range(4):
        model.learn_one(t)
    assert model.forecast(3) == [0.0, 1.0, 2.0]
    assert model.forecast(2, xs=[{"hour": 4}, {"hour": 5}]) == [0.0, 1.0]
    assert model.predict_one({"hour": 4}) == 0.0


def test_forecaster_is_asked_once_an_observation() -> None:
    recorder = Recorder(2, 3)
    model = RiverForecaster(recorder, 1, 2, NAMES)
    model.learn_one(dict.fromkeys(NAMES, 1.0))
    first = model.forecast(2)
    first[0]["load"] = 99.0  # the caller's own copy
    assert model.forecast(2)[0] == model.predict_one() == {"load": 0.0, "oil": 1.0, "wind": 2.0}
    assert len(recorder.windows) == 1
    model.learn_one(dict.fromkeys(NAMES, 2.0))
    model.forecast(1)
    assert len(recorder.windows) == 2


def test_forecast_needs_a_whole_window() -> None:
    model = RiverForecaster(Recorder(2, 1), 3, 2)
    for t in range(3):
        for ask in (lambda: model.forecast(1), model.predict_one):
            with pytest.raises(ValueError, match=f"a forecast needs lookback = 3 observations, got {t}$"):
                ask()
        model.learn_one(t)
    assert len(model.forecast(2)) == 2


@pytest.mark.parametrize("horizon", [0, -1, 3])
def test_horizon_is_bounded(horizon: int) -> None:
    model = RiverForecaster(Recorder(2, 1), 1, 2)
    model.learn_one(0)
    with pytest.raises(ValueError, match=rf"horizon must be in \[1, 2\], got {horizon}"):
        model.forecast(horizon)


@pytest.mark.parametrize(
    "y",
    [
        {"load": 1.0, "oil": 2.0},
        {"load": 1.0, "oil": 2.0, "wind": 3.0, "sun": 4.0},
        {"load": 1.0, "oil": 2.0, "Wind": 3.0},
        1.0,
    ],
)
def test_observation_of_other_variates_is_refused(y: dict[str, float] | float) -> None:
    model = RiverForecaster(Recorder(2, 3), 1, 2, NAMES)
    with pytest.raises(ValueError, match="y must be a mapping of the variates load, oil, wind, got"):
        model.learn_one(y)
    assert model.observations == 0


def test_mapping_without_named_variates_is_refused() -> None:
    with pytest.raises(ValueError, match="y must be a number unless variates are named"):
        RiverForecaster(Recorder(2, 1), 1, 2).learn_one({"load": 1.0})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_observation_that_is_not_finite_teaches_nothing(bad: float) -> None:
    recorder = Recorder(1, 1)
    model = RiverForecaster(recorder, 2, 1)
    for y in (1.0, 2.0):
        model.learn_one(y)
    with pytest.raises(ValueError, match="observations must be finite, got"):
        model.learn_one(bad)
    model.learn_one(3.0)
    assert recorder.pairs == [([[1.0], [2.0]], [[3.0]])]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RiverForecaster(Recorder(1, 1), 0, 1), "lookback must be positive, got 0"),
        (lambda: RiverForecaster(Recorder(1, 1), 1, 0), "horizon must be positive, got 0"),
        (lambda: RiverForecaster(Recorder(1, 1), 1, 1, "load"), "variates must be a sequence of names or None"),
        (lambda: RiverForecaster(Recorder(1, 1), 1, 1, []), "variates must be a sequence of names or None"),
        (lambda: RiverForecaster(Recorder(1, 2), 1, 1, ["a", "a"]), "names must be unique"),
        (lambda: RiverForecaster(Recorder(1, 1), 1, 1, ["a"], covariates=["h", "h"]), "names must be unique"),
    ],
)
def test_bad_sizes_and_names_are_refused(build: Callable[[], RiverForecaster], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def test_forecast_of_the_wrong_shape_is_refused() -> None:
    model = RiverForecaster(Recorder(2, 2), 1, 3, ["a", "b"])
    model.learn_one({"a": 0.0, "b": 0.0})
    with pytest.raises(ValueError, match=r"\(horizon, variates\) = \(3, 2\), got \(2, 2\) from Recorder"):
        model.forecast(3)


def test_copies_go_their_own_way() -> None:
    model = RiverForecaster(gradient(3, 2, 1), 3, 2)
    for t in range(12):
        model.learn_one(t % 5)
    twin = copy.deepcopy(model)
    assert twin.forecast(2) == model.forecast(2)
    for t in range(12, 30):
        model.learn_one(t % 5)
        twin.learn_one(t % 5)
    assert twin.forecast(2) == model.forecast(2)
    twin.learn_one(50.0)
    assert twin.observations == model.observations + 1
