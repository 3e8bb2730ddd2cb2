"""The training runs behind the scaled claims.

Everything trains the warm-started policy of the task ``parity`` with GRPO's settings but for the weights; claims share
runs. Step size and steps were chosen on seed 1001 so that GRPO has left the start and not yet reached its ceiling when
the run ends: mean length goes from 4.5 to 8.5 tokens of the 10 that a full scratchpad needs.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from corollary.models import SmallModel, WarmStart
from corollary.papers import Budget
from corollary.rl import RLVR, TrainConfig
from corollary.rl.rlvr import EVALUATION
from corollary.runs import Run, options_of
from corollary.tasks import Task, make_task
from corollary_adora.parity import Parity

SEEDS = {Budget.SMOKE: (0,), Budget.QUICK: (0, 1), Budget.FULL: (0, 1, 2, 3, 4)}
"""The pilot that fixed step size, lengths and factors used seeds from 1001."""
SENSITIVITY_SEEDS = {**SEEDS, Budget.QUICK: (0,)}

LEARNING_RATE = 2e-5
GRPO: dict[str, Any] = {"dual_clip": None}
"""The authors' fork has no dual clip."""
CODE: dict[str, Any] = {
    **GRPO,
    "preset": "llm_2025",
    "correct_threshold": 0.5,
    "max_length": Parity.max_completion_length,
}
"""The released rule for language models, on rewards of 0 and 1; a response of the largest length was cut off."""
PAPER: dict[str, Any] = {**GRPO, "preset": "llm_2026"}
"""The paper's setting for language models as we read it: both criteria, weights 2 and 1."""

RATE_OF_CODE = 0.91
"""Mean weight of `CODE` over the pilot run."""
RATE_OF_PAPER = 1.19
"""Mean weight of `PAPER` over the pilot run."""

W_TDS = (0.0, 0.05, 0.1, 0.2, 0.5)
W_TAS = (1.5, 2.0, 3.0)
TAU = (0.3, 0.5, 0.7)

LONG = "evaluation-long"
"""Stem of the file with the evaluation on longer prompts."""


@dataclass(frozen=True, kw_only=True)
class ParityRun(RLVR):
    """Training on ``parity``, and afterwards prompts of its own kind and longer ones."""

    name: ClassVar[str] = "adora-parity"
    version: ClassVar[int] = 1

    def evaluations(self) -> dict[str, Task]:
        """The held-out prompts of the training task, and 12 bits."""
        return {EVALUATION: make_task(self.task), LONG: make_task("parity-long")}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long the runs of a budget are."""

    warm_start_steps: int
    steps: int
    prompts: int
    evaluation_samples: int
    model: SmallModel = field(default_factory=SmallModel)


TINY = SmallModel(hidden_size=16, layers=1, heads=2, intermediate_size=24)
"""Enough to see that everything is wired up."""

SIZES = {
    Budget.SMOKE: Size(warm_start_steps=4, steps=2, prompts=4, evaluation_samples=2, model=TINY),
    Budget.QUICK: Size(warm_start_steps=200, steps=24, prompts=32, evaluation_samples=16),
    Budget.FULL: Size(warm_start_steps=300, steps=60, prompts=32, evaluation_samples=32),
}


def arm(algorithm: str, budget: Budget, seed: int, *, rate: float = 1.0, evaluate: bool = False, **options: Any) -> Run:
    """One training run; ``rate`` multiplies the step size."""
    size = SIZES[budget]
    recipe = ParityRun(
        task="parity",
        algorithm=algorithm,
        options=options_of(options),
        train=TrainConfig(
            steps=size.steps, prompts_per_step=size.prompts, learning_rate=LEARNING_RATE * rate, mini_batches=2
        ),
        warm_start=WarmStart(task="parity", model=size.model, steps=size.warm_start_steps),
        evaluation_samples=size.evaluation_samples if evaluate else 0,
    )
    return Run(recipe, seed)


def main_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """GRPO, attenuation and amplification, with their evaluations (C2)."""
    return {
        "grpo": arm("grpo", budget, seed, evaluate=True, **GRPO),
        "code": arm("adora", budget, seed, evaluate=True, **CODE),
        "paper": arm("adora", budget, seed, evaluate=True, **PAPER),
    }


def length_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """GRPO and attenuation (C1)."""
    runs = main_runs(budget, seed)
    return {name: runs[name] for name in ("grpo", "code")}


def amplification_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """GRPO and amplification (C3)."""
    runs = main_runs(budget, seed)
    return {name: runs[name] for name in ("grpo", "paper")}


def criteria_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """Each criterion at the weights 2 and 1, and random weights with the distributions of both presets (C4)."""
    return {
        **main_runs(budget, seed),
        "length": arm("adora", budget, seed, **PAPER, criteria="length"),
        "difficulty": arm("adora", budget, seed, **PAPER, criteria="difficulty"),
        "or": arm("adora", budget, seed, **PAPER, criteria="or"),
        "random code": arm("adora-random", budget, seed, **CODE),
        "random paper": arm("adora-random", budget, seed, **PAPER),
    }


def step_size_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """GRPO with the step size that the mean weight would give, and weights with mean 1 (C6)."""
    return {
        **main_runs(budget, seed),
        "grpo at code": arm("grpo", budget, seed, rate=RATE_OF_CODE, **GRPO),
        "grpo at paper": arm("grpo", budget, seed, rate=RATE_OF_PAPER, **GRPO),
        "code normalised": arm("adora", budget, seed, **CODE, normalise=True),
        "paper normalised": arm("adora", budget, seed, **PAPER, normalise=True),
    }


def sensitivity_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The weights and the threshold around their published values, which are the runs of `main_runs` (C7)."""
    runs = main_runs(budget, seed)
    return {
        **{f"w_tds {w:g}": runs["code"] if w == 0.1 else arm("adora", budget, seed, **CODE, w_tds=w) for w in W_TDS},
        **{f"w_tas {w:g}": runs["paper"] if w == 2 else arm("adora", budget, seed, **PAPER, w_tas=w) for w in W_TAS},
        **{f"tau {t:g}": runs["paper"] if t == 0.5 else arm("adora", budget, seed, **PAPER, tau=t) for t in TAU},
    }
