"""Measurements of the scaled claims: numbers from the logs of finished runs, one seed at a time."""

from pathlib import Path

import pandas as pd

from corollary.papers import Measurement
from corollary.rl import read_evaluation, read_metrics
from corollary.rl.rlvr import EVALUATION
from corollary_adora.experiments import LONG, TAU, W_TAS, W_TDS

WINDOW = 25
"""Steps that the end of a run means."""


def end_of(curve: pd.Series) -> float:
    """Mean of the last `WINDOW` steps, or of the second half of a run of fewer than two windows."""
    return float(curve.iloc[-max(1, min(WINDOW, len(curve) // 2)) :].mean())


def start_of(curve: pd.Series) -> float:
    """Mean of the first third of a run."""
    return float(curve.iloc[: max(1, len(curve) // 3)].mean())


def accuracy(directory: Path, name: str = EVALUATION) -> float:
    """Share of right answers over all samples of the held-out prompts."""
    table = read_evaluation(directory, name)
    return float(table["correct"].sum() / table["samples"].sum())


def logs(m: Measurement) -> dict[str, pd.DataFrame]:
    """The metrics of every run."""
    return {name: read_metrics(path) for name, path in m.runs.items()}


def length_growth(m: Measurement) -> dict[str, float]:
    """C1: mean length at the end, and over the run, of attenuation and GRPO."""
    lengths = {name: log["completion/length"] for name, log in logs(m).items()}
    code, grpo = lengths["code"], lengths["grpo"]
    return {
        "end": end_of(code) - end_of(grpo),
        "run": float((code - grpo).mean()),
        "grpo growth": end_of(grpo) - float(grpo.iloc[0]),
    }


def accuracy_and_speed(m: Measurement) -> dict[str, float]:
    """C2: early training reward and final accuracies of attenuation, as differences to GRPO."""
    rewards = {name: log["reward/mean"] for name, log in logs(m).items()}
    result = {
        "early": start_of(rewards["code"]) - start_of(rewards["grpo"]),
        "held out": accuracy(m.runs["code"]) - accuracy(m.runs["grpo"]),
        "long": accuracy(m.runs["code"], LONG) - accuracy(m.runs["grpo"], LONG),
        "grpo: held out": accuracy(m.runs["grpo"]),
        "grpo: long": accuracy(m.runs["grpo"], LONG),
    }
    return {
        **result,
        "paper: held out": accuracy(m.runs["paper"]) - accuracy(m.runs["grpo"]),
        "paper: long": accuracy(m.runs["paper"], LONG) - accuracy(m.runs["grpo"], LONG),
    }


def amplification(m: Measurement) -> dict[str, float]:
    """C3: area under the curve of the training reward, and the reward at the end."""
    rewards = {name: log["reward/mean"] for name, log in logs(m).items()}
    return {
        "area": float((rewards["paper"] - rewards["grpo"]).mean()),
        "end": end_of(rewards["paper"]) - end_of(rewards["grpo"]),
        "advantageous": float(read_metrics(m.runs["paper"])["adora/tas"].mean()),
    }


def criteria(m: Measurement) -> dict[str, float]:
    """C4: area under the reward curve of each criterion, less that of random weights."""
    read = logs(m)
    area = {name: float(log["reward/mean"].mean()) for name, log in read.items()}
    length = {name: end_of(log["completion/length"]) for name, log in read.items()}
    return {
        "code": area["code"] - area["random code"],
        "and": area["paper"] - area["random paper"],
        **{name: area[name] - area["random paper"] for name in ("length", "difficulty", "or")},
        "random": area["random paper"] - area["grpo"],
        "code: length": length["code"] - length["random code"],
    }


def step_size(m: Measurement) -> dict[str, float]:
    """C6: what is left of C1 and C3 when GRPO takes steps of another size, and when the weights have mean 1."""
    read = logs(m)
    length = {name: end_of(log["completion/length"]) for name, log in read.items()}
    area = {name: float(log["reward/mean"].mean()) for name, log in read.items()}
    return {
        "length, matched": length["code"] - length["grpo at code"],
        "length, normalised": length["code normalised"] - length["grpo"],
        "area, matched": area["paper"] - area["grpo at paper"],
        "area, normalised": area["paper normalised"] - area["grpo"],
        "rate: length": length["grpo at code"] - length["grpo"],
        "rate: area": area["grpo at paper"] - area["grpo"],
    }


def sensitivity(m: Measurement) -> dict[str, float]:
    """C7: training reward at the end for each value, and the largest difference."""
    end = {name: end_of(log["reward/mean"]) for name, log in logs(m).items()}

    def spread(names: list[str]) -> float:
        return max(end[name] for name in names) - min(end[name] for name in names)

    return {
        "w_tds": spread([f"w_tds {w:g}" for w in W_TDS]),
        "w_tas": spread([f"w_tas {w:g}" for w in W_TAS]),
        "tau": spread([f"tau {t:g}" for t in TAU]),
        "zero": end["w_tds 0.1"] - end["w_tds 0"],
        **end,
    }
