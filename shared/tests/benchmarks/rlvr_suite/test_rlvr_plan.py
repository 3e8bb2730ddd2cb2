"""What a selection of the suite `rlvr` runs, and why some of it does not."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from corollary.benchmarks import Selection, find_suite
from corollary.benchmarks.rlvr import plan as planning
from corollary.benchmarks.rlvr.budgets import SETUPS, WORK, core_minutes
from corollary.benchmarks.rlvr.plan import make_plan
from corollary.benchmarks.rlvr.start import StartEvaluation
from corollary.models import WarmStart
from corollary.papers import Budget
from corollary.rl import GRPO, RLVR, ClipHigher, TrainConfig, algorithm
from corollary.runs import Run, with_requirements


class Tuned(GRPO):
    """A method with options for a benchmark."""

    benchmark = {"clip_low": 0.1, "clip_high": 0.3}


class Control(GRPO):
    """No method to compare."""

    benchmark = None


class ControlOfControl(Control):
    """Inherits that."""


class Wrong(GRPO):
    """Asks for an option that it does not have."""

    benchmark = {"cliplow": 0.1}


def missing() -> None:
    raise ModuleNotFoundError("No module named 'elsewhere'")


@pytest.fixture
def algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed, whatever is."""
    kinds = {
        "grpo": GRPO,
        "clip-higher": ClipHigher,
        "tuned": Tuned,
        "control": Control,
        "second-control": ControlOfControl,
        "wrong": Wrong,
    }
    points = [SimpleNamespace(name=name, load=lambda kind=kind: kind) for name, kind in kinds.items()]
    points.append(SimpleNamespace(name="elsewhere", load=missing))
    monkeypatch.setattr(algorithm, "entry_points", lambda group: points)


def cells(**selection: Any) -> Mapping[str, planning.Cell]:
    return {cell.task: cell for cell in make_plan(Selection(**selection)).cells}


def test_smoke_is_two_methods_and_the_warm_start_on_one_seed() -> None:
    plan = make_plan(Selection(budget=Budget.SMOKE))
    (cell,) = plan.cells
    assert list(cell.recipes) == ["grpo", "clip-higher"]
    assert (cell.task, cell.seeds, cell.train.steps) == ("digit-sum", (0,), 2)
    assert [run.recipe for run in plan.runs] == [cell.start, *cell.recipes.values()]


def test_every_method_starts_from_one_policy_and_trains_alike(algorithms: None) -> None:
    plan = make_plan(Selection(budget=Budget.QUICK, seeds=2))
    (cell,) = plan.cells
    assert cell.train == TrainConfig(steps=80, learning_rate=6e-4)
    assert {recipe.train for recipe in cell.recipes.values()} == {cell.train}
    start = WarmStart(task="digit-sum", steps=400)
    assert {recipe.warm_start for recipe in cell.recipes.values()} == {start} == {cell.start.start}
    starts = [run for run in with_requirements(plan.runs) if isinstance(run.recipe, WarmStart)]
    assert starts == [Run(start, 0)]
    assert [run.seed for run in plan.runs] == [0] * 4 + [1] * 4


def test_methods_are_what_is_installed_but_for_those_that_are_none(algorithms: None) -> None:
    cell = cells(budget=Budget.QUICK)["digit-sum"]
    assert list(cell.recipes) == ["grpo", "clip-higher", "tuned"]
    assert dict(cell.recipes["tuned"].options) == Tuned.benchmark
    assert cell.not_run == {
        "elsewhere": "ModuleNotFoundError: No module named 'elsewhere'",
        "wrong": "wrong has no option 'cliplow'; it has: clip_low, clip_high, dual_clip, aggregation, "
        "advantage_scale, advantage_eps, singleton",
    }


def test_a_method_without_a_word_on_benchmarks_has_its_defaults() -> None:
    assert GRPO.benchmark == {}
    assert cells(budget=Budget.SMOKE)["digit-sum"].recipes["grpo"].options == ()


def test_grpo_the_baseline_and_the_warm_start_are_always_there(algorithms: None) -> None:
    plan = make_plan(Selection(budget=Budget.QUICK, methods=("tuned",), baseline="clip-higher"))
    assert plan.baseline == "clip-higher"
    assert list(plan.cells[0].recipes) == ["grpo", "clip-higher", "tuned"]
    assert StartEvaluation in {type(run.recipe) for run in plan.runs}


def test_tasks_and_seeds_may_be_selected() -> None:
    found = cells(budget=Budget.FULL, tasks=("digit-sum-running", "digit-sum"), seeds=2)
    assert list(found) == ["digit-sum-running", "digit-sum"]
    assert {cell.seeds for cell in found.values()} == {(0, 1)}
    assert found["digit-sum-running"].train == TrainConfig(steps=400, learning_rate=1e-4)


def test_a_method_that_takes_too_long_runs_when_it_is_named(algorithms: None, monkeypatch: pytest.MonkeyPatch) -> None:
    work = WORK[Budget.QUICK]
    monkeypatch.setitem(WORK, Budget.QUICK, type(work)(tasks=work.tasks, seeds=1, left_out={"digit-sum": ("tuned",)}))
    cell = cells(budget=Budget.QUICK)["digit-sum"]
    assert "tuned" not in cell.recipes
    assert cell.not_run["tuned"] == "takes too long for budget quick, unless --methods names it"
    assert "tuned" in cells(budget=Budget.QUICK, methods=("tuned",))["digit-sum"].recipes
    assert "tuned" in cells(budget=Budget.QUICK, baseline="tuned")["digit-sum"].recipes
    assert "tuned" in cells(budget=Budget.QUICK, tasks=("digit-sum-running",))["digit-sum-running"].recipes


def test_every_budget_knows_how_to_train_its_tasks_and_every_task_every_budget() -> None:
    assert all(set(work.tasks) <= set(SETUPS) for work in WORK.values())
    assert all(set(setup.steps) == set(Budget) for setup in SETUPS.values())
    assert all(task in SETUPS for work in WORK.values() for task in work.left_out)


def test_full_trains_with_what_its_tasks_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "task_names", lambda: list(SETUPS))
    found = cells(budget=Budget.FULL, methods=("grpo",))
    assert list(found) == list(WORK[Budget.FULL].tasks)
    assert {cell.seeds for cell in found.values()} == {(0, 1, 2, 3, 4)}
    assert all(isinstance(cell.recipes["grpo"], RLVR) for cell in found.values())


def test_the_estimate_counts_every_run_once() -> None:
    setup = SETUPS["digit-sum"]
    run_s = 80 * setup.step_s + setup.evaluation_s
    estimate = core_minutes("digit-sum", Budget.QUICK, methods=2, seeds=3)
    assert estimate == pytest.approx((setup.warm_start_s + 3 * setup.evaluation_s + 6 * run_s) / 60)


def test_the_budgets_are_near_what_they_promise() -> None:
    def minutes(budget: Budget, methods: int) -> float:
        work = WORK[budget]
        left = {task: methods - len(work.left_out.get(task, ())) for task in work.tasks}
        return sum(core_minutes(task, budget, methods=left[task], seeds=work.seeds) for task in work.tasks)

    assert minutes(Budget.QUICK, 18) < 16
    assert minutes(Budget.FULL, 18) < 170


@pytest.mark.parametrize(
    ("selection", "complaint"),
    [
        (Selection(methods=("clip-hihger",)), r"unknown method 'clip-hihger'; did you mean 'clip-higher'\?"),
        (Selection(baseline="gpro"), r"unknown method 'gpro'; did you mean 'grpo'\?"),
        (Selection(methods=("control",)), "control is an algorithm and no method to compare"),
        (Selection(baseline="control"), "control is an algorithm and no method to compare"),
        (Selection(tasks=("digitsum",)), r"unknown task 'digitsum'; did you mean 'digit-sum'"),
        (Selection(seeds=0), "seeds must be 1 or more, got 0"),
    ],
)
def test_bad_selections_are_refused(algorithms: None, selection: Selection, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_plan(selection)


def test_a_task_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "task_names", lambda: ["digit-sum"])
    with pytest.raises(ValueError, match="the task digit-sum-running is not installed; there are: digit-sum"):
        make_plan(Selection(tasks=("digit-sum-running",)))


@pytest.mark.parametrize(
    ("suite", "selection", "complaint"),
    [
        ("rlvr", Selection(data=("ETTh1",)), "rlvr has no --data; beside methods and seeds it has --tasks"),
        ("rlvr", Selection(backbones=("tcn",)), "rlvr has no --backbones"),
        ("rlvr", Selection(horizons=(24,)), "rlvr has no --horizons"),
        (
            "online-forecasting",
            Selection(tasks=("digit-sum",)),
            "online-forecasting has no --tasks; beside methods and seeds it has --data and --backbones and --horizons",
        ),
    ],
)
def test_selections_that_a_suite_lacks_are_refused(suite: str, selection: Selection, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        find_suite(suite).check(selection)
    find_suite(suite).check(Selection(methods=("any",), baseline="any", seeds=2))
