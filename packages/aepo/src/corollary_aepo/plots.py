"""The figures of the reproduction, drawn from the runs that the claims used."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from corollary.papers import PlotInputs
from corollary.rl.curves import Runs, band, save_figures, smoothed, tidy
from corollary.rl.rlvr import read_metrics
from corollary_aepo.experiments import (
    ABLATIONS,
    COEFFICIENTS,
    CONTROLLED,
    NETWORK_TARGETS,
    TABLE_TARGETS,
)
from corollary_aepo.scaled import ENTROPY, end_of, held_out

# Okabe and Ito's palette: distinguishable with the common colour blindnesses.
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00")
GREY = "#555555"


def draw(inputs: PlotInputs) -> Sequence[Path]:
    """Draw every figure whose runs are there; a reproduction of some claims draws some figures."""
    figures: dict[str, Figure] = {}
    tables = {
        name: inputs.runs[claim]
        for name, claim in (("reward", "C2"), ("advantage", "C2-released"))
        if inputs.runs.get(claim)
    }
    if tables:
        figures["control"] = control(tables)
    network = next((inputs.runs[claim] for claim in ("C2-network", "C3", "C4", "C5") if inputs.runs.get(claim)), None)
    if network:
        figures["transformer"] = transformer(network)
    if bonus := inputs.runs.get("C6"):
        figures["entropy-bonus"] = entropy_bonus(bonus)
    if parts := inputs.runs.get("C9"):
        figures["ablations"] = ablations(parts)
    return save_figures(figures, inputs)


def control(tables: Mapping[str, Runs]) -> Figure:
    """Entropy of the fully observed table at each target, one panel for each rule of selection."""
    figure = Figure(figsize=(5.4 * len(tables), 4), layout="constrained")
    figure.suptitle("AEPO on a table, targets dotted: mean of seeds with 95 % intervals")
    titles = {"reward": "every correct sample", "advantage": "advantage above 0.05 (released code)"}
    for axis, (name, runs) in zip(np.atleast_1d(figure.subplots(1, len(tables))), tables.items(), strict=True):
        targets(axis, runs, TABLE_TARGETS)
        axis.set(xlabel="rollout batch", ylabel="policy entropy [nats]", title=titles[name])
        axis.title.set_fontsize(9)
    return tidy(figure)


def transformer(runs: Runs) -> Figure:
    """Entropy and reward of the transformer, and pass@k over the target."""
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    figure.suptitle(f"AEPO on a transformer, targets dotted: mean of {len(runs)} seeds with 95 % intervals")
    entropy, reward, score = figure.subplots(1, 3)
    targets(entropy, runs, NETWORK_TARGETS)
    entropy.set(xlabel="rollout batch", ylabel="policy entropy [nats]")
    for name, label, colour in names(NETWORK_TARGETS):
        band(reward, smoothed(runs, name, "reward/mean"), label, colour)
    reward.set(xlabel="rollout batch", ylabel="training reward")
    for metric, colour in (("pass@1", COLOURS[0]), ("pass@64", COLOURS[4])):
        points = pd.DataFrame(
            {seed: [held_out(paths[f"H={t:g}"])[metric] for t in NETWORK_TARGETS] for seed, paths in runs.items()},
            index=NETWORK_TARGETS,
        )
        band(score, points, f"AEPO, {metric}", colour)
        for name, line in (("grpo", "--"), ("base", ":")):
            level = np.mean([held_out(paths[name])[metric] for paths in runs.values()])
            score.axhline(level, color=colour, linestyle=line, linewidth=1)
    score.set(xlabel="target entropy [nats]", ylabel="held-out pass@k", title="dashed: GRPO; dotted: base")
    score.title.set_fontsize(9)
    score.legend(frameon=False, fontsize=8)
    return tidy(figure)


def entropy_bonus(runs: Runs) -> Figure:
    """Final entropy against final reward, one point a seed."""
    figure = Figure(figsize=(5.6, 4), layout="constrained")
    figure.suptitle("AEPO and an entropy bonus")
    axis = figure.subplots()
    arms = [(f"H={t:g}", "o", f"AEPO, H = {t:g}") for t in CONTROLLED]
    arms += [(f"bonus {c:g}", "^", f"bonus {c:g}") for c in COEFFICIENTS]
    for (name, marker, label), colour in zip(arms, (*COLOURS, GREY), strict=True):
        logs = [read_metrics(paths[name]) for paths in runs.values()]
        axis.scatter(
            [end_of(log[ENTROPY]) for log in logs],
            [end_of(log["reward/mean"]) for log in logs],
            marker=marker,
            color=colour,
            label=label,
            s=24,
        )
    for target in CONTROLLED:
        axis.axvline(target, color="0.7", linestyle=":", linewidth=1)
    axis.set(xlabel="final policy entropy [nats]", ylabel="final training reward")
    axis.legend(frameon=False, fontsize=8)
    return tidy(figure)


def ablations(runs: Runs) -> Figure:
    """Entropy at the lowest and the highest target, whole and without each part."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    figure.suptitle("AEPO on a table without its parts; solid: highest target, dashed: lowest")
    axis = figure.subplots()
    low, high = TABLE_TARGETS[0], TABLE_TARGETS[-1]
    for part, colour in zip(("whole", *ABLATIONS), COLOURS, strict=False):
        for target, line in ((high, "-"), (low, "--")):
            label = ("AEPO" if part == "whole" else f"without {part}") if target == high else None
            band(axis, smoothed(runs, f"{part}, H={target:g}", ENTROPY), label, colour, line)
    for target in (low, high):
        axis.axhline(target, color="0.7", linestyle=":", linewidth=1)
    axis.set(xlabel="rollout batch", ylabel="policy entropy [nats]")
    axis.legend(frameon=False, fontsize=8)
    return tidy(figure)


def names(grid: Sequence[float]) -> list[tuple[str, str, str]]:
    """Name, label and colour of GRPO and of each target."""
    return [
        ("grpo", "GRPO", GREY),
        *((f"H={t:g}", f"H = {t:g}", colour) for t, colour in zip(grid, COLOURS, strict=False)),
    ]


def targets(axis: Axes, runs: Runs, grid: Sequence[float]) -> None:
    """Entropy curves of GRPO and of each target, with the targets as lines."""
    for name, label, colour in names(grid):
        band(axis, smoothed(runs, name, ENTROPY), label, colour, "--" if name == "grpo" else "-")
    for target, colour in zip(grid, COLOURS, strict=False):
        axis.axhline(target, color=colour, linestyle=":", linewidth=1)
    axis.legend(frameon=False, fontsize=8)
