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
from corollary.rl.results import WINDOW
from corollary_steer.experiments import DOSES, dose_name
from corollary_steer.tables import TWO_FORMS, long_tailed_batch, one_step
from corollary_steer.weights import steer_weights

# Okabe and Ito's palette: distinguishable with the common colour blindnesses, and in grey by line style.
STYLES = {
    **{
        dose_name(dose): (f"lambda_min {dose:g}", colour, line)
        for dose, colour, line in zip(
            DOSES, ("#000000", "#56B4E9", "#0072B2", "#D55E00"), ("-", "-", "--", "-."), strict=True
        )
    },
    "steer": ("STEER, lambda_min 0.7", "#0072B2", "-"),
    "base": ("base: lambda_min 1", "#000000", "-"),
    "grpo": ("GRPO (0.2, 0.2)", "#E69F00", "--"),
    "entropy-bonus": ("entropy bonus", "#009E73", "-."),
    "clip-cov": ("Clip-Cov", "#CC79A7", ":"),
    "usual": ("base, usual clip", "#E69F00", "--"),
    "extreme": ("base, extreme clip", "#000000", "-"),
}
FORM_LABELS = {"released": "released form", "ratio": "ratio form", "exact": "exact form", "covariance": "covariance"}

Runs = Mapping[int, Mapping[str, Path]]
"""Seed, then name of the run, to its folder."""


def draw(inputs: PlotInputs) -> Sequence[Path]:
    """Draw every figure whose runs are there; a reproduction of some claims draws some figures."""
    figures: dict[str, Figure] = {}
    if "C3" in inputs.results:
        figures["predicted-and-measured"] = predicted_and_measured()
    if "tail" in inputs.results:
        figures["tail"] = tail_of_the_changes()
    if doses := inputs.runs.get("C7") or inputs.runs.get("C7-reward"):
        figures["doses"] = training_curves(doses, [dose_name(dose) for dose in DOSES])
    if extreme := inputs.runs.get("C8"):
        figures["extreme"] = training_curves(extreme, ("usual", "extreme", "steer"))
    if methods := inputs.runs.get("C9"):
        figures["methods"] = training_curves(methods, ("grpo", "entropy-bonus", "clip-cov", "base", "steer"))
    paths = []
    for name, figure in figures.items():
        figure.suptitle(f"{figure.get_suptitle()} (budget {inputs.budget})", fontsize=11)
        path = inputs.out / f"{name}.png"
        figure.savefig(path, dpi=130)
        paths.append(path)
    return paths


def training_curves(runs: Runs, names: Sequence[str]) -> Figure:
    """Entropy, reward, and entropy against reward, for each run."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    figure.suptitle(f"digit-sum: mean of {len(runs)} seed(s) with 95 % intervals")
    entropy, reward, trade = figure.subplots(1, 3)
    for name in names:
        label, colour, line = STYLES[name]
        curves = {}
        for axis, metric in ((entropy, "policy/entropy"), (reward, "reward/mean")):
            curves[metric] = smoothed(runs, name, metric)
            band(axis, curves[metric], label, colour, line)
        trade.plot(
            curves["reward/mean"].mean(axis="columns"),
            curves["policy/entropy"].mean(axis="columns"),
            color=colour,
            linestyle=line,
            label=label,
        )
    entropy.set(xlabel="rollout batch", ylabel="policy entropy [nats]")
    reward.set(xlabel="rollout batch", ylabel="training reward")
    trade.set(xlabel="training reward", ylabel="policy entropy [nats]", title="higher is better at equal reward")
    trade.title.set_fontsize(9)
    entropy.legend(frameon=False, fontsize=8)
    return tidy(figure)


def predicted_and_measured() -> Figure:
    """Each estimator against the true entropy change of a table's states (C3)."""
    changes = {name: value.numpy() for name, value in one_step(0).items()}
    truth = changes.pop("truth")
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    figure.suptitle("One GRPO step on a table of softmax policies: predicted and true entropy change of each state")
    for axis, (name, label) in zip(figure.subplots(1, 4, sharey=True), FORM_LABELS.items(), strict=True):
        axis.scatter(changes[name], truth, s=5, color="#0072B2", alpha=0.5)
        low, high = axis.get_xlim()
        axis.plot([low, high], [low, high], color="0.6", linewidth=0.8, zorder=0)
        axis.set_ylim(1.1 * truth.min(), 1.1 * truth.max())
        axis.set(xlabel="predicted [nats]", title=f"{label}: r = {np.corrcoef(changes[name], truth)[0, 1]:.2f}")
        axis.title.set_fontsize(9)
    figure.axes[0].set_ylabel("true change [nats]")
    return tidy(figure)


def tail_of_the_changes() -> Figure:
    """|Omega| over its maximum, and the weights, with a vocabulary of 512 (tail)."""
    batch = long_tailed_batch(0)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    figure.suptitle("A long-tailed vocabulary of 512: how many tokens are damped at all")
    weights, change = figure.subplots(1, 2)
    for form, colour, line in zip(TWO_FORMS, ("#000000", "#0072B2"), ("-", "--"), strict=True):
        w = np.sort(steer_weights(*batch.tokens, batch.mask, form=form).weights.numpy().ravel())
        share = np.arange(1, w.size + 1) / w.size
        weights.plot(w, share, color=colour, linestyle=line, label=FORM_LABELS[form])
        # w = lambda_min^(|Omega| / M) gives |Omega| / M back.
        change.plot(np.maximum(np.log(w) / np.log(0.7), 1e-6), share, color=colour, linestyle=line)
    weights.set(xlabel="weight (lambda_min 0.7)", ylabel="share of tokens with at most this weight")
    change.set(xlabel="|Omega| / max |Omega|", ylabel="share of tokens with at least this change", xscale="log")
    weights.legend(frameon=False, fontsize=8)
    return tidy(figure)


def smoothed(runs: Runs, name: str, metric: str) -> pd.DataFrame:
    """The metric of each seed, smoothed, one column a seed."""
    table = pd.DataFrame({seed: read_metrics(names[name])[metric] for seed, names in runs.items()})
    return table.rolling(WINDOW, min_periods=1).mean()


def band(axis: Axes, curves: pd.DataFrame, label: str, colour: str, line: str) -> None:
    """Mean over the columns, with its interval where there are at least two."""
    axis.plot(curves.index, curves.mean(axis="columns"), color=colour, linestyle=line, label=label)
    if curves.shape[1] > 1:
        bounds = [mean_interval(row) for row in curves.to_numpy()]
        axis.fill_between(
            curves.index, [b.low for b in bounds], [b.high for b in bounds], color=colour, alpha=0.15, linewidth=0
        )


def tidy(figure: Figure) -> Figure:
    """No box where no axis is."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure
