import copy
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corollary.evaluation import (
    LeakageError,
    LeakageWarning,
    LeakyStream,
    OnlineForecaster,
    OnlineResult,
    Prequential,
    Stream,
    prequential,
)

POISON = 1e6


def ramp(rows: int, variates: int = 1) -> Tensor:
    """Row t holds t in column 0, t + 1000 in column 1, and so on: every value names its place."""
    return torch.arange(rows, dtype=torch.float64)[:, None] + 1000 * torch.arange(variates, dtype=torch.float64)


def noise(rows: int, variates: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, variates, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaky(values: Tensor, **sizes: int) -> LeakyStream:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakageWarning)
        return LeakyStream(values, **sizes)


class LastValue:
    """Repeats the last row, and writes down what it is shown."""

    def __init__(self, horizon: int, variates: int) -> None:
        self.horizon, self.variates = horizon, variates
        self.calls: list[tuple[str, int, Tensor]] = []

    def update(self, x: Tensor, y: Tensor) -> None:
        self.calls.append(("update", int(x[-1, 0]), y))

    def predict(self, x: Tensor) -> Tensor:
        self.calls.append(("predict", int(x[-1, 0]), x))
        return x[-1:, : self.variates].expand(self.horizon, -1)


class Regression:
    """A linear map from window to label, learned by normalised gradient steps: depends on every pair it saw."""

    def __init__(self, lookback: int, horizon: int, rate: float = 0.05) -> None:
        self.weight = torch.zeros(horizon, lookback, dtype=torch.float64)
        self.rate = rate
        self.updates = 0

    def update(self, x: Tensor, y: Tensor) -> None:
        self.updates += 1
        error = self.weight @ x - y
        self.weight = self.weight - self.rate * error @ x.T / x.square().sum()

    def predict(self, x: Tensor) -> Tensor:
        return self.weight @ x

    def observe(self) -> dict[str, float]:
        return {"updates": self.updates, "weight:norm": float(self.weight.norm())}


class Peeking(Regression):
    """Cheats: it was handed the series and learns from the pair of the present."""

    def __init__(self, lookback: int, horizon: int, series: Tensor) -> None:
        super().__init__(lookback, horizon)
        self.series = series
        self.now = lookback - 2

    def predict(self, x: Tensor) -> Tensor:
        lookback, horizon = self.weight.shape[1], self.weight.shape[0]
        self.now += 1
        self.update(x, self.series[self.now + 1 : self.now + 1 + horizon])
        assert len(x) == lookback
        return super().predict(x)


# The clock


def test_stream_releases_a_pair_when_its_last_value_is_observed() -> None:
    stream = Stream(ramp(20, 2), lookback=3, horizon=4)
    assert (stream.rows, stream.lookback, stream.horizon, stream.variates) == (20, 3, 4, 2)
    assert (stream.now, stream.first_origin, stream.delay) == (-1, 2, 4)
    stream.advance(9)
    assert stream.now == 9
    assert [origin for origin in range(-5, 20) if stream.released(origin)] == [2, 3, 4, 5]
    x, y = stream.pair(5)
    assert x[:, 0].tolist() == [3, 4, 5]
    assert y[:, 1].tolist() == [1006, 1007, 1008, 1009]
    assert stream.window(9)[:, 0].tolist() == [7, 8, 9]
    stream.advance(9)  # standing still is allowed


def test_covariates_are_in_windows_and_not_in_labels() -> None:
    stream = Stream(ramp(20, 3), lookback=3, horizon=4, variates=2)
    stream.advance(12)
    x, y = stream.pair(5)
    assert x.shape == (3, 3)
    assert y.shape == (4, 2)
    assert stream.window(7).shape == (3, 3)


def test_future_is_refused() -> None:
    stream = Stream(ramp(20), lookback=3, horizon=4)
    with pytest.raises(LeakageError, match=r"row 2 is not observed yet: the last observed row is -1"):
        stream.window(2)
    stream.advance(9)
    with pytest.raises(LeakageError, match=r"origin 6 is complete at row 10, but the last observed row is 9"):
        stream.pair(6)
    with pytest.raises(LeakageError, match=r"row 10 is not observed yet: the last observed row is 9"):
        stream.window(10)


@pytest.mark.parametrize("origin", [1, 0, -1, -7])
def test_window_before_the_series_is_refused(origin: int) -> None:
    stream = Stream(ramp(20), lookback=3, horizon=4)
    stream.advance(9)
    for read in (stream.window, stream.pair):
        with pytest.raises(ValueError, match=rf"the first whole window ends at row 2, got {origin}$"):
            read(origin)


@pytest.mark.parametrize(("now", "row"), [(9, 8), (9, 20), (9, -1), (-1, -2)])
def test_time_goes_forwards_and_ends(now: int, row: int) -> None:
    stream = Stream(ramp(20), lookback=3, horizon=4)
    stream.advance(now)
    with pytest.raises(ValueError, match=rf"time goes on from row {now} to at most 19, got {row}$"):
        stream.advance(row)
    assert stream.now == now


@pytest.mark.parametrize(
    ("values", "sizes", "words"),
    [
        (torch.zeros(20), {}, r"values must be \(T, N\), got shape \(20,\)"),
        (torch.zeros(20, 2, 1), {}, r"values must be \(T, N\), got shape \(20, 2, 1\)"),
        (torch.zeros(10, 2), {}, r"at least lookback \+ 2 horizon = 11 rows, got 10"),
        (torch.zeros(20, 2), {"lookback": 0}, "lookback must be a positive integer, got 0"),
        (torch.zeros(20, 2), {"horizon": -1}, "horizon must be a positive integer, got -1"),
        (torch.zeros(20, 2), {"horizon": 2.0}, r"horizon must be a positive integer, got 2\.0"),
        (torch.zeros(20, 2), {"lookback": True}, "lookback must be a positive integer, got True"),
        (torch.zeros(20, 2), {"variates": 0}, "variates must be a positive integer, got 0"),
        (torch.zeros(20, 2), {"variates": 3}, "variates must be at most the 2 columns of values, got 3"),
        (torch.zeros(20, 0), {}, "variates must be a positive integer, got 0"),
        (torch.zeros(20, 2).index_fill(0, torch.tensor(7), torch.nan), {}, "finite, got nan in row 7, column 0"),
        (torch.zeros(20, 2).index_fill(1, torch.tensor(1), -torch.inf), {}, "finite, got -inf in row 0, column 1"),
    ],
)
@pytest.mark.parametrize("kind", [Stream, leaky])
def test_bad_series_is_refused(kind: Callable[..., Stream], values: Tensor, sizes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(values, **{"lookback": 3, "horizon": 4} | sizes)


def test_shortest_series_has_room_for_one_honest_update() -> None:
    forecaster = Regression(3, 4)
    prequential(forecaster, Stream(noise(11, 1), lookback=3, horizon=4), range(2, 7))
    assert forecaster.updates == 1


def test_integers_and_arrays_are_series_too() -> None:
    stream = Stream(np.arange(20).reshape(20, 1), lookback=2, horizon=2)
    assert prequential(LastValue(2, 1), stream, range(1, 18)).mse == 2.5


def test_leaky_stream_releases_the_next_origin_and_warns() -> None:
    with pytest.warns(LeakageWarning, match="released 3 steps before their last value is observed"):
        stream = LeakyStream(ramp(20), lookback=3, horizon=4)
    assert stream.delay == 1
    stream.advance(9)
    assert stream.released(8)
    assert not stream.released(9)
    assert stream.pair(8)[1].ravel().tolist() == [9, 10, 11, 12]
    with pytest.raises(LeakageError, match=r"origin 9 is complete at row 10"):
        stream.pair(9)


def test_leaky_label_past_the_end_is_refused() -> None:
    stream = leaky(ramp(20), lookback=3, horizon=4)
    stream.advance(19)
    assert len(stream.pair(15)[1]) == 4
    assert not stream.released(16)
    with pytest.raises(ValueError, match=r"label of origin 16 would end at row 20, past the last row 19"):
        stream.pair(16)


def test_leaky_stream_of_one_step_is_honest_and_silent() -> None:
    LeakyStream(ramp(20), lookback=3, horizon=1)


# The protocol


@settings(max_examples=60, deadline=None)
@given(
    lookback=st.integers(1, 6),
    horizon=st.integers(1, 6),
    spare=st.integers(0, 15),
    early=st.booleans(),
    data=st.data(),
)
def test_each_origin_counts_once_and_pairs_come_in_order(
    lookback: int, horizon: int, spare: int, early: bool, data: st.DataObject
) -> None:
    rows = lookback + 2 * horizon + spare
    first = data.draw(st.integers(lookback - 1, rows - horizon - 1))
    last = data.draw(st.integers(first, rows - horizon - 1))
    delay = 1 if early else horizon
    forecaster = LastValue(horizon, 1)
    kind = leaky if early else Stream
    result = prequential(forecaster, kind(ramp(rows), lookback=lookback, horizon=horizon), range(first, last + 1))
    expected = []
    for origin in range(first, last + 1):
        if origin - delay >= lookback - 1:
            expected.append(("update", origin - delay))
        expected.append(("predict", origin))
    assert [call[:2] for call in forecaster.calls] == expected
    for kind_of_call, origin, seen in forecaster.calls:
        after = range(origin + 1, origin + horizon + 1) if kind_of_call == "update" else None
        assert seen.ravel().tolist() == list(after if after else range(origin - lookback + 1, origin + 1))
    assert result.origins.tolist() == list(range(first, last + 1))
    # On a ramp, the last value is wrong by h at step h.
    steps = np.arange(1, horizon + 1)
    np.testing.assert_allclose(result.squared, np.full(len(result.origins), (steps**2).mean()), rtol=1e-14)
    np.testing.assert_allclose(result.absolute, np.full(len(result.origins), steps.mean()), rtol=1e-14)
    assert (result.update_ms > 0).tolist() == [origin - delay >= lookback - 1 for origin in result.origins]
    assert (result.forecast_ms > 0).all()


def test_closed_forms_of_the_errors() -> None:
    slopes = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    horizon = 5
    result = prequential(
        LastValue(horizon, 3), Stream(ramp(40)[:, :1] * slopes, lookback=3, horizon=horizon), range(2, 35)
    )
    squares, mean = (horizon + 1) * (2 * horizon + 1) / 6, (horizon + 1) / 2
    assert result.mse == pytest.approx(squares * (1 + 4 + 0.25) / 3, rel=1e-14)
    assert result.mae == pytest.approx(mean * 3.5 / 3, rel=1e-14)


def test_constant_series_has_no_error() -> None:
    result = prequential(LastValue(4, 2), Stream(torch.full((30, 2), 0.1), lookback=3, horizon=4), range(2, 26))
    assert (result.mse, result.mae) == (0.0, 0.0)


def test_errors_are_the_mean_over_all_values() -> None:
    values = noise(60, 3)
    stream = Stream(values, lookback=4, horizon=5, variates=2)
    result = prequential(LastValue(5, 2), stream, range(10, 50), traced=1)
    errors = np.stack([(values[t, :2] - values[t + 1 : t + 6, :2]).numpy() for t in range(10, 50)])
    assert result.mse == pytest.approx((errors**2).mean(), rel=1e-13)
    assert result.mae == pytest.approx(np.abs(errors).mean(), rel=1e-13)
    assert result.forecasts is not None
    np.testing.assert_array_equal(result.forecasts, np.repeat(values[10:50, 1:2].numpy().astype(np.float32), 5, axis=1))


def test_errors_of_float32_forecasts_are_summed_in_float64() -> None:
    values = torch.full((40, 1), 16777217.0, dtype=torch.float64)  # 2^24 + 1 is no float32

    class Zero(LastValue):
        def predict(self, x: Tensor) -> Tensor:
            return torch.zeros(4, 1, requires_grad=True)

    assert prequential(Zero(4, 1), Stream(values, lookback=3, horizon=4), range(2, 36)).mae == 16777217.0


def test_one_step_ahead_both_protocols_are_the_same() -> None:
    values = noise(80, 2)
    honest, early = (
        prequential(Regression(6, 1), kind(values, lookback=6, horizon=1), range(5, 79)) for kind in (Stream, leaky)
    )
    np.testing.assert_allclose(honest.squared, early.squared, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(honest.squared, early.squared)


def test_longer_horizons_tell_the_protocols_apart() -> None:
    values = noise(80, 2)
    honest, early = (
        prequential(Regression(6, 3), kind(values, lookback=6, horizon=3), range(5, 77)) for kind in (Stream, leaky)
    )
    assert not np.array_equal(honest.squared, early.squared)


def test_writing_into_what_was_shown_changes_nothing() -> None:
    class Vandal(Regression):
        def update(self, x: Tensor, y: Tensor) -> None:
            super().update(x, y)
            x.fill_(POISON)
            y.fill_(POISON)

        def predict(self, x: Tensor) -> Tensor:
            forecast = super().predict(x)
            x.fill_(POISON)
            return forecast

    values = noise(60, 2)
    kept = values.clone()
    spoiled = prequential(Vandal(6, 3), Stream(values, lookback=6, horizon=3), range(5, 57))
    clean = prequential(Regression(6, 3), Stream(kept, lookback=6, horizon=3), range(5, 57))
    assert torch.equal(values, kept)
    np.testing.assert_array_equal(spoiled.squared, clean.squared)


@pytest.mark.parametrize("where", ["update", "predict"])
def test_asking_the_stream_for_a_future_pair_is_leakage(where: str) -> None:
    stream = Stream(noise(60, 1), lookback=6, horizon=3)

    class Asking(Regression):
        def update(self, x: Tensor, y: Tensor) -> None:
            super().update(*(stream.pair(stream.now - 2) if where == "update" else (x, y)))

        def predict(self, x: Tensor) -> Tensor:
            if where == "predict":
                stream.pair(stream.now)
            return super().predict(x)

    with pytest.raises(LeakageError, match="is complete at row"):
        prequential(Asking(6, 3), stream, range(5, 57))


def first_difference(build: Callable[[Tensor], OnlineForecaster], kind: Callable[..., Stream], cut: int) -> int | None:
    """The first origin whose forecast changes when every value after row ``cut`` is poisoned."""
    clean = noise(60, 2, seed=3)
    poisoned = clean.clone()
    poisoned[cut + 1 :] = POISON
    runs = [
        prequential(build(values), kind(values, lookback=6, horizon=3), range(5, 57), traced=1)
        for values in (clean, poisoned)
    ]
    forecasts = [run.forecasts for run in runs if run.forecasts is not None]
    different = (forecasts[0] != forecasts[1]).any(1)
    return int(runs[0].origins[different][0]) if different.any() else None


@pytest.mark.parametrize("cut", [9, 30, 40])
def test_poisoned_future_shows_in_no_forecast_before_it(cut: int) -> None:
    assert first_difference(lambda _: Regression(6, 3), Stream, cut) == cut + 1


@pytest.mark.parametrize("cut", [9, 30, 40])
def test_poison_test_finds_cheats(cut: int) -> None:
    # At origin t the leaky protocol learns from rows up to t + 2, and the peeking forecaster from rows up to t + 3.
    assert first_difference(lambda _: Regression(6, 3), leaky, cut) == cut - 1
    assert first_difference(lambda values: Peeking(6, 3, values), Stream, cut) == cut - 2


# Refusals of the run


@pytest.mark.parametrize(
    ("origins", "words"),
    [
        ([], "consecutive and at least one"),
        ([5, 7], "consecutive and at least one"),
        ([5, 5], "consecutive and at least one"),
        ([6, 5], "consecutive and at least one"),
        (range(5, 20, 2), "consecutive and at least one"),
        (range(4, 20), r"must lie in \[5, 56\] for lookback 6, horizon 3 and 60 rows, got 4 to 19"),
        (range(5, 58), r"must lie in \[5, 56\] .* got 5 to 57"),
        (range(-1, 20), r"got -1 to 19"),
    ],
)
def test_bad_origins_are_refused(origins: Sequence[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        prequential(Regression(6, 3), Stream(noise(60, 1), lookback=6, horizon=3), origins)


@pytest.mark.parametrize("traced", [-1, 2])
def test_traced_variate_must_exist(traced: int) -> None:
    with pytest.raises(ValueError, match=f"traced must be one of the 2 variates, got {traced}"):
        Prequential(
            Regression(6, 3), Stream(noise(60, 3), lookback=6, horizon=3, variates=2), range(5, 9), traced=traced
        )


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (1, 3, 2), (3,)])
def test_forecast_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    class Wrong(LastValue):
        def predict(self, x: Tensor) -> Tensor:
            return torch.zeros(shape)

    with pytest.raises(ValueError, match=r"\(horizon, variates\) = \(3, 2\), got .* from Wrong"):
        prequential(Wrong(3, 2), Stream(noise(60, 2), lookback=6, horizon=3), range(5, 9))


def test_stream_that_was_read_further_cannot_be_evaluated_again() -> None:
    stream = Stream(noise(60, 1), lookback=6, horizon=3)
    prequential(Regression(6, 3), stream, range(5, 20))
    with pytest.raises(ValueError, match="time goes on from row 19"):
        prequential(Regression(6, 3), stream, range(5, 20))


# Stopping and going on


def assert_same(one: OnlineResult, other: OnlineResult) -> None:
    for name in ("origins", "squared", "absolute", "forecasts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    assert one.traces.keys() == other.traces.keys()
    for name, values in one.traces.items():
        np.testing.assert_array_equal(values, other.traces[name], strict=True)


@pytest.mark.parametrize("stop", [0, 1, 17, 52])
def test_run_goes_on_from_its_state(stop: int, tmp_path: Path) -> None:
    values = noise(60, 2)

    def fresh(forecaster: Regression) -> Prequential:
        return Prequential(forecaster, Stream(values, lookback=6, horizon=3), range(5, 57), traced=0)

    forecaster = Regression(6, 3)
    whole = prequential(Regression(6, 3), Stream(values, lookback=6, horizon=3), range(5, 57), traced=0)
    run = fresh(forecaster)
    for _ in range(stop):
        run.step()
    state = run.state_dict()
    torch.save(state, tmp_path / "state.pt")
    resumed = fresh(copy.deepcopy(forecaster))
    for _ in range(min(5, 52 - stop)):
        run.step()  # the state is a copy
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.done == stop
    while not resumed.finished:
        resumed.step()
    assert_same(resumed.result(), whole)
    np.testing.assert_array_equal(resumed.result().update_ms[:stop], run.result().update_ms[:stop])


def test_state_of_other_origins_is_refused() -> None:
    stream = Stream(noise(60, 2), lookback=6, horizon=3)
    state = Prequential(Regression(6, 3), stream, range(5, 57)).state_dict()
    with pytest.raises(ValueError, match="state is of 52 origins from 5, got 51 from 6"):
        Prequential(Regression(6, 3), stream, range(6, 57)).load_state_dict(state)


def test_partial_result_counts_what_is_done() -> None:
    run = Prequential(Regression(6, 3), Stream(noise(60, 2), lookback=6, horizon=3), range(5, 57))
    assert np.isnan(run.result().mse)
    assert np.isnan(run.result().mae)
    run.step()
    run.step()
    assert run.result().origins.tolist() == [5, 6]
    assert run.result().mse == run.result().squared.mean()


def test_steps_are_reported_and_observations_traced() -> None:
    done: list[int] = []
    result = prequential(
        Regression(6, 3),
        Stream(noise(60, 2), lookback=6, horizon=3),
        range(5, 57),
        on_step=lambda run: done.append(run.done),
    )
    assert done == list(range(1, 53))
    assert result.traces["updates"].tolist() == [0, 0, 0, *range(1, 50)]
    assert result.forecasts is None


def test_trace_that_begins_late_has_gaps_before() -> None:
    class Late(Regression):
        def observe(self) -> dict[str, float]:
            return {"late": 1.0} if self.updates >= 2 else {}

    traces = prequential(Late(6, 3), Stream(noise(60, 2), lookback=6, horizon=3), range(5, 12)).traces
    np.testing.assert_array_equal(traces["late"], [np.nan] * 4 + [1.0] * 3)


@pytest.mark.parametrize("traced", [None, 1])
def test_result_comes_back_from_its_file(traced: int | None, tmp_path: Path) -> None:
    result = prequential(Regression(6, 3), Stream(noise(60, 2), lookback=6, horizon=3), range(5, 57), traced=traced)
    result.save(tmp_path / "result.npz")
    loaded = OnlineResult.load(tmp_path / "result.npz")
    assert_same(loaded, result)
    np.testing.assert_array_equal(loaded.update_ms, result.update_ms)
    np.testing.assert_array_equal(loaded.forecast_ms, result.forecast_ms)
    assert set(loaded.traces) == {"updates", "weight:norm"}
    assert (loaded.forecasts is None) == (traced is None)
    assert loaded.mse == result.mse


def test_protocol_is_checked_by_its_methods() -> None:
    assert isinstance(Regression(6, 3), OnlineForecaster)
    assert not isinstance(object(), OnlineForecaster)
