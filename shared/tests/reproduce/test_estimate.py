from dataclasses import dataclass
from typing import ClassVar

import pytest

from corollary.reproduce.estimate import Estimate
from corollary.runs import Progress, Recipe, Run


@dataclass(frozen=True)
class Short(Recipe):
    name: ClassVar[str] = "short"
    version: ClassVar[int] = 1


@dataclass(frozen=True)
class Long(Recipe):
    name: ClassVar[str] = "long"
    version: ClassVar[int] = 1


def test_nothing_known_gives_no_estimate() -> None:
    assert Estimate(2).remaining_s({Run(Short(), 0): None}, [Run(Short(), 1)]) is None


def test_known_runs_are_spread_over_the_workers() -> None:
    estimate = Estimate(2)
    estimate.learn(Run(Short(), 0), 10.0)
    estimate.learn(Run(Long(), 0), 30.0)
    waiting = [Run(Short(), 1), Run(Short(), 2), Run(Long(), 1), Run(Long(), 2)]
    assert estimate.remaining_s({}, waiting) == pytest.approx(40.0)


def test_last_run_is_not_shared() -> None:
    estimate = Estimate(4)
    estimate.learn(Run(Long(), 0), 30.0)
    half = Progress(done=1, total=2, seconds=15.0)
    assert estimate.remaining_s({Run(Long(), 1): half}, []) == pytest.approx(15.0)


def test_running_run_is_extrapolated_from_its_own_report() -> None:
    tenth = Progress(done=1, total=10, seconds=2.0)
    assert Estimate(1).remaining_s({Run(Short(), 0): tenth}, [Run(Short(), 1)]) == pytest.approx(38.0)


def test_early_report_says_nothing() -> None:
    assert Estimate(1).remaining_s({Run(Short(), 0): Progress(done=1, total=100, seconds=9.0)}, []) is None
