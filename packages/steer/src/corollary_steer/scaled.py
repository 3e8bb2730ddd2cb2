"""Measurements of the scaled claims: numbers from the logs of finished runs, one seed at a time."""

from itertools import pairwise

import pandas as pd

from corollary.papers import Measurement
from corollary.rl import end_of, entropy_gain_at_equal_reward, held_out, read_metrics
from corollary_steer.experiments import DOSES, dose_name
from corollary_steer.tables import tails


def entropy_drop(log: pd.DataFrame) -> float:
    """Entropy of the warm-started policy, which the first step measures before its update, minus that at the end."""
    return float(log["policy/entropy"].iloc[0]) - end_of(log["policy/entropy"])


def roughness(log: pd.DataFrame) -> float:
    """Standard deviation of the change of entropy from one step to the next."""
    return float(log["policy/entropy"].diff().std())


def doses(m: Measurement) -> dict[str, float]:
    """C7: the drop of entropy at each strength, and the differences from one strength to the next."""
    logs = {dose: read_metrics(m.runs[dose_name(dose)]) for dose in DOSES}
    drops = {dose: entropy_drop(log) for dose, log in logs.items()}
    return {
        **{f"{weak:g} minus {strong:g}": drops[weak] - drops[strong] for weak, strong in pairwise(DOSES)},
        **{dose_name(dose): drop for dose, drop in drops.items()},
        **{f"roughness {dose:g}": roughness(logs[dose]) - roughness(logs[1.0]) for dose in DOSES[1:]},
    }


def at_equal_reward(m: Measurement) -> dict[str, float]:
    """C7-reward: what each strength has more of entropy than the base method where their rewards are equal."""
    logs = {dose: read_metrics(m.runs[dose_name(dose)]) for dose in DOSES}
    return {
        **{dose_name(dose): entropy_gain_at_equal_reward(logs[dose], logs[1.0]) for dose in DOSES[1:]},
        **{
            f"reward {dose:g}": end_of(logs[dose]["reward/mean"]) - end_of(logs[1.0]["reward/mean"])
            for dose in DOSES[1:]
        },
    }


def extreme(m: Measurement) -> dict[str, float]:
    """C8: what the extreme clip does to the base method, and STEER to that."""
    logs = {name: read_metrics(path) for name, path in m.runs.items()}
    rough = {name: roughness(log) for name, log in logs.items()}
    reward = {name: end_of(log["reward/mean"]) for name, log in logs.items()}
    divergence = {name: float(log["kl/old"].mean()) for name, log in logs.items()}
    accuracy = {name: held_out(path)["avg"] for name, path in m.runs.items()}
    return {
        "clip: roughness": rough["extreme"] - rough["usual"],
        "clip: reward": reward["extreme"] - reward["usual"],
        "steer: roughness": rough["steer"] - rough["extreme"],
        "steer: divergence": divergence["steer"] - divergence["extreme"],
        "steer: reward": reward["steer"] - reward["extreme"],
        "clip: divergence": divergence["extreme"] - divergence["usual"],
        "steer: accuracy": accuracy["steer"] - accuracy["extreme"],
        "steer: entropy at equal reward": entropy_gain_at_equal_reward(logs["steer"], logs["extreme"]),
    }


def accuracy(m: Measurement) -> dict[str, float]:
    """C9: STEER's held-out scores minus each baseline's."""
    scores = {name: held_out(path) for name, path in m.runs.items()}
    steer = scores["steer"]
    return {
        **{
            f"{name}: {metric}": steer[metric] - scores[name][metric]
            for metric in ("avg", "distinct")
            for name in m.runs
            if name != "steer"
        },
        "steer: avg": steer["avg"],
        "steer: distinct": steer["distinct"],
    }


def mappings(m: Measurement) -> dict[str, float]:
    """C10: held-out accuracy of the three mappings."""
    scores = {name: held_out(path) for name, path in m.runs.items()}
    average = {name: score["avg"] for name, score in scores.items()}
    return {
        "exponential minus linear": average["exponential"] - average["linear"],
        "linear minus binary": average["linear"] - average["binary"],
        **average,
        **{f"{name}: distinct": score["distinct"] for name, score in scores.items()},
    }


def other_advantages(m: Measurement) -> dict[str, float]:
    """C11: RLOO and OPO with STEER minus without."""
    scores = {name: held_out(path) for name, path in m.runs.items()}
    logs = {name: read_metrics(path) for name, path in m.runs.items()}
    result = {}
    for base in ("rloo", "opo"):
        result[f"{base}: avg"] = scores[f"{base} + steer"]["avg"] - scores[base]["avg"]
    for base in ("rloo", "opo"):
        result[f"{base}: distinct"] = scores[f"{base} + steer"]["distinct"] - scores[base]["distinct"]
        result[f"{base}: entropy"] = entropy_drop(logs[base]) - entropy_drop(logs[f"{base} + steer"])
        result[f"{base}: entropy at equal reward"] = entropy_gain_at_equal_reward(logs[f"{base} + steer"], logs[base])
    return result


def tail(m: Measurement) -> dict[str, float]:
    """Tail: the table's, and what a training run logged."""
    log = read_metrics(m.runs["steer"])
    return {
        **tails(m),
        "training: max over p99": float((log["omega/max"] / log["omega/p99"]).mean()),
        "training: near one": float(log["weight/near_one"].mean()),
        "training: probability": float(log["omega/argmax_prob"].mean()),
        "training: mean weight": float(log["weight/mean"].mean()),
    }
