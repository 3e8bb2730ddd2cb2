"""The figures of the reproduction, drawn from the runs that the claims used."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from corollary.papers import PlotInputs
from corollary.rl.curves import Runs, entropy_and_reward, save_figures, tidy
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
    return save_figures(figures, inputs)


def training_curves(runs: Runs, names: Sequence[str]) -> Figure:
    """Entropy, reward, and entropy against reward, for each of these runs."""
    return entropy_and_reward(runs, {name: STYLES[name] for name in names}, task="digit-sum")


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
