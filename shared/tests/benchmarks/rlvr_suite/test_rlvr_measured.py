"""Figures of a record against runs whose figures are known."""

import json
import math
from collections.abc import Callable

import pandas as pd
import pytest

from corollary.benchmarks import find_suite
from corollary.benchmarks.rlvr.measured import (
    attempts,
    difference,
    evaluation_quantities,
    intervals,
    measure,
    smoothed,
    steps_to,
    training_quantities,
)
from corollary.benchmarks.rlvr.plan import Cell, RLVRPlan
from corollary.runs import Run, RunRecord, RunStore

T_975_1 = 12.7062047364
"""Quantile 0.975 of Student's t with one degree of freedom: tan(0.475 pi)."""


def rows_of(content: dict) -> dict[str, dict]:
    (task,) = content["tasks"]
    return {row["method"]: row for row in task["rows"]}


def test_scores_of_the_held_out_prompts(cell: Cell, store: RunStore, put: Callable[..., RunRecord]) -> None:
    put(cell.start, 0, correct=(0, 2, 4), distinct=(0, 1, 4))
    scores = evaluation_quantities(store.open(Run(cell.start, 0)))
    # Of 4 samples with 2 right, 5 of the 6 pairs hold a right one; and the only set of 4 does.
    assert scores == pytest.approx({"pass@1": 1.5 / 3, "pass@2": (5 / 6 + 1) / 3, "pass@4": 2 / 3, "distinct": 5 / 3})


def test_attempts_are_the_powers_of_two_up_to_the_number_of_samples() -> None:
    assert attempts(64) == [1, 2, 4, 8, 16, 32, 64]
    assert attempts(6) == [1, 2, 4]
    assert attempts(1) == [1]


def test_the_entropy_is_recorded_along_the_run(cell: Cell, store: RunStore, put: Callable[..., RunRecord]) -> None:
    put(cell.recipes["grpo"], 0, entropies=[float(i) for i in range(41)], rewards=[0.0] * 41, step_s=[0.5] * 41)
    found = training_quantities(store.open(Run(cell.recipes["grpo"], 0)), 0.5)
    # Means of the step and the nine before it, but the first value is the starting policy's own.
    assert [found[f"entropy {share}%"] for share in (0, 25, 50, 75, 100)] == [0.0, 5.5, 15.5, 25.5, 35.5]
    assert found["steps"] is None


def test_the_seconds_of_a_step_are_the_median_over_steps_of_the_sum_over_phases(
    cell: Cell, store: RunStore, put: Callable[..., RunRecord]
) -> None:
    put(cell.recipes["grpo"], 0, step_s=[0.25] * 10 + [0.5] * 11 + [100.0] * 9)
    assert training_quantities(store.open(Run(cell.recipes["grpo"], 0)), 0.5)["step_s"] == 0.5


def test_a_reward_is_reached_when_the_mean_of_a_full_window_is_there() -> None:
    reward = pd.Series([0.0] * 20 + [1.0] * 20)
    assert steps_to(reward, 0.5) == 25
    assert steps_to(reward, 1.0) == 30
    assert steps_to(reward, 1.1) is None
    assert steps_to(pd.Series([1.0] + [0.0] * 39), 0.2) is None  # one lucky batch is no window
    assert steps_to(pd.Series([1.0] * 40), 0.5) == 10


def test_curves_of_short_runs_are_averaged_over_a_third() -> None:
    assert smoothed(pd.Series([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])).tolist() == [0.0, 0.5, 1.5, 2.5, 3.5, 4.5]


def test_intervals_are_students_over_seeds() -> None:
    found = intervals([{"pass@1": 1.0, "steps": 5.0}, {"pass@1": 3.0, "steps": None}])
    # Mean 2, standard deviation sqrt 2, so a standard error of 1.
    assert found["pass@1"] == pytest.approx({"mean": 2.0, "low": 2 - T_975_1, "high": 2 + T_975_1})
    assert found["steps"] is None
    assert math.isclose(math.tan(0.475 * math.pi), T_975_1, rel_tol=1e-9)


def test_one_seed_has_no_interval() -> None:
    assert intervals([{"pass@1": 0.5}]) == {"pass@1": {"mean": 0.5, "low": None, "high": None}}


def test_a_difference_is_of_what_both_have() -> None:
    assert difference({"a": 3.0, "b": None, "c": 1.0, "d": 2.0}, {"a": 1.0, "b": 2.0, "c": None}) == {
        "a": 2.0,
        "b": None,
        "c": None,
    }


def test_means_and_paired_differences_of_a_task(plan: RLVRPlan, store: RunStore, records: dict[str, RunRecord]) -> None:
    content = measure(plan, store, records, {})
    rows = rows_of(content)
    assert [entry["pass@1"] for entry in rows["grpo"]["per_seed"]] == [0.5, 0.75]
    assert rows["grpo"]["mean"]["pass@1"]["mean"] == 0.625
    assert "difference" not in rows["grpo"]
    # Seed by seed the difference is 0.25, whatever the seeds have in common: an interval without width.
    assert rows["clip-higher"]["difference"]["pass@1"] == {"mean": 0.25, "low": 0.25, "high": 0.25}
    assert rows["clip-higher"]["difference"]["entropy 100%"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert rows["clip-higher"]["mean"]["pass@1"]["high"] - 0.875 == pytest.approx(T_975_1 * 0.125)
    assert content["run_cpus"] == ["Abacus"]
    assert content["run_commits"] == ["0123456789abcdef"]
    assert set(content["methods"]) == {"grpo", "clip-higher", "broken"}
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_the_warm_start_is_a_row_that_was_never_trained(
    plan: RLVRPlan, store: RunStore, records: dict[str, RunRecord]
) -> None:
    start = rows_of(measure(plan, store, records, {}))["warm start"]
    assert set(start["mean"]) == {"pass@1", "pass@2", "pass@4", "distinct"}
    difference = start["difference"]["pass@1"]
    assert difference == pytest.approx({"mean": -0.375, "low": -0.375 - T_975_1 / 8, "high": -0.375 + T_975_1 / 8})


def test_entropies_are_compared_at_equal_reward(
    plan: RLVRPlan, cell: Cell, store: RunStore, records: dict[str, RunRecord], put: Callable[..., RunRecord]
) -> None:
    # Both pass through the same rewards, the second twice as fast and half a nat higher.
    slow, fast = [i / 60 for i in range(60)], [min(1.0, i / 30) for i in range(60)]
    for seed in cell.seeds:
        put(cell.recipes["grpo"], seed, rewards=slow, entropies=[2 - reward for reward in slow], step_s=[1.0] * 60)
        fast_entropies = [2.5 - reward for reward in fast]
        put(cell.recipes["clip-higher"], seed, rewards=fast, entropies=fast_entropies, step_s=[1.0] * 60)
    rows = rows_of(measure(plan, store, records, {}))
    assert rows["clip-higher"]["difference"]["entropy at equal reward"]["mean"] == pytest.approx(0.5, abs=0.02)
    assert rows["clip-higher"]["difference"]["entropy 100%"]["mean"] < 0.5
    assert "entropy at equal reward" not in rows["warm start"]["difference"]


def test_a_run_that_failed_is_named_in_its_row_and_the_others_stand(
    plan: RLVRPlan, cell: Cell, store: RunStore, put: Callable[..., RunRecord]
) -> None:
    for seed in cell.seeds:
        put(cell.start, seed)
        put(cell.recipes["clip-higher"], seed)
    put(cell.recipes["grpo"], 0)
    errors = {Run(cell.recipes["grpo"], 1).key: "TrainingError: no luck"}
    content = measure(plan, store, {}, errors)
    rows = rows_of(content)
    assert rows["grpo"] == {"method": "grpo", "options": {}, "failed": "seed 1: TrainingError: no luck"}
    assert rows["clip-higher"]["mean"]["pass@1"]["mean"] == 0.5
    assert "difference" not in rows["clip-higher"]
    assert rows["broken"] == {"method": "broken", "not_run": "ImportError: no | such <module>"}
    assert find_suite("rlvr").failures(content) == ["grpo on digit-sum: seed 1: TrainingError: no luck"]


def test_the_sizes_of_a_task_are_recorded(plan: RLVRPlan, store: RunStore) -> None:
    (task,) = measure(plan, store, {}, {})["tasks"]
    assert (task["task"], task["seeds"], task["steps"], task["samples"]) == ("digit-sum", [0, 1], 2, 4)
    assert (task["parameters"], task["warm_start_steps"]) == (100_032, 20)
    assert (task["train_prompts"], task["held_out_prompts"], task["learning_rate"]) == (33, 11, 6e-4)
