"""Measurements of the scaled claims: numbers from the logs of finished runs, one seed at a time."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from corollary.papers import Measurement
from corollary.rl import end_of, entropy_gain_at_equal_reward, held_out, read_metrics
from corollary_entropy_dynamics.experiments import CLIP_B_DOSES, SIGNS
from corollary_entropy_dynamics.network import read_tokens


def network_prediction(m: Measurement) -> dict[str, float]:
    """C3 in a network: predicted against measured change of single-token steps, and of whole training steps."""
    tokens = read_tokens(m.runs["steps"])
    training = read_metrics(m.runs["grpo"])
    measured = training["policy/entropy"].diff().iloc[1:].to_numpy()
    predicted = training["predicted/entropy_change"].iloc[:-1].to_numpy()
    return {
        "correlation": float(np.corrcoef(tokens["predicted"], tokens["measured"])[0, 1]),
        "sign_agreement": float((np.sign(tokens["predicted"]) == np.sign(tokens["measured"])).mean()),
        "training_correlation": float(np.corrcoef(predicted, measured)[0, 1]) if len(measured) > 1 else math.nan,
    }


def on_policy_mean(m: Measurement) -> dict[str, float]:
    """C5: the batch mean of D over all tokens of a run, and of the run with a temperature mismatch."""
    run, control = (deviation_of_run(m.runs[name]) for name in ("grpo", "control"))
    return {
        "z": abs(run["z"]),
        "share_of_discriminator": abs(run["deviation"]) / run["discriminator"],
        "control_z": control["z"],
    }


def deviation_of_run(directory: Path) -> dict[str, float]:
    """Token means of D and S over a run, and D's mean in standard errors."""
    log = read_metrics(directory)
    n = log["batch/tokens"]
    mean = float((n * log["deviation/mean"]).sum() / n.sum())
    second = float((n * (log["deviation/std"] ** 2 + log["deviation/mean"] ** 2)).sum() / n.sum())
    deviation = math.sqrt(second - mean**2)
    return {
        "deviation": mean,
        "discriminator": float((n * log["discriminator/mean"]).sum() / n.sum()),
        "z": mean / (deviation / math.sqrt(n.sum())),
    }


def masking(m: Measurement) -> dict[str, float]:
    """C6: entropy at the end minus entropy at the start of each masking run."""
    changes = {}
    for name in SIGNS:
        entropy = read_metrics(m.runs[name])["policy/entropy"]
        # The first value is the warm-started policy's own: it is measured before the first update.
        changes[name] = end_of(entropy) - float(entropy.iloc[0])
    return changes


def upper_clip(m: Measurement) -> dict[str, float]:
    """C7: who the tokens are that the upper clip holds back. NaN where it holds back none."""
    log = read_metrics(m.runs["grpo"])
    clipped = log["batch/tokens"] * log["clip/high"]
    free = log["batch/tokens"] * (1 - log["clip/high"] - log["clip/low"] - log["clip/dual"])
    old = weighted_mean(log["clip_high/old_prob"], clipped)
    return {
        "probability_gap": weighted_mean(log["unclipped/old_prob"], free) - old,
        "negative_deviation": weighted_mean(log["clip_high/negative_deviation"], clipped),
        "share": weighted_mean(log["clip/high"], log["batch/tokens"]),
        "old_probability": old,
    }


def weighted_mean(values: pd.Series, weights: pd.Series) -> float:
    """Mean with weights, over the entries of positive weight; NaN if there are none."""
    used = weights > 0
    return float((values[used] * weights[used]).sum() / weights[used].sum()) if used.any() else math.nan


def collapse(m: Measurement) -> dict[str, float]:
    """C8, entropy: each method against GRPO at the same step, and where both have the same reward."""
    logs = {name: read_metrics(path) for name, path in m.runs.items()}
    base = logs["grpo"]
    result = {}
    for name in ("clip-b", "clip-v", "clip-higher"):
        log = logs[name]
        result[f"{name}: entropy"] = end_of(log["policy/entropy"]) - end_of(base["policy/entropy"])
        result[f"{name}: reward"] = end_of(log["reward/mean"]) - end_of(base["reward/mean"])
        if name != "clip-higher":
            result[f"{name}: entropy at equal reward"] = entropy_gain_at_equal_reward(log, base)
            result[f"{name}: dropped"] = float(log["frac_clipped"].mean())
    return result


def accuracy(m: Measurement) -> dict[str, float]:
    """C8, accuracy: held-out Avg@64, Pass@8 and distinct correct answers, as differences to GRPO."""
    results = {name: held_out(path) for name, path in m.runs.items()}
    differences = {
        f"{name}: {metric}": results[name][metric] - results["grpo"][metric]
        for name in ("clip-b", "clip-v", "clip-higher")
        for metric in ("avg", "pass", "distinct")
    }
    return {**differences, "grpo: avg": results["grpo"]["avg"]}


def pass_rate_middle(m: Measurement) -> dict[str, float]:
    """C10: share of held-out prompts with a pass rate in (0.1, 0.9), as a difference to GRPO."""
    results = {name: held_out(m.runs[name])["middle"] for name in ("grpo", "clip-b")}
    return {"middle": results["clip-b"] - results["grpo"], "grpo": results["grpo"]}


def dose(m: Measurement) -> dict[str, float]:
    """C9 in training: the final entropy at each dose of Clip_B."""
    ends = {mu: end_of(read_metrics(m.runs[f"mu={mu}"])["policy/entropy"]) for mu in CLIP_B_DOSES}
    small, middle, large = CLIP_B_DOSES
    return {
        "small_minus_middle": ends[small] - ends[middle],
        "middle_minus_large": ends[middle] - ends[large],
        **{f"mu={mu}": value for mu, value in ends.items()},
    }
