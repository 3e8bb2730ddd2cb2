"""What a finished run says: the end of a curve, the entropy at equal reward, the held-out scores."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from corollary.evaluation import pass_at_k
from corollary.rl.rlvr import EVALUATION, read_evaluation

WINDOW = 10
"""Steps over which curves are smoothed and ends are averaged."""


def end_of(curve: pd.Series) -> float:
    """Mean of the last `WINDOW` steps, or of the last third of a shorter run."""
    return float(curve.iloc[-max(1, min(WINDOW, len(curve) // 3)) :].mean())


def entropy_gain_at_equal_reward(log: pd.DataFrame, base: pd.DataFrame) -> float:
    """Mean difference of entropy over the rewards that both runs pass through; NaN if there is no such range.

    Methods differ in speed, and a policy that has learned less has usually kept more entropy. So entropies are compared
    where the rewards are equal. Both curves are smoothed over `WINDOW` full steps. At each of 20 rewards, from the
    larger of the two starting values to the smaller of the two best ones, each run is read where it first reaches that
    reward.

    Args:
        log: The metrics of a run, `corollary.rl.read_metrics`.
        base: Those of the run that it is compared with.

    Returns:
        Entropy of ``log`` minus entropy of ``base``, nats.
    """
    smooth = [run[["reward/mean", "policy/entropy"]].rolling(WINDOW).mean().dropna() for run in (log, base)]
    if any(run.empty for run in smooth):
        return math.nan
    low = max(run["reward/mean"].iloc[0] for run in smooth)
    high = min(run["reward/mean"].max() for run in smooth)
    if not low < high:
        return math.nan
    levels = np.linspace(low, high, 20)
    entropies = [[run["policy/entropy"][(run["reward/mean"] >= level).idxmax()] for level in levels] for run in smooth]
    return float(np.mean(entropies[0]) - np.mean(entropies[1]))


def held_out(directory: Path, *, name: str = EVALUATION, k: int = 8) -> dict[str, float]:
    """Scores of a run over its held-out prompts, each prompt with the same weight.

    Returns:
        ``avg``, the accuracy; ``pass``, pass@k (with fewer samples than ``k``, pass@samples); ``distinct``, different
        correct answers per prompt; ``middle``, the share of prompts with a pass rate in (0.1, 0.9).
    """
    table = read_evaluation(directory, name)
    rate = table["correct"] / table["samples"]
    k = min(k, int(table["samples"].min()))
    return {
        "avg": float(rate.mean()),
        "pass": float(np.mean(pass_at_k(table["samples"].to_numpy(), table["correct"].to_numpy(), k))),
        "distinct": float(table["distinct"].mean()),
        "middle": float(((rate > 0.1) & (rate < 0.9)).mean()),
    }
