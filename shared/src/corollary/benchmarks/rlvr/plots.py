"""One figure per task: entropy along training, accuracy against entropy, and pass@k."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from corollary.benchmarks.looks import STYLES, TRUTH, finish, looks_of
from corollary.benchmarks.method_rows import Row, is_measured
from corollary.benchmarks.rlvr.budgets import START
from corollary.benchmarks.rlvr.measured import complete_runs, smoothed
from corollary.benchmarks.rlvr.plan import Cell, RLVRPlan
from corollary.benchmarks.rlvr.quantities import entropy_at, pass_at
from corollary.rl import read_metrics
from corollary.runs import RunStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = dict(zip(STYLES, ("o", "s", "^", "D"), strict=True))
Looks = Mapping[str, dict[str, Any]]


def plot(plan: RLVRPlan, content: Mapping[str, Any], store: RunStore, folder: Path) -> list[str]:
    """Draw every task that has a measured method; names of the files."""
    names = []
    for cell, task in zip(plan.cells, content["tasks"], strict=True):
        measured = {row["method"]: row for row in task["rows"] if is_measured(row)}
        if any(name in measured for name in cell.recipes):
            names.append(f"{cell.task}.png")
            _figure(cell, task, measured, plan.baseline, store, folder / names[-1])
    return names


def entropy_curves(cell: Cell, store: RunStore) -> dict[str, pd.Series]:
    """Entropy of each step, smoothed, mean over seeds, by method."""
    curves = {}
    for name, recipe in cell.recipes.items():
        folders = complete_runs(recipe, cell, store)
        if folders:
            logs = [smoothed(read_metrics(folder)["policy/entropy"]) for folder in folders]
            curves[name] = pd.concat(logs, axis="columns").mean(axis="columns")
    return curves


def _figure(
    cell: Cell, task: Mapping[str, Any], measured: Mapping[str, Row], baseline: str, store: RunStore, path: Path
) -> None:
    from matplotlib.figure import Figure

    # A method looks the same in all figures of a record; what the others are compared with is black, on top.
    looks: Looks = {
        **looks_of([name for name in cell.recipes if name != baseline]),
        baseline: {"color": TRUTH, "linestyle": "-", "zorder": 3},
        START: {"color": "0.5", "linestyle": ":"},
    }
    # Points have no line style, so the marker takes its place.
    markers = {name: MARKERS[look["linestyle"]] for name, look in looks.items()}
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    curve, trade, attempts = figure.subplots(1, 3)
    _entropy(curve, entropy_curves(cell, store), looks)
    _trade(trade, measured, looks, markers)
    _attempts(attempts, measured, task["attempts"], looks, markers)
    seeds = len(task["seeds"])
    figure.suptitle(f"{cell.task}: mean of {seeds} seed{'s' * (seeds != 1)}", fontsize=11)
    figure.savefig(path, dpi=110)


def _entropy(axes: "Axes", curves: Mapping[str, pd.Series], looks: Looks) -> None:
    for name, values in curves.items():
        axes.plot(values.index + 1, values, linewidth=1.4, **looks[name])
    axes.set(title="entropy along training", xlabel="rollout batch", ylabel="entropy [nats]")
    finish(axes, legend=False)


def _trade(axes: "Axes", measured: Mapping[str, Row], looks: Looks, markers: Mapping[str, str]) -> None:
    points = {}
    for name, row in measured.items():
        entropy, accuracy = row["mean"].get(entropy_at(1)), row["mean"][pass_at(1)]
        if entropy is not None:
            points[name] = (entropy["mean"], accuracy["mean"])
            axes.errorbar(
                *points[name],
                xerr=_errors(entropy),
                yerr=_errors(accuracy),
                fmt=markers[name],
                markersize=5,
                elinewidth=0.6,
                color=looks[name]["color"],
                zorder=looks[name].get("zorder", 2),
            )
    axes.set(title="accuracy against entropy, at the end", xlabel="entropy [nats]", ylabel="held-out pass@1")
    finish(axes, legend=False)
    # The points decide how far the axes reach; a wide interval may leave the frame.
    if points:
        axes.set_xlim(*_reach([x for x, _ in points.values()]))
        axes.set_ylim(*_reach([y for _, y in points.values()]))


def _attempts(
    axes: "Axes", measured: Mapping[str, Row], attempts: list[int], looks: Looks, markers: Mapping[str, str]
) -> None:
    for name, row in measured.items():
        values = [row["mean"][pass_at(k)]["mean"] for k in attempts]
        axes.plot(attempts, values, linewidth=1.2, marker=markers[name], markersize=4, label=name, **looks[name])
    axes.set_xscale("log", base=2)
    axes.set_xticks(attempts, [str(k) for k in attempts])
    axes.set(title="held-out pass@k", xlabel="k", ylabel="pass@k")
    finish(axes)


def _reach(values: list[float]) -> tuple[float, float]:
    margin = 0.25 * (max(values) - min(values)) or 0.05
    return min(values) - margin, max(values) + margin


def _errors(interval: Mapping[str, float | None]) -> list[list[float]] | None:
    """Lengths of the two arms, as matplotlib takes them; none with a single seed."""
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    return None if mean is None or low is None or high is None else [[mean - low], [high - mean]]
