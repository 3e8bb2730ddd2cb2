"""The figures of the reproduction, drawn from the runs that the claims used."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from corollary.evaluation import mean_interval
from corollary.papers import PlotInputs
from corollary.rl import read_metrics
from corollary_adora.bandit import KINDS, attenuation, enumerate_groups, mean_advantages
from corollary_adora.exact import INSTANCE
from corollary_adora.label_noise import difficulty_flip

# Okabe and Ito's palette: distinguishable with the common colour blindnesses, and in grey by line style.
STYLES = {
    "grpo": ("GRPO", "#000000", "-"),
    "code": ("ADORA, attenuation", "#0072B2", "-"),
    "paper": ("ADORA, amplification", "#D55E00", "-"),
    "random code": ("attenuation at random", "#56B4E9", "--"),
    "random paper": ("amplification at random", "#E69F00", "--"),
    "code normalised": ("attenuation, mean weight 1", "#0072B2", ":"),
    "paper normalised": ("amplification, mean weight 1", "#D55E00", ":"),
}
SMOOTHING = 5

Runs = Mapping[int, Mapping[str, Path]]
"""Seed, then name of the run, to its folder."""


def draw(inputs: PlotInputs) -> Sequence[Path]:
    """Draw every figure whose runs are there; a reproduction of some claims draws some figures."""
    figures: dict[str, Figure] = {}
    if "C5-length" in inputs.results:
        figures["mean-advantages"] = mean_advantage_bars()
    if "C8" in inputs.results:
        figures["label-noise"] = label_noise_curves()
    for claim in ("C2", "C1", "C3"):
        if "training" not in figures and (runs := inputs.runs.get(claim)):
            figures["training"] = training_curves(runs, ("grpo", "code", "paper"))
    if runs := inputs.runs.get("C4"):
        figures["controls"] = training_curves(runs, ("grpo", "code", "random code", "paper", "random paper"))
    if runs := inputs.runs.get("C6"):
        figures["normalised"] = training_curves(runs, ("grpo", "code", "code normalised", "paper", "paper normalised"))
    paths = []
    for name, figure in figures.items():
        figure.suptitle(f"{figure.get_suptitle()} (budget {inputs.budget})", fontsize=11)
        path = inputs.out / f"{name}.png"
        figure.savefig(path, dpi=130)
        paths.append(path)
    return paths


def training_curves(runs: Runs, names: Sequence[str]) -> Figure:
    """Length, reward, and the share of prompts with both right and wrong answers."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    figure.suptitle(f"parity: mean of {len(runs)} seed(s) with 95 % intervals")
    panels = (
        ("completion/length", "mean length [tokens]"),
        ("reward/mean", "training reward"),
        ("reward/mixed_groups", "prompts with a gradient"),
    )
    for axis, (metric, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            if all(name in folders for folders in runs.values()):
                table = pd.DataFrame({seed: read_metrics(folders[name])[metric] for seed, folders in runs.items()})
                band(axis, table.rolling(SMOOTHING, min_periods=1).mean(), *STYLES[name])
        axis.set(xlabel="rollout batch", ylabel=label)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return tidy(figure)


def mean_advantage_bars() -> Figure:
    """What a response of each kind gets on average, from GRPO and from attenuation."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    figure.suptitle("Mean advantage of a response, groups of 5")
    axis = figure.subplots()
    place = np.arange(len(KINDS))
    for shift, (weight, name) in zip((-0.2, 0.2), ((1.0, "grpo"), (0.1, "code")), strict=True):
        label, colour, _ = STYLES[name]
        values = mean_advantages(enumerate_groups(5, attenuation(weight)), INSTANCE)[0]
        axis.bar(place + shift, values.tolist(), width=0.36, color=colour, label=label)
    axis.axhline(0, color="0.6", linewidth=0.8)
    axis.set_xticks(place, [f"{kind}\np = {p:g}" for kind, p in zip(KINDS, INSTANCE[0].tolist(), strict=True)])
    axis.set(ylabel="advantage")
    axis.legend(frameon=False, fontsize=8)
    return tidy(figure)


def label_noise_curves() -> Figure:
    """How often the difficulty label flips, by success rate and size of the group."""
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    figure.suptitle("The difficulty label between two rollouts")
    axis = figure.subplots()
    rates = np.linspace(0, 1, 101)
    for size, colour in ((5, "#56B4E9"), (8, "#0072B2"), (16, "#D55E00"), (64, "#000000")):
        axis.plot(rates, [difficulty_flip(rate, size) for rate in rates], color=colour, label=f"group of {size}")
    axis.set(xlabel="success rate", ylabel="probability of a flip")
    axis.legend(frameon=False, fontsize=8)
    return tidy(figure)


def band(axis: Axes, curves: pd.DataFrame, label: str, colour: str, line: str) -> None:
    """Mean over the columns, with its interval where there are at least two."""
    axis.plot(curves.index, curves.mean(axis="columns"), color=colour, linestyle=line, label=label)
    if curves.shape[1] > 1:
        bounds = [mean_interval(row) for row in curves.to_numpy()]
        low, high = [b.low for b in bounds], [b.high for b in bounds]
        axis.fill_between(curves.index, low, high, color=colour, alpha=0.15, linewidth=0)


def tidy(figure: Figure) -> Figure:
    """No box where no axis is."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure
