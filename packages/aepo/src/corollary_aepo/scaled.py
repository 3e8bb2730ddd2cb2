"""Measurements of the scaled claims: numbers from the logs of finished runs, one seed at a time."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from corollary.evaluation import pass_at_k
from corollary.papers import Measurement
from corollary.rl.rlvr import read_evaluation, read_metrics
from corollary_aepo.experiments import (
    ABLATIONS,
    COEFFICIENTS,
    CONTROLLED,
    DOSE_TARGET,
    NETWORK_TARGETS,
    SHARE,
    SMALLER_SHARES,
    TABLE_TARGETS,
)

ENTROPY = "policy/entropy"
"""Analytic, on-policy: what is judged, whatever the controller read."""

SMOOTHING = 25
"""Steps of the blocks between which C1 looks for a rise."""

MATCHED = 0.02
"""Accuracies this close count as matched (C3, C6)."""


def last_quarter(curve: pd.Series) -> pd.Series:
    """The last quarter of a run, at least one step."""
    return curve.iloc[-max(1, len(curve) // 4) :]


def end_of(curve: pd.Series) -> float:
    """Mean of the last quarter."""
    return float(last_quarter(curve).mean())


def slope(curve: pd.Series) -> float:
    """Least-squares slope of the last quarter, per 100 steps; 0 for a single step."""
    end = last_quarter(curve).to_numpy()
    return float(100 * np.polyfit(np.arange(len(end)), end, 1)[0]) if len(end) > 1 else 0.0


def collapse(m: Measurement) -> dict[str, float]:
    """C1: how far GRPO's entropy falls, and the largest rise on the way."""
    log = read_metrics(m.runs["grpo"])
    curve = log[ENTROPY]
    size = min(SMOOTHING, max(1, len(curve) // 2))
    blocks = curve.groupby(np.arange(len(curve)) // size).mean()
    return {
        # The first value is the starting policy's own: it is measured before the first update.
        "left": end_of(curve) / float(curve.iloc[0]),
        "rise": float(blocks.diff().max()),
        "start": float(curve.iloc[0]),
        "end": end_of(curve),
        "reward": end_of(log["reward/mean"]),
    }


def table_control(m: Measurement) -> dict[str, float]:
    """C2 and C2-released: the fully observed table."""
    return _control(m, TABLE_TARGETS)


def network_control(m: Measurement) -> dict[str, float]:
    """C2-network: the transformer."""
    return _control(m, CONTROLLED)


def _control(m: Measurement, targets: Sequence[float]) -> dict[str, float]:
    logs = {target: read_metrics(m.runs[f"H={target:g}"]) for target in targets}
    ends = {target: end_of(log[ENTROPY]) for target, log in logs.items()}
    values = {}
    for target, log in logs.items():
        values[f"error {target:g}"] = abs(ends[target] / target - 1)
        values[f"drift {target:g}"] = abs(slope(log[ENTROPY])) / target
        values[f"end {target:g}"] = ends[target]
    for low, high in pairwise(targets):
        values[f"order {low:g}"] = ends[high] - ends[low]
    values["reward"] = min(end_of(log["reward/mean"]) for log in logs.values())
    values["num_reinforce"] = float(np.mean([end_of(log["aepo/num_reinforce"]) for log in logs.values()]))
    grpo = read_metrics(m.runs["grpo"])
    return {**values, "grpo": end_of(grpo[ENTROPY]), "grpo reward": end_of(grpo["reward/mean"])}


def share(m: Measurement) -> dict[str, float]:
    """C2-share: the control error at smaller shares of REINFORCE samples."""
    return {
        f"m={value:.3f}": abs(end_of(read_metrics(m.runs[f"m={value:.3f}"])[ENTROPY]) / DOSE_TARGET - 1)
        for value in (*SMALLER_SHARES, SHARE)
    }


def memory(m: Measurement) -> dict[str, float]:
    """C2-memory: what is left of the entropy of the policy that has to be repetitive."""
    values = {}
    for name in ("grpo", "released", "hotter"):
        log = read_metrics(m.runs[name])
        values[f"{name}: left"] = end_of(log[ENTROPY]) / float(log[ENTROPY].iloc[0])
        values[f"{name}: reward"] = end_of(log["reward/mean"])
    return values


def ablations(m: Measurement) -> dict[str, float]:
    """C9: how far the final entropy follows the target, from the lowest target to the highest."""
    low, high = TABLE_TARGETS[0], TABLE_TARGETS[-1]
    spans = {
        part: end_of(read_metrics(m.runs[f"{part}, H={high:g}"])[ENTROPY])
        - end_of(read_metrics(m.runs[f"{part}, H={low:g}"])[ENTROPY])
        for part in ("whole", *ABLATIONS)
    }
    return {
        **{f"without {part}": spans["whole"] - spans[part] for part in ABLATIONS},
        **{f"span: {part}": span for part, span in spans.items()},
    }


def held_out(directory: Path) -> dict[str, float]:
    """pass@1, pass@64, pass@256 and distinct correct answers over the held-out prompts."""
    table = read_evaluation(directory)
    n, c = table["samples"].to_numpy(), table["correct"].to_numpy()
    return {
        "pass@1": float((c / n).mean()),
        **{f"pass@{k}": float(np.mean(pass_at_k(n, c, min(k, int(n.min()))))) for k in (64, 256)},
        "distinct": float(table["distinct"].mean()),
    }


def best_target(m: Measurement) -> float:
    """The target with the highest final training reward: chosen without a look at the held-out prompts."""
    rewards = {target: end_of(read_metrics(m.runs[f"H={target:g}"])["reward/mean"]) for target in NETWORK_TARGETS}
    return max(rewards, key=lambda target: rewards[target])


def no_cost(m: Measurement) -> dict[str, float]:
    """C3: held-out accuracy and pass@64 of AEPO at its best target, against GRPO and the base policy."""
    best = best_target(m)
    aepo, grpo, base = (held_out(m.runs[name]) for name in (f"H={best:g}", "grpo", "base"))
    return {
        "accuracy": aepo["pass@1"] - grpo["pass@1"],
        "over grpo": aepo["pass@64"] - grpo["pass@64"],
        "over base": aepo["pass@64"] - base["pass@64"],
        "target": best,
        "grpo": grpo["pass@1"],
        "distinct": aepo["distinct"] - grpo["distinct"],
    }


def interior(m: Measurement) -> dict[str, float]:
    """C4: pass@1 and pass@64 at the interior targets against the two ends of the grid."""
    points = {target: held_out(m.runs[f"H={target:g}"]) for target in NETWORK_TARGETS}
    low, *middle, high = NETWORK_TARGETS
    values = {}
    for metric in ("pass@1", "pass@64"):
        centre = float(np.mean([points[target][metric] for target in middle]))
        values[f"{metric}: over low"] = centre - points[low][metric]
        values[f"{metric}: over high"] = centre - points[high][metric]
        values.update({f"{metric}: {target:g}": points[target][metric] for target in NETWORK_TARGETS})
    return values


def exploration(m: Measurement) -> dict[str, float]:
    """C5: pass@256 against the base policy's."""
    best = best_target(m)
    aepo, grpo, base = (held_out(m.runs[name])["pass@256"] for name in (f"H={best:g}", "grpo", "base"))
    return {"aepo": aepo - base, "grpo": grpo - base, "base": base}


def bonus(m: Measurement) -> dict[str, float]:
    """C6: the least that any coefficient is worse than AEPO by, in control error or in accuracy beyond `MATCHED`."""
    logs = {name: read_metrics(path) for name, path in m.runs.items()}
    ends = {name: (end_of(log[ENTROPY]), end_of(log["reward/mean"])) for name, log in logs.items()}
    values = {}
    for target in CONTROLLED:
        entropy, reward = ends[f"H={target:g}"]
        error = abs(entropy / target - 1)
        worse = [
            max(abs(ends[name][0] / target - 1) - error, reward - MATCHED - ends[name][1])
            for name in (f"bonus {c:g}" for c in COEFFICIENTS)
        ]
        values[f"worse {target:g}"] = min(worse)
    for name, (entropy, reward) in ends.items():
        values[f"{name}: entropy"], values[f"{name}: reward"] = entropy, reward
    return values
