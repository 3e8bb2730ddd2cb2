"""What the figures are drawn from, and that they are drawn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch

from corollary.benchmarks.looks import looks_of
from corollary.benchmarks.online_forecasting.measured import measure
from corollary.benchmarks.online_forecasting.plan import Cell, OnlinePlan
from corollary.benchmarks.online_forecasting.plots import cumulative_difference, plot, strongest_drift
from corollary.forecasting import SYNTHETIC_SETTING
from corollary.runs import RunStore

mpl.use("Agg")


@pytest.mark.parametrize("jump", [2000, 3333])
def test_the_strongest_drift_is_the_largest_change_of_level_in_the_test_rows(jump: int) -> None:
    problem = SYNTHETIC_SETTING.problem(0)
    values = torch.zeros_like(problem.values)
    values[500:] += 100.0  # in the training rows, so nobody forecasts it
    values[jump:, -1] -= 3.0
    values[4000:, -1] += 1.0
    values[3000:, 0] += 50.0  # another variate
    assert strongest_drift(replace(problem, values=values), 48) == jump


def test_the_race_sums_differences_of_seed_means(make_result: Callable) -> None:
    results = {
        "gd": {0: make_result(1.0), 1: make_result(3.0)},
        "er": {0: make_result(1.0), 1: make_result(2.0)},
    }
    race = cumulative_difference(results, "gd")
    assert set(race) == {"er"}
    np.testing.assert_allclose(race["er"], -0.5 * np.arange(1, len(race["er"]) + 1))


def test_every_method_looks_different() -> None:
    looks = looks_of([f"method {i}" for i in range(20)])
    assert len({tuple(look.values()) for look in looks.values()}) == 20


@pytest.mark.parametrize(("drift_norm", "panels"), [(None, 2), (0.7, 3)])
def test_a_figure_per_setting(
    plan: OnlinePlan,
    cell: Cell,
    store: RunStore,
    put: Callable,
    make_result: Callable,
    tmp_path: Path,
    drift_norm: float | None,
    panels: int,
) -> None:
    for seed in cell.seeds:
        put(cell.recipes["gd"], seed, make_result(2.0))
        put(cell.recipes["er"], seed, make_result(1.0, drift_norm=drift_norm))
    content = measure(plan, store, {}, {})
    assert plot(plan, content, store, tmp_path) == ["switching-levels-linear-12.png"]
    height = mpl.image.imread(tmp_path / "switching-levels-linear-12.png").shape[0]
    assert height == pytest.approx(330 * {2: 2.2, 3: 2.9}[panels], abs=2)


def test_a_setting_without_results_has_no_figure(plan: OnlinePlan, store: RunStore, tmp_path: Path) -> None:
    assert plot(plan, measure(plan, store, {}, {}), store, tmp_path) == []
