"""Figures of training runs: what the papers of the GRPO family draw alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from corollary.evaluation import mean_interval
from corollary.papers import PlotInputs
from corollary.rl.results import WINDOW
from corollary.rl.rlvr import read_metrics

Runs = Mapping[int, Mapping[str, Path]]
"""Seed, then name of the run, to its folder."""

Style = tuple[str, str, str]
"""Label, colour and line style of a run."""


def smoothed(runs: Runs, name: str, metric: str, *, window: int = WINDOW) -> pd.DataFrame:
    """The metric of each seed, a running mean over ``window`` steps, one column a seed."""
    table = pd.DataFrame({seed: read_metrics(folders[name])[metric] for seed, folders in runs.items()})
    return table.rolling(window, min_periods=1).mean()


def band(axis: Axes, curves: pd.DataFrame, label: str | None, colour: str, line: str = "-") -> None:
    """Mean over the columns, with its 95 % interval where there are at least two."""
    axis.plot(curves.index, curves.mean(axis="columns"), color=colour, linestyle=line, label=label)
    if curves.shape[1] > 1:
        bounds = [mean_interval(row) for row in curves.to_numpy()]
        low, high = [b.low for b in bounds], [b.high for b in bounds]
        axis.fill_between(curves.index, low, high, color=colour, alpha=0.15, linewidth=0)


def entropy_and_reward(runs: Runs, styles: Mapping[str, Style], *, task: str) -> Figure:
    """Entropy, reward, and entropy against reward, for each run that ``styles`` names."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    figure.suptitle(f"{task}: mean of {len(runs)} seed{'s' * (len(runs) != 1)} with 95 % intervals")
    entropy, reward, trade = figure.subplots(1, 3)
    for name, (label, colour, line) in styles.items():
        curves = {metric: smoothed(runs, name, metric) for metric in ("policy/entropy", "reward/mean")}
        band(entropy, curves["policy/entropy"], label, colour, line)
        band(reward, curves["reward/mean"], label, colour, line)
        means = [curves[metric].mean(axis="columns") for metric in ("reward/mean", "policy/entropy")]
        trade.plot(*means, color=colour, linestyle=line, label=label)
    entropy.set(xlabel="rollout batch", ylabel="policy entropy [nats]")
    reward.set(xlabel="rollout batch", ylabel="training reward")
    trade.set(xlabel="training reward", ylabel="policy entropy [nats]", title="higher is better at equal reward")
    trade.title.set_fontsize(9)
    entropy.legend(frameon=False, fontsize=8)
    return tidy(figure)


def tidy(figure: Figure) -> Figure:
    """No box where no axis is."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def save_figures(figures: Mapping[str, Figure], inputs: PlotInputs) -> Sequence[Path]:
    """Write each figure as ``<name>.png`` where the reproduction wants it, with the budget in its title."""
    paths = []
    for name, figure in figures.items():
        figure.suptitle(f"{figure.get_suptitle()} (budget {inputs.budget})", fontsize=11)
        path = inputs.out / f"{name}.png"
        figure.savefig(path, dpi=130)
        paths.append(path)
    return paths
