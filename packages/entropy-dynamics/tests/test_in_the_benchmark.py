"""How `corollary bench rlvr` runs this package's methods: with the runs of the claims where they are the same."""

import pytest

from corollary.benchmarks import Selection
from corollary.benchmarks.rlvr.plan import make_plan
from corollary.papers import Budget
from corollary.rl import algorithm_class
from corollary_entropy_dynamics.experiments import CLIP_B_DOSES, CLIP_V, SEEDS, method_runs, warm_start


@pytest.mark.parametrize("budget", list(Budget))
def test_the_arms_of_the_claims_are_runs_of_the_benchmark(budget: Budget) -> None:
    selection = Selection(
        budget=budget,
        tasks=("digit-sum-running",),
        methods=("clip-higher", "clip-b", "clip-v"),
        seeds=len(SEEDS[budget]),
    )
    claimed = {run for seed in SEEDS[budget] for run in method_runs(budget, seed).values()}
    assert claimed <= set(make_plan(selection).runs)


@pytest.mark.parametrize("task", ["digit-sum", "digit-sum-running"])
@pytest.mark.parametrize("budget", list(Budget))
def test_both_start_from_one_policy(task: str, budget: Budget) -> None:
    (cell,) = make_plan(Selection(budget=budget, tasks=(task,), methods=("clip-b",))).cells
    assert cell.start.start == warm_start(task, budget)


def test_methods_have_options_for_small_batches_and_controls_are_no_methods() -> None:
    assert algorithm_class("clip-b").benchmark == {"mu": CLIP_B_DOSES[-1]}
    assert algorithm_class("clip-v").benchmark == CLIP_V
    assert algorithm_class("grpo-observed").benchmark is None
    assert algorithm_class("sign-mask").benchmark is None
    (cell,) = make_plan(Selection(budget=Budget.QUICK)).cells
    assert {"clip-b", "clip-v"} <= set(cell.recipes)
    assert not {"grpo-observed", "sign-mask"} & {*cell.recipes, *cell.not_run}
