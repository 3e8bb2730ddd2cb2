"""What the figures of the suite `rlvr` are drawn from, and that they are drawn."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest

from corollary.benchmarks.rlvr.measured import measure
from corollary.benchmarks.rlvr.plan import Cell, RLVRPlan
from corollary.benchmarks.rlvr.plots import entropy_curves, plot
from corollary.runs import RunRecord, RunStore


def test_entropy_curves_are_means_over_seeds(cell: Cell, store: RunStore, records: dict[str, RunRecord]) -> None:
    curves = entropy_curves(cell, store)
    assert {name: set(curve) for name, curve in curves.items()} == {"grpo": {1.5}, "clip-higher": {2.0}}


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_figure_per_task(
    plan: RLVRPlan, cell: Cell, store: RunStore, put: Callable[..., RunRecord], tmp_path: Path, seeds: int
) -> None:
    object.__setattr__(cell, "seeds", cell.seeds[:seeds])  # one seed has no interval, and no error bars
    for seed in cell.seeds:
        put(cell.start, seed)
        put(cell.recipes["grpo"], seed)
    assert plot(plan, measure(plan, store, {}, {}), store, tmp_path) == ["digit-sum.png"]
    assert mpl.image.imread(tmp_path / "digit-sum.png").shape[:2] == (462, 1540)


def test_a_task_without_results_has_no_figure(plan: RLVRPlan, store: RunStore, tmp_path: Path) -> None:
    assert plot(plan, measure(plan, store, {}, {}), store, tmp_path) == []
