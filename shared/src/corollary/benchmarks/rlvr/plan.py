"""What runs: tasks, seeds and methods, with the reason for everything that does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corollary.benchmarks.rlvr.budgets import (
    BASELINE,
    FIRST_SEED,
    GROUP_SIZE,
    MINI_BATCHES,
    PROMPTS_PER_STEP,
    SETUPS,
    SMOKE_WARM_START,
    WORK,
    Setup,
)
from corollary.benchmarks.rlvr.start import StartEvaluation
from corollary.benchmarks.suite import Selection, known_names
from corollary.models import WarmStart
from corollary.papers import Budget
from corollary.reproduce.workers import one_line
from corollary.rl import RLVR, TrainConfig, algorithm_class, algorithm_names, make_algorithm
from corollary.runs import Recipe, Run, options_of
from corollary.tasks import task_names


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One task: a starting policy, and the methods that are trained from it."""

    task: str
    target: float
    """The training reward whose first passing is timed."""
    seeds: tuple[int, ...]
    train: TrainConfig
    start: StartEvaluation
    recipes: Mapping[str, RLVR] = field(default_factory=dict)
    """By method, in the order of the selection."""
    not_run: Mapping[str, str] = field(default_factory=dict)
    """Methods that cannot run, or that the budget leaves out, with the reason."""


@dataclass(frozen=True, kw_only=True)
class RLVRPlan:
    """All tasks."""

    baseline: str
    cells: tuple[Cell, ...]

    @property
    def runs(self) -> Sequence[Run]:
        """Seed by seed within a task, so that early runs already cover all methods."""
        runs: list[Run] = []
        for cell in self.cells:
            recipes: list[Recipe] = [cell.start, *cell.recipes.values()]
            runs += [Run(recipe, seed) for seed in cell.seeds for recipe in recipes]
        return runs


def make_plan(selection: Selection) -> RLVRPlan:
    """Decide what runs.

    Raises:
        ValueError: an unknown method or task, an algorithm that is no method to compare, a task that is not
            installed, or a number of seeds that is not positive.
    """
    work = WORK[selection.budget]
    installed, broken = _methods()
    comparable = [name for name in installed if installed[name] is not None]
    for name in (*selection.methods, *([selection.baseline] if selection.baseline else [])):
        if name in installed and name not in comparable:
            raise ValueError(f"{name} is an algorithm and no method to compare: its class sets benchmark = None")
    known = sorted([*comparable, *broken])
    asked = known_names("method", selection.methods, known)
    (baseline,) = known_names("method", (selection.baseline or BASELINE,), known)
    tasks = known_names("task", selection.tasks, list(SETUPS)) or work.tasks
    for task in tasks:
        if task not in task_names():
            raise ValueError(f"the task {task} is not installed; there are: {', '.join(task_names())}")
    if selection.seeds is not None and selection.seeds < 1:
        raise ValueError(f"seeds must be 1 or more, got {selection.seeds}")
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + (selection.seeds or work.seeds)))
    always = dict.fromkeys([BASELINE, baseline])
    chosen = list(always | dict.fromkeys(asked or [name for name in work.methods or known if name in known]))
    cells = []
    for task in tasks:
        skipped = set() if asked else {*work.left_out.get(task, ())} - {*always}
        reason = f"takes too long for budget {selection.budget}, unless --methods names it"
        not_run = {name: reason for name in chosen if name in skipped}
        not_run |= {name: broken[name] for name in chosen if name in broken}
        options = {name: installed[name] or {} for name in chosen if name not in not_run}
        cells.append(_cell(task, selection.budget, seeds, options, not_run))
    return RLVRPlan(baseline=baseline, cells=tuple(cells))


def _cell(
    task: str,
    budget: Budget,
    seeds: tuple[int, ...],
    options: Mapping[str, Mapping[str, object]],
    not_run: Mapping[str, str],
) -> Cell:
    setup, samples = SETUPS[task], WORK[budget].samples
    start, train = warm_start(task, budget), train_config(setup, budget)
    recipes = {
        name: RLVR(
            task=task,
            algorithm=name,
            options=options_of(chosen),
            train=train,
            warm_start=start,
            evaluation_samples=samples,
        )
        for name, chosen in options.items()
    }
    return Cell(
        task=task,
        target=setup.target,
        seeds=seeds,
        train=train,
        start=StartEvaluation(task=task, start=start, samples=samples),
        recipes=recipes,
        not_run=not_run,
    )


def warm_start(task: str, budget: Budget) -> WarmStart:
    """The policy that all methods start from."""
    return WarmStart(task=task, steps=SMOKE_WARM_START if budget is Budget.SMOKE else SETUPS[task].warm_start_steps)


def train_config(setup: Setup, budget: Budget) -> TrainConfig:
    """How all methods are trained on a task."""
    return TrainConfig(
        steps=setup.steps[budget],
        learning_rate=setup.learning_rate,
        prompts_per_step=PROMPTS_PER_STEP,
        group_size=GROUP_SIZE,
        mini_batches=MINI_BATCHES,
    )


def _methods() -> tuple[dict[str, Mapping[str, object] | None], dict[str, str]]:
    """What each installed algorithm says of itself; and those that cannot be made, with the reason."""
    installed: dict[str, Mapping[str, object] | None] = {}
    broken: dict[str, str] = {}
    for name in algorithm_names():
        try:
            options = algorithm_class(name).benchmark
            if options is not None:
                make_algorithm(name, **options)
            installed[name] = options
        except Exception as error:  # one method that cannot be imported must not stop the others
            broken[name] = str(error) if isinstance(error, ValueError) else one_line(error)
    return installed, broken
