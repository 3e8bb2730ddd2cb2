"""What every registered online method must keep: no look ahead, and a state that a run can be gone on with."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from corollary.evaluation import LeakageError, LeakageWarning, OnlineForecaster, Stream, prequential
from corollary.forecasting import (
    BACKBONES,
    FitConfig,
    OnlineMethod,
    Problem,
    Setting,
    Split,
    experiment,
    method_class,
    method_names,
    prepare_online,
    restore_streaming_state,
    streaming_state,
)
from corollary.forecasting.problem import calendar
from corollary.runs import RunStore, load_checkpoint, save_checkpoint

ROWS, VARIATES, PERIOD = 220, 3, 12
SPLIT = Split(150, 170, ROWS)
BORDER = SPLIT.validation - 1  # the first test origin
STEPS = 20
POISON = 1e6

CASES = [(name, name if name in BACKBONES else "nlinear") for name in method_names()]
# Once more with dropout and covariates, and with batch normalisation.
CASES += [("gd", "tcn"), ("solid++", "tcn"), ("er", "patchtst"), ("solid", "patchtst")]


def tiny_problem(name: str, *, lookback: int, horizon: int, seed: int, with_calendar: bool) -> Problem:
    """A season, a slow change of level, and noise; stands in for the registered data sets."""
    time = torch.arange(ROWS, dtype=torch.float64)[:, None]
    shifts = torch.arange(VARIATES, dtype=torch.float64)
    noise = torch.randn(ROWS, VARIATES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = torch.sin(2 * math.pi * (time / PERIOD) + shifts) + torch.cos(time / 70) + 0.3 * noise
    if with_calendar:
        times = pd.date_range("2024-01-01", periods=ROWS, freq="h")
        values = torch.cat([values, torch.from_numpy(calendar(times))], 1)
    return Problem(
        name=name,
        values=values.float(),
        variates=VARIATES,
        split=SPLIT,
        lookback=lookback,
        horizon=horizon,
        period=PERIOD,
    )


@dataclass(frozen=True)
class Case:
    """A method with the preset of its setting, and a store with what it requires."""

    method: OnlineMethod
    setting: Setting
    store: RunStore

    @property
    def problem(self) -> Problem:
        return self.setting.problem(0)

    def build(self, problem: Problem) -> OnlineForecaster:
        torch.manual_seed(0)
        return self.method.build(problem, self.setting, 0, self.store)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunStore]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "make_problem", tiny_problem)
        yield RunStore(tmp_path_factory.mktemp("runs"))


def make_case(name: str, backbone: str, store: RunStore) -> Case:
    fit = FitConfig(rate=3e-3, epochs=2, patience=None, decay=1.0)
    setting = Setting(data="tiny-stream", backbone=backbone, lookback=24, horizon=4, fit=fit)
    method = method_class(name).preset(setting)
    for run in method.requires(setting, 0):
        store.execute(run)
    return Case(method, setting, store)


@pytest.fixture(params=CASES, ids=[f"{name}-on-{backbone}" for name, backbone in CASES])
def case(request: pytest.FixtureRequest, store: RunStore) -> Case:
    return make_case(*request.param, store)


@pytest.fixture
def gd(store: RunStore) -> Case:
    return make_case("gd", "nlinear", store)


class Recorder:
    """Passes everything on, and keeps the forecasts."""

    def __init__(self, forecaster: OnlineForecaster) -> None:
        self.forecaster = forecaster
        self.forecasts: list[Tensor] = []

    def update(self, x: Tensor, y: Tensor) -> None:
        self.forecaster.update(x, y)

    def predict(self, x: Tensor) -> Tensor:
        forecast = self.forecaster.predict(x)
        self.forecasts.append(forecast.clone())
        return forecast


def walk(forecaster: OnlineForecaster, stream: Stream, first: int, count: int) -> Tensor:
    """Forecasts of ``count`` origins from the first on, (count, H, N)."""
    recorder = Recorder(forecaster)
    prequential(recorder, stream, range(first, first + count))
    return torch.stack(recorder.forecasts)


def online(case: Case, problem: Problem, *, leaky: bool = False) -> Tensor:
    """Forecasts from the first test origin on, after the walk through the validation rows."""
    forecaster = case.build(problem)
    prepare_online(forecaster, problem, problem.leaky_stream() if leaky else problem.stream())
    return walk(forecaster, problem.leaky_stream() if leaky else problem.stream(), BORDER, STEPS)


def poisoned(problem: Problem, after: int) -> Problem:
    """The problem with every later value replaced: for building, preparing and the stream."""
    values = problem.values.clone()
    values[after + 1 :] = POISON
    return replace(problem, values=values)


def test_forecasts_do_not_depend_on_later_values(case: Case) -> None:
    clean = online(case, case.problem)
    for seen in (
        0,
        STEPS // 2 - 2,
    ):  # up to the first test origin: also nothing of the test rows before the online phase
        other = online(case, poisoned(case.problem, BORDER + seen))
        assert torch.equal(other[: seen + 1], clean[: seen + 1])
        assert not torch.equal(other[seen + 1 :], clean[seen + 1 :])  # the poison is there


@pytest.mark.filterwarnings("ignore::corollary.evaluation.LeakageWarning")
def test_the_poison_shows_under_the_leaky_protocol(gd: Case) -> None:
    seen = STEPS - 2
    clean = online(gd, gd.problem, leaky=True)
    other = online(gd, poisoned(gd.problem, BORDER + seen), leaky=True)
    changed = [bool((a != b).any()) for a, b in zip(clean[: seen + 1], other[: seen + 1], strict=True)]
    first = seen + 2 - gd.problem.horizon  # at t the label of t - 1 reaches t + H - 1: beyond the poison H - 2 steps on
    assert changed == [step >= first for step in range(seen + 1)]


def test_the_leaky_protocol_warns(gd: Case) -> None:
    with pytest.warns(LeakageWarning):
        gd.problem.leaky_stream()


class WatchedStream(Stream):
    """Writes down every origin whose label was given out."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.values, lookback=problem.lookback, horizon=problem.horizon, variates=problem.variates)
        self.asked: list[int] = []

    def pair(self, origin: int) -> tuple[Tensor, Tensor]:
        pair = super().pair(origin)
        self.asked.append(origin)
        return pair


def labels_given_in_preparation(forecaster: OnlineForecaster, problem: Problem) -> list[int]:
    """Last row of each label, after a check that the clock was left alone."""
    stream = WatchedStream(problem)
    prepare_online(forecaster, problem, stream)
    assert stream.now in (-1, BORDER), f"preparation moved the clock to {stream.now}"
    return [origin + problem.horizon for origin in stream.asked]


def test_preparation_is_given_no_label_that_ends_in_the_test_rows(case: Case) -> None:
    ends = labels_given_in_preparation(case.build(case.problem), case.problem)
    assert all(end <= BORDER for end in ends)


def test_gradient_descent_prepares_with_every_validation_pair(gd: Case) -> None:
    ends = labels_given_in_preparation(gd.build(gd.problem), gd.problem)
    assert ends == list(gd.problem.preparation_origins)


def test_a_preparation_that_looks_ahead_is_caught(gd: Case) -> None:
    class Curious:
        def __init__(self, forward: int) -> None:
            self.forward = forward

        def update(self, x: Tensor, y: Tensor) -> None: ...

        def predict(self, x: Tensor) -> Tensor:
            return x[-4:]

        def prepare(self, stream: Stream, origins: range) -> None:
            stream.advance(stream.now + self.forward)
            stream.pair(origins[-1])

    with pytest.raises(LeakageError):
        labels_given_in_preparation(Curious(0), gd.problem)
    with pytest.raises(AssertionError, match="moved the clock"):
        labels_given_in_preparation(Curious(4), gd.problem)


def interrupted(case: Case, path: Path, *, restore: bool = True) -> Tensor:
    """The second half of the run, by another forecaster, which takes over the state of the first."""
    problem, half = case.problem, STEPS // 2
    first = case.build(problem)
    prepare_online(first, problem)
    walk(first, problem.stream(), BORDER, half)
    save_checkpoint(path, streaming_state(first))
    second = case.build(problem)
    torch.manual_seed(99)  # what dropout would draw without the state
    state: dict[str, Any] = load_checkpoint(path)
    if restore:
        restore_streaming_state(second, state)
    return walk(second, problem.stream(), BORDER + half, STEPS - half)


def test_a_restored_forecaster_goes_on_bit_identically(case: Case, tmp_path: Path) -> None:
    whole = online(case, case.problem)
    assert torch.equal(interrupted(case, tmp_path / "state.pt"), whole[STEPS // 2 :])


def test_without_the_state_the_forecasts_differ(gd: Case, tmp_path: Path) -> None:
    whole = online(gd, gd.problem)
    assert not torch.equal(interrupted(gd, tmp_path / "state.pt", restore=False), whole[STEPS // 2 :])
