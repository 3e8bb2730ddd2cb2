"""A task, and runs on it that were made by hand instead of trained."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from corollary.benchmarks import Selection
from corollary.benchmarks.rlvr.plan import Cell, RLVRPlan, make_plan
from corollary.papers import Budget
from corollary.rl import RLVR
from corollary.runs import Recipe, Run, RunRecord, RunStore, canonical_config, write_atomically


@pytest.fixture
def cell() -> Cell:
    """digit-sum with GRPO and clip-higher on two seeds, and a method that cannot run."""
    plan = make_plan(Selection(budget=Budget.SMOKE, methods=("clip-higher",), seeds=2))
    return replace(plan.cells[0], not_run={"broken": "ImportError: no | such <module>"})


@pytest.fixture
def plan(cell: Cell) -> RLVRPlan:
    return RLVRPlan(baseline="grpo", cells=(cell,))


@pytest.fixture
def put(store: RunStore) -> Callable[..., RunRecord]:
    """Put a run into the store as if it had been executed."""

    def put_run(
        recipe: Recipe,
        seed: int,
        *,
        correct: Sequence[int] = (0, 2, 4),
        distinct: Sequence[int] = (0, 1, 4),
        rewards: Sequence[float] = (0.25,) * 30,
        entropies: Sequence[float] = (1.0,) * 30,
        step_s: Sequence[float] = (0.5,) * 30,
    ) -> RunRecord:
        run = Run(recipe, seed)
        folder = store.path(run)
        evaluation = {
            "answer": list(range(len(correct))),
            "samples": [4] * len(correct),
            "correct": list(correct),
            "distinct": list(distinct),
        }
        write_atomically(folder / "evaluation.json", json.dumps(evaluation))
        if isinstance(recipe, RLVR):
            steps = zip(rewards, entropies, strict=True)
            lines = [json.dumps({"reward/mean": reward, "policy/entropy": entropy}) for reward, entropy in steps]
            write_atomically(folder / "metrics.jsonl", "\n".join(lines) + "\n")
            times = [json.dumps({"time/rollout_s": 0.75 * time, "time/update_s": 0.25 * time}) for time in step_s]
            write_atomically(folder / "timings.jsonl", "\n".join(times) + "\n")
        record = RunRecord(
            key=run.key,
            recipe=recipe.name,
            version=recipe.version,
            config=canonical_config(recipe),
            seed=seed,
            seconds=1.5,
            started="2026-01-01T00:00:00+00:00",
            finished="2026-01-01T00:00:02+00:00",
            environment={"machine": {"cpu": "Abacus"}, "commit": "0123456789abcdef"},
        )
        write_atomically(folder / "done.json", record.to_json())
        return record

    return put_run


@pytest.fixture
def records(cell: Cell, put: Callable[..., RunRecord]) -> dict[str, RunRecord]:
    """Complete runs: of 12 answers the warm start has 3 right at both seeds, GRPO 6 and 9, clip-higher 9 and 12."""
    made: list[Any] = []
    for seed, (low, middle, high) in enumerate([((1, 2, 0), (2, 4, 0), (4, 4, 1)), ((0, 2, 1), (4, 4, 1), (4, 4, 4))]):
        made += [
            put(cell.start, seed, correct=low),
            put(cell.recipes["grpo"], seed, correct=middle, entropies=[1.0 + seed] * 30),
            put(cell.recipes["clip-higher"], seed, correct=high, entropies=[1.5 + seed] * 30),
        ]
    return {record.key: record for record in made}
