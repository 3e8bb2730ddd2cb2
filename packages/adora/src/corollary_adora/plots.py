"""The figures of the reproduction, drawn from the runs that the claims used."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from corollary.papers import PlotInputs
from corollary.rl.curves import Runs, band, save_figures, smoothed, tidy
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
    return save_figures(figures, inputs)


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
                band(axis, smoothed(runs, name, metric, window=SMOOTHING), *STYLES[name])
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
