import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from corollary.evaluation import mean_interval
from corollary.papers import Budget, PlotInputs
from corollary.rl.curves import band, entropy_and_reward, save_figures, smoothed


@pytest.fixture
def runs(tmp_path):
    found = {}
    for seed in (0, 1):
        found[seed] = {"grpo": tmp_path / str(seed)}
        found[seed]["grpo"].mkdir()
        rows = [{"policy/entropy": 2.0 - step - seed, "reward/mean": 0.1 * step} for step in range(4)]
        (found[seed]["grpo"] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def test_curves_are_running_means_one_column_a_seed(runs):
    table = smoothed(runs, "grpo", "policy/entropy", window=2)
    assert table[0].tolist() == [2.0, 1.5, 0.5, -0.5]
    assert table[1].tolist() == [1.0, 0.5, -0.5, -1.5]


def test_a_band_is_the_interval_over_the_columns_and_one_column_has_none():
    axis = Figure().subplots()
    curves = pd.DataFrame({0: [1.0, 2.0], 1: [2.0, 4.0], 2: [3.0, 9.0]})
    band(axis, curves, "x", "#000000")
    assert axis.lines[0].get_ydata().tolist() == [2.0, 5.0]
    bound = mean_interval(np.array([2.0, 4.0, 9.0]))
    corners = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert {corners.min(), corners.max()} >= {bound.low, bound.high}
    band(axis, curves[[0]], "y", "#000000")
    assert len(axis.collections) == 1


def test_figures_are_written_with_task_seeds_and_budget(runs, tmp_path):
    figure = entropy_and_reward(runs, {"grpo": ("GRPO", "#000000", "-")}, task="digit-sum")
    assert [len(axis.lines) for axis in figure.axes] == [1, 1, 1]
    inputs = PlotInputs(budget=Budget.QUICK, out=tmp_path, results={}, runs={})
    assert save_figures({"curves": figure}, inputs) == [tmp_path / "curves.png"]
    assert figure.get_suptitle() == "digit-sum: mean of 2 seeds with 95 % intervals (budget quick)"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
