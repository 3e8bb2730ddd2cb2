"""One figure per setting: forecasts around the strongest drift, the race over time, and the drift that methods see."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from corollary.benchmarks.looks import TRUTH, finish, looks_of
from corollary.benchmarks.online_forecasting.measured import complete_results
from corollary.benchmarks.online_forecasting.plan import Cell, OnlinePlan
from corollary.benchmarks.online_forecasting.rows import stem
from corollary.evaluation import OnlineResult
from corollary.forecasting import Problem
from corollary.runs import RunStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCES = ("persistence", "seasonal-naive", "frozen")
"""They learn nothing, and do not decide how far the axis of the race reaches."""
DRIFT_TRACE = "drift_norm"
SHOWN = 3
"""Forecasters beside the truth in the first panel."""

Errors = Mapping[str, NDArray[np.float64]]


def plot(plan: OnlinePlan, content: Mapping[str, Any], store: RunStore, folder: Path) -> list[str]:
    """Draw every setting that has a complete method; names of the files."""
    names = []
    for cell, setting in zip(plan.cells, content["settings"], strict=True):
        results = complete_results(cell, store)
        if results:
            names.append(f"{stem(setting)}.png")
            _figure(cell, results, plan.baseline, folder / names[-1])
    return names


def strongest_drift(problem: Problem, span: int) -> int:
    """The test row at which the level of the last variate changes most: mean of the next against the last `span` rows.

    Both spans lie in the test rows, or as far as these reach.
    """
    series = problem.values[: problem.split.test, problem.variates - 1].double().numpy()
    first, last = problem.split.validation, problem.split.test
    span = max(1, min(span, (last - first) // 2))
    totals = np.concatenate([[0.0], np.cumsum(series)])
    rows = np.arange(first + span, last - span + 1)
    after, before = totals[rows + span] - totals[rows], totals[rows] - totals[rows - span]
    return int(rows[np.abs(after - before).argmax()])


def cumulative_difference(results: Mapping[str, Mapping[int, OnlineResult]], baseline: str) -> dict[str, Any]:
    """Squared error summed over time minus that of the baseline, mean over seeds, by method: each (origins,)."""
    mean = {name: np.mean([result.squared for result in seeds.values()], axis=0) for name, seeds in results.items()}
    return {name: np.cumsum(values - mean[baseline]) for name, values in mean.items() if name != baseline}


def _figure(cell: Cell, results: Mapping[str, Mapping[int, OnlineResult]], baseline: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    # Methods that learn come first, with solid lines, and look the same in all figures of a record.
    looks = looks_of(sorted(cell.recipes, key=lambda name: name in REFERENCES))
    results = {name: results[name] for name in looks if name in results}
    seed = cell.seeds[0]
    traced = {
        name: seeds[seed].traces[DRIFT_TRACE] for name, seeds in results.items() if DRIFT_TRACE in seeds[seed].traces
    }
    race = baseline in results and len(results) > 1
    heights = [1.0] + [1.2] * race + [0.7] * bool(traced)
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(9, 3.0 * sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    try:
        panels = list(axes[:, 0])
        _forecasts(panels.pop(0), cell, results, baseline, looks)
        if race:
            _race(panels.pop(0), results, baseline, looks)
        if traced:
            _drift(panels.pop(0), results, traced, looks)
        figure.suptitle(f"{cell.setting.label}", fontsize=11)
        figure.savefig(path, dpi=110)
    finally:
        plt.close(figure)


def _forecasts(
    axes: "Axes",
    cell: Cell,
    results: Mapping[str, Mapping[int, OnlineResult]],
    baseline: str,
    looks: Mapping[str, dict[str, Any]],
) -> None:
    """The truth, and what was said of each row H steps before."""
    seed, horizon = cell.seeds[0], cell.setting.horizon
    problem = cell.setting.problem(seed)
    span = max(7 * problem.period, 4 * horizon)
    row = strongest_drift(problem, span)
    series = problem.values[:, problem.variates - 1].numpy()
    first, last = max(problem.split.validation, row - span), min(problem.split.test, row + span)
    axes.plot(range(first, last), series[first:last], color=TRUTH, linewidth=1.6, label="truth")
    for name in _chosen(results, baseline):
        result = results[name][seed]
        if result.forecasts is None:
            continue
        target = result.origins + horizon
        inside = (target >= first) & (target < last)
        axes.plot(target[inside], result.forecasts[inside, -1], linewidth=1.1, label=name, **looks[name])
    axes.axvline(row, color="0.6", linewidth=0.8, linestyle=":")
    variate = problem.variate_names[-1] if problem.variate_names else str(problem.variates - 1)
    axes.set(
        title=f"{variate}, forecast {horizon} steps ahead, around the strongest drift",
        ylabel="standardised",
        xlabel="row of the series",
    )
    finish(axes)


def _race(
    axes: "Axes",
    results: Mapping[str, Mapping[int, OnlineResult]],
    baseline: str,
    looks: Mapping[str, dict[str, Any]],
) -> None:
    races = cumulative_difference(results, baseline)
    origins = next(iter(results[baseline].values())).origins
    for name, values in races.items():
        axes.plot(origins, values, linewidth=1.4, label=name, **looks[name])
    axes.axhline(0.0, color=TRUTH, linewidth=1.0)
    deciding = [values for name, values in races.items() if name not in REFERENCES and np.isfinite(values).all()]
    if deciding:
        low, high = min(0.0, *(v.min() for v in deciding)), max(0.0, *(v.max() for v in deciding))
        margin = 0.06 * max(high - low, 1e-9)
        axes.set_ylim(low - margin, high + margin)
    axes.set(
        title=f"cumulative squared error minus that of {baseline} (down is better)",
        ylabel="difference",
        xlabel="row of the series",
    )
    finish(axes)


def _drift(
    axes: "Axes",
    results: Mapping[str, Mapping[int, OnlineResult]],
    traced: Mapping[str, NDArray[np.float64]],
    looks: Mapping[str, dict[str, Any]],
) -> None:
    for name, values in traced.items():
        origins = next(iter(results[name].values())).origins
        axes.plot(origins, values, linewidth=0.7, label=name, **looks[name])
    axes.set(title="norm of the drift that the method estimates", ylabel="norm", xlabel="row of the series")
    axes.set_ylim(bottom=0.0)
    finish(axes)


def _chosen(results: Mapping[str, Mapping[int, OnlineResult]], baseline: str) -> list[str]:
    """No update, the baseline, and the best of the others."""
    errors = {name: np.mean([result.mse for result in seeds.values()]) for name, seeds in results.items()}
    ranked = sorted((name for name in errors if np.isfinite(errors[name])), key=lambda name: errors[name])
    wished = [name for name in ("frozen", baseline) if name in ranked]
    return [*wished, *(name for name in ranked if name not in wished)][:SHOWN]
