"""The figures of the reproduction, drawn from the runs that the claims used."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from corollary.papers import PlotInputs
from corollary.rl import read_metrics
from corollary.rl.curves import Runs, band, entropy_and_reward, save_figures, tidy
from corollary_entropy_dynamics.exact import finite_step
from corollary_entropy_dynamics.experiments import CLIP_B_DOSES, CLIP_V, SIGNS
from corollary_entropy_dynamics.network import read_tokens

# Okabe and Ito's palette: distinguishable with the common colour blindnesses, and in grey by line style.
STYLES = {
    "grpo": ("GRPO", "#000000", "-"),
    "clip-higher": ("clip-higher", "#E69F00", "--"),
    "clip-b": (f"Clip_B, mu {CLIP_B_DOSES[-1]:g}", "#0072B2", "-"),
    "clip-v": (f"Clip_V, mu {CLIP_V['mu']:g}, no cap", "#009E73", "-."),
    **{
        f"mu={mu}": (f"Clip_B, mu {mu:g}", colour, line)
        for mu, colour, line in zip(CLIP_B_DOSES, ("#56B4E9", "#0072B2", "#0072B2"), ("-", "--", "-"), strict=True)
    },
    "A>0, D>0": ("A > 0, D > 0: predicted down", "#D55E00", "-"),
    "A>0, D<0": ("A > 0, D < 0: predicted up", "#0072B2", "-"),
    "A<0, D>0": ("A < 0, D > 0: predicted up", "#56B4E9", "--"),
    "A<0, D<0": ("A < 0, D < 0: predicted down", "#E69F00", "--"),
}


def draw(inputs: PlotInputs) -> Sequence[Path]:
    """Draw every figure whose runs are there; a reproduction of some claims draws some figures."""
    figures: dict[str, Figure] = {}
    if "C3" in inputs.results or "C3-network" in inputs.runs:
        figures["predicted-and-measured"] = predicted_and_measured(inputs.runs.get("C3-network", {}))
    if masking := inputs.runs.get("C6"):
        figures["masking"] = masking_runs(masking)
    if methods := inputs.runs.get("C8-entropy") or inputs.runs.get("C8-accuracy") or inputs.runs.get("C10"):
        figures["methods"] = training_curves(methods, ("grpo", "clip-higher", "clip-b", "clip-v"))
    if doses := inputs.runs.get("C9-training"):
        figures["doses"] = training_curves(doses, [f"mu={mu}" for mu in CLIP_B_DOSES])
    return save_figures(figures, inputs)


def training_curves(runs: Runs, names: Sequence[str]) -> Figure:
    """Entropy, reward, and entropy against reward, for each of these runs."""
    return entropy_and_reward(runs, {name: STYLES[name] for name in names}, task="digit-sum-running")


def masking_runs(runs: Runs) -> Figure:
    """Entropy of the four interventions."""
    figure = Figure(figsize=(6.2, 4), layout="constrained")
    figure.suptitle(f"Which tokens keep their gradient: {len(runs)} seeds, 95 % intervals")
    axis = figure.subplots()
    for name in SIGNS:
        curve = pd.DataFrame({seed: read_metrics(names[name])["policy/entropy"] for seed, names in runs.items()})
        band(axis, curve, *STYLES[name])
    axis.set(xlabel="rollout batch", ylabel="policy entropy [nats]")
    axis.legend(frameon=False, fontsize=8)
    return tidy(figure)


def predicted_and_measured(runs: Runs) -> Figure:
    """Theorem 3.3 for steps of the logits, and, if the runs are there, for steps of a network."""
    figure = Figure(figsize=(12 if runs else 4.2, 4), layout="constrained")
    figure.suptitle("Predicted and measured entropy change")
    axes = np.atleast_1d(figure.subplots(1, 3 if runs else 1))
    for alpha, colour in ((1.0, "#E69F00"), (0.1, "#0072B2"), (0.01, "#000000")):
        predicted, measured = finite_step(alpha, seed=0, count=400)
        axes[0].scatter(predicted / alpha, measured / alpha, s=5, color=colour, alpha=0.6, label=f"alpha = {alpha:g}")
    diagonal(axes[0])
    axes[0].set(xlabel="predicted dH / alpha [nats]", ylabel="measured dH / alpha [nats]", title="steps of the logits")
    axes[0].legend(frameon=False, fontsize=8)
    if runs:
        seed, names = next(iter(runs.items()))
        tokens = read_tokens(names["steps"])
        axes[1].scatter(tokens["predicted"], tokens["measured"], s=8, color="#0072B2", alpha=0.6)
        axes[1].axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes[1].axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axes[1].set(
            xlabel="predicted: -D [nats per unit of logit step]",
            ylabel="measured dH [nats]",
            title=f"single-token SGD steps of the network (seed {seed})",
        )
        log = read_metrics(names["grpo"])
        axes[2].scatter(
            log["predicted/entropy_change"].iloc[:-1],
            log["policy/entropy"].diff().iloc[1:],
            s=8,
            color="#009E73",
            alpha=0.6,
        )
        axes[2].set(
            xlabel="predicted: batch mean of -A D",
            ylabel="change of batch entropy [nats]",
            title=f"GRPO training steps, AdamW (seed {seed})",
        )
    for axis in axes:
        axis.title.set_fontsize(9)
    return tidy(figure)


def diagonal(axis: Axes) -> None:
    """The line on which prediction and measurement agree."""
    low, high = axis.get_xlim()
    axis.plot([low, high], [low, high], color="0.6", linewidth=0.8, zorder=0)
