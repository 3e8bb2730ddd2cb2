"""What the runs of a plan say: quantities of each run, their intervals over seeds, and differences to the baseline."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from corollary.benchmarks.provenance import distributions, first_paragraph, provenance
from corollary.benchmarks.rlvr.budgets import START
from corollary.benchmarks.rlvr.plan import Cell, RLVRPlan
from corollary.benchmarks.rlvr.quantities import AT_EQUAL_REWARD, TRAJECTORY, WINDOW, entropy_at, pass_at
from corollary.evaluation import mean_interval, pass_at_k
from corollary.models import WarmStart
from corollary.rl import RLVR, algorithm_class, entropy_gain_at_equal_reward, read_evaluation, read_metrics
from corollary.rl.algorithm import ENTRY_POINTS
from corollary.runs import Recipe, Run, RunRecord, RunStore
from corollary.tasks import make_task

Quantities = dict[str, float | None]
"""Of one run, by name; None where there is no finite value, such as a reward that was never reached."""


def measure(
    plan: RLVRPlan, store: RunStore, records: Mapping[str, RunRecord], errors: Mapping[str, str]
) -> dict[str, Any]:
    """The record of a plan, without what all suites record."""
    used = {name for cell in plan.cells for name in cell.recipes}
    return {
        "baseline": plan.baseline,
        **provenance(plan.runs, records, also=distributions(ENTRY_POINTS, used)),
        "methods": {name: _about(name) for cell in plan.cells for name in (*cell.recipes, *cell.not_run)},
        "tasks": [_measure_cell(cell, plan.baseline, store, records, errors) for cell in plan.cells],
    }


def evaluation_quantities(directory: Path) -> Quantities:
    """Of the held-out prompts: pass@k for powers of two, and distinct correct answers a prompt."""
    table = read_evaluation(directory)
    samples, correct = table["samples"].to_numpy(), table["correct"].to_numpy()
    ks = attempts(int(samples.min()))
    return {
        **{pass_at(k): float(np.mean(pass_at_k(samples, correct, k))) for k in ks},
        "distinct": float(table["distinct"].mean()),
    }


def attempts(samples: int) -> list[int]:
    """The powers of two up to the number of samples."""
    return [2**i for i in range(samples.bit_length())]


def training_quantities(directory: Path, target: float) -> Quantities:
    """Of the curves: entropy along the run, final reward, steps to the target, and seconds of a step."""
    log = read_metrics(directory)
    seconds = pd.read_json(directory / "timings.jsonl", lines=True).sum(axis="columns")
    entropy = smoothed(log["policy/entropy"])
    places = {share: round(share * (len(log) - 1)) for share in TRAJECTORY}
    return {
        **{entropy_at(share): _number(entropy.iloc[place]) for share, place in places.items()},
        "reward": _number(smoothed(log["reward/mean"]).iloc[-1]),
        "steps": steps_to(log["reward/mean"], target),
        "step_s": _number(seconds.median()),
    }


def window(steps: int) -> int:
    """Over how many steps the curves of a run of this length are averaged: `WINDOW`, or a third of a shorter run."""
    return max(1, min(WINDOW, steps // 3))


def smoothed(curve: pd.Series) -> pd.Series:
    """Mean of each step and those before it in the window; the first value stays what it is."""
    return curve.rolling(window(len(curve)), min_periods=1).mean()


def steps_to(reward: pd.Series, target: float) -> float | None:
    """After how many steps the mean reward of a full window first reached the target; None if it never did."""
    reached = reward.rolling(window(len(reward))).mean().to_numpy() >= target
    return float(reached.argmax() + 1) if reached.any() else None


def intervals(seeds: Sequence[Quantities]) -> dict[str, dict[str, float | None] | None]:
    """Mean with Student-t interval over seeds, by quantity; None where a seed has no value."""
    return {name: _interval([entry[name] for entry in seeds]) for name in seeds[0]}


def difference(one: Quantities, other: Quantities) -> Quantities:
    """First minus second, of the quantities that both have."""
    pairs = {name: (value, other[name]) for name, value in one.items() if name in other}
    return {
        name: None if first is None or second is None else first - second for name, (first, second) in pairs.items()
    }


def complete_runs(recipe: Recipe, cell: Cell, store: RunStore) -> list[Path]:
    """The folder of each seed's run; none if one of them is not complete."""
    runs = [Run(recipe, seed) for seed in cell.seeds]
    return [store.open(run) for run in runs] if all(store.is_complete(run) for run in runs) else []


def _measure_cell(
    cell: Cell, baseline: str, store: RunStore, records: Mapping[str, RunRecord], errors: Mapping[str, str]
) -> dict[str, Any]:
    recipes: dict[str, Recipe] = {START: cell.start, **cell.recipes}
    folders = {name: found for name, recipe in recipes.items() if (found := complete_runs(recipe, cell, store))}
    measured = {
        name: [_quantities(recipes[name], folder, cell.target) for folder in found] for name, found in folders.items()
    }
    rows: list[dict[str, Any]] = []
    for name, recipe in recipes.items():
        row: dict[str, Any] = {"method": name}
        if isinstance(recipe, RLVR):
            row["options"] = dict(recipe.options)
        if name in measured:
            row["mean"] = intervals(measured[name])
            if name != baseline and baseline in measured:
                pairs = zip(measured[name], measured[baseline], strict=True)
                differences = [difference(one, other) for one, other in pairs]
                if isinstance(recipe, RLVR):
                    for entry, folder, other in zip(differences, folders[name], folders[baseline], strict=True):
                        gain = entropy_gain_at_equal_reward(read_metrics(folder), read_metrics(other))
                        entry[AT_EQUAL_REWARD] = _number(gain)
                row["difference"] = intervals(differences)
            row["per_seed"] = [
                _seed(Run(recipe, seed), values, records)
                for seed, values in zip(cell.seeds, measured[name], strict=True)
            ]
        else:
            row["failed"] = _why(recipe, cell, errors)
        rows.append(row)
    rows += [{"method": name, "not_run": reason} for name, reason in cell.not_run.items()]
    return {**_sizes(cell), "rows": rows}


def _quantities(recipe: Recipe, directory: Path, target: float) -> Quantities:
    training = training_quantities(directory, target) if isinstance(recipe, RLVR) else {}
    return {**evaluation_quantities(directory), **training}


def _seed(run: Run, values: Quantities, records: Mapping[str, RunRecord]) -> dict[str, Any]:
    seconds = records[run.key].seconds if run.key in records else None
    return {"seed": run.seed, "run": run.key, "run_s": seconds, **values}


def _why(recipe: Recipe, cell: Cell, errors: Mapping[str, str]) -> str:
    """The first seed that failed, and its reason."""
    for seed in cell.seeds:
        if (key := Run(recipe, seed).key) in errors:
            return f"seed {seed}: {errors[key]}"
    return "its runs are not complete"


def _sizes(cell: Cell) -> dict[str, Any]:
    """What was trained, for how long, and on how much."""
    task, start = make_task(cell.task), cell.start.start
    sizes: dict[str, Any] = {
        "task": cell.task,
        "seeds": list(cell.seeds),
        "train_prompts": len(task.prompts("train")),
        "held_out_prompts": len(task.prompts("held_out")),
        "max_tokens": task.max_completion_length,
        "samples": cell.start.samples,
        "steps": cell.train.steps,
        "prompts_per_step": cell.train.prompts_per_step,
        "group_size": cell.train.group_size,
        "mini_batches": cell.train.mini_batches,
        "learning_rate": cell.train.learning_rate,
        "target": cell.target,
        "attempts": attempts(cell.start.samples),
    }
    if isinstance(start, WarmStart):
        model = start.model.build(task.vocab_size, seed=0)
        sizes["parameters"] = sum(weight.numel() for weight in model.parameters())
        sizes["warm_start_steps"] = start.steps
    return sizes


def _about(name: str) -> str:
    try:
        return first_paragraph(algorithm_class(name))
    except Exception:  # a method that cannot be imported is listed as not run, with the reason
        return ""


def _interval(values: Sequence[float | None]) -> dict[str, float | None] | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    interval = mean_interval(known)
    return {"mean": interval.mean, "low": _number(interval.low), "high": _number(interval.high)}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
