"""How much the suite does per budget. Everything that may be adjusted stands here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from corollary.papers import Budget

BASELINE = "grpo"
"""The method that the others are compared with; always there."""

START = "warm start"
"""The row of the policy that all methods start from, evaluated without training; always there."""

FIRST_SEED = 0
"""Seeds count from here: those of the verdicts of the papers' claims, so that runs are shared with them."""

PILOT_SEED = 1001
"""Seeds of the pilot count from here."""

PROMPTS_PER_STEP, GROUP_SIZE, MINI_BATCHES = 32, 8, 4


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a task is trained, whatever the method; fixed with GRPO alone, on seeds from `PILOT_SEED`."""

    learning_rate: float
    steps: Mapping[Budget, int]
    """Rollout batches."""
    warm_start_steps: int
    """Supervised steps before; 20 for budget smoke."""
    target: float
    """The training reward whose first passing is timed; one that GRPO of the pilot reached half-way or before."""
    warm_start_s: float
    step_s: float
    evaluation_s: float
    """Core-seconds of the warm start, of a step of GRPO and of an evaluation, as measured: for `core_minutes`."""


SETUPS: Mapping[str, Setup] = {
    "digit-sum": Setup(
        learning_rate=6e-4,
        steps={Budget.SMOKE: 2, Budget.QUICK: 80, Budget.FULL: 150},
        warm_start_steps=400,
        target=0.3,  # pilot: after 78 and 79 steps
        warm_start_s=30,
        step_s=0.18,
        evaluation_s=1,
    ),
    "digit-sum-running": Setup(
        learning_rate=1e-4,
        steps={Budget.SMOKE: 2, Budget.QUICK: 60, Budget.FULL: 400},
        warm_start_steps=600,
        target=0.5,  # pilot: after 155 steps
        warm_start_s=60,
        step_s=0.18,
        evaluation_s=2,
    ),
    "countdown": Setup(
        learning_rate=1e-4,
        steps={Budget.SMOKE: 2, Budget.QUICK: 60, Budget.FULL: 150},
        warm_start_steps=300,
        target=0.3,  # pilot: after 55 steps
        warm_start_s=25,
        step_s=0.2,
        evaluation_s=3,
    ),
}
"""Learning rates, steps of the warm start and the steps of digit-sum-running are those of the package entropy-dynamics,
so its runs are found in the store. For countdown the pilot compared the learning rates 1e-4 and 3e-4,
from a warm start of 400 steps: 1e-4 was better in training reward and on the held-out prompts."""

SMOKE_WARM_START = 20

RELATIVES = ("dapo", "dr-grpo", "entropy-bonus-adaptive", "opo", "rloo", "w-reinforce")
"""Methods that change what a reward is worth and not which tokens learn from it, and a second entropy bonus."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one budget runs."""

    tasks: tuple[str, ...]
    seeds: int
    samples: int = 64
    """Completions of each held-out prompt."""
    methods: tuple[str, ...] = ()
    """Methods beside the baseline, unless others are asked for by name; all installed ones if empty."""
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Methods by task that this budget has no time for, unless they are asked for by name."""


WORK = {
    Budget.SMOKE: Work(tasks=("digit-sum",), seeds=1, samples=4, methods=("clip-higher",)),
    Budget.QUICK: Work(tasks=("digit-sum",), seeds=3),
    Budget.FULL: Work(
        tasks=("digit-sum", "digit-sum-running", "countdown"),
        seeds=5,
        left_out={"digit-sum-running": RELATIVES},
    ),
}
"""By `core_minutes`, with 18 methods, of which 12 are on digit-sum-running: quick 14 core-minutes; full 43 + 75 + 50,
of which 25 are runs that the claims of entropy-dynamics ask for as well."""


def core_minutes(task: str, budget: Budget, *, methods: int, seeds: int) -> float:
    """Estimate of a task with an empty store, as if a step of each method took as long as one of GRPO.

    Example:
        >>> core_minutes("digit-sum", Budget.QUICK, methods=20, seeds=3) < 16
        True
    """
    setup = SETUPS[task]
    run_s = setup.steps[budget] * setup.step_s + setup.evaluation_s
    return (setup.warm_start_s + seeds * (setup.evaluation_s + methods * run_s)) / 60
