"""The training runs behind the scaled claims, for each budget: all on ``digit-sum``, all from one warm start."""

from dataclasses import dataclass, replace
from typing import Any

from corollary.models import WarmStart
from corollary.papers import Budget
from corollary.rl import RLVR, TrainConfig
from corollary.runs import Run, options_of

SEEDS = {Budget.SMOKE: (0,), Budget.QUICK: (0, 1, 2, 3, 4), Budget.FULL: (0, 1, 2, 3, 4)}
"""The pilot that fixed step sizes and lengths used seed 1001."""

TABLE_SEEDS = {Budget.SMOKE: (0,), Budget.QUICK: (0, 1, 2, 3, 4), Budget.FULL: tuple(range(10))}
"""Of the measurements without training."""

DOSES = (1.0, 0.7, 0.3, 0.1)
"""``lambda_min``. 1 is the base method, 0.7 the paper's value."""

PAPER_DOSE = 0.7

LEARNING_RATE = 4e-4

EXTREME_LEARNING_RATE = 2e-4

EXTREME: dict[str, Any] = {"clip_low": 0.99, "clip_high": 5.0}
"""Ratios between 0.01 and 6 are not clipped (paper)."""

BASELINES = (
    "grpo",
    "clip-higher",
    "entropy-bonus",
    "forking-tokens",
    "entropy-advantage",
    "clip-cov",
    "kl-cov",
)
"""Of the core, each with its own defaults (C9)."""

LINEAR: dict[str, Any] = {"mapping": "linear", "lambda_min": 0.8, "weight_max": 1.2}
"""The released linear script."""

BINARY: dict[str, Any] = {"mapping": "binary", "lambda_min": PAPER_DOSE}
"""Our reading: half the largest change is the threshold."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long the runs of a budget are."""

    warm_start_steps: int
    training_steps: int
    """Each arm of C7 and C9 to C11; four times as many, of a quarter of the samples, for OPO."""
    extreme_steps: int
    """Each arm of C8."""
    evaluation_samples: int


SIZES = {
    Budget.SMOKE: Size(warm_start_steps=10, training_steps=2, extreme_steps=2, evaluation_samples=2),
    Budget.QUICK: Size(warm_start_steps=400, training_steps=16, extreme_steps=12, evaluation_samples=32),
    Budget.FULL: Size(warm_start_steps=400, training_steps=140, extreme_steps=100, evaluation_samples=64),
}


def warm_start(budget: Budget) -> WarmStart:
    """The policy that all runs start from."""
    return WarmStart(task="digit-sum", steps=SIZES[budget].warm_start_steps)


def arm(algorithm: str, budget: Budget, seed: int, *, train: TrainConfig | None = None, **options: Any) -> Run:
    """One training run."""
    size = SIZES[budget]
    return Run(
        RLVR(
            task="digit-sum",
            algorithm=algorithm,
            options=options_of(options),
            train=train or TrainConfig(steps=size.training_steps, learning_rate=LEARNING_RATE),
            warm_start=warm_start(budget),
            evaluation_samples=size.evaluation_samples,
        ),
        seed,
    )


def dose_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """STEER at four strengths (C7)."""
    return {dose_name(dose): arm("steer", budget, seed, lambda_min=dose) for dose in DOSES}


def dose_name(dose: float) -> str:
    """What a run with this ``lambda_min`` is called."""
    return f"lambda={dose:g}"


def extreme_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The base method with the usual and with the extreme clip, and STEER with the extreme clip (C8)."""
    train = TrainConfig(steps=SIZES[budget].extreme_steps, learning_rate=EXTREME_LEARNING_RATE, mini_batches=8)
    return {
        "usual": arm("steer", budget, seed, train=train, lambda_min=1.0),
        "extreme": arm("steer", budget, seed, train=train, lambda_min=1.0, **EXTREME),
        "steer": arm("steer", budget, seed, train=train, lambda_min=PAPER_DOSE, **EXTREME),
    }


def method_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """STEER and what it is compared with (C9)."""
    return {
        "steer": arm("steer", budget, seed, lambda_min=PAPER_DOSE),
        "base": arm("steer", budget, seed, lambda_min=1.0),
        **{name: arm(name, budget, seed) for name in BASELINES},
    }


def mapping_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The three mappings (C10)."""
    return {
        "exponential": arm("steer", budget, seed, lambda_min=PAPER_DOSE),
        "linear": arm("steer", budget, seed, **LINEAR),
        "binary": arm("steer", budget, seed, **BINARY),
    }


def baseline_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """RLOO's and OPO's advantages, without and with STEER (C11).

    OPO is strictly on-policy: a rollout batch is a quarter of the usual one, and one optimiser step is made on it.
    """
    usual = TrainConfig(steps=SIZES[budget].training_steps, learning_rate=LEARNING_RATE)
    on_policy = replace(
        usual,
        steps=usual.steps * usual.mini_batches,
        prompts_per_step=usual.prompts_per_step // usual.mini_batches,
        mini_batches=1,
    )
    return {
        f"{advantage}{suffix}": arm("steer", budget, seed, train=train, advantage=advantage, lambda_min=dose)
        for advantage, train in (("rloo", usual), ("opo", on_policy))
        for suffix, dose in (("", 1.0), (" + steer", PAPER_DOSE))
    }


def tail_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The run whose weights are described (tail)."""
    return {"steer": arm("steer", budget, seed, lambda_min=PAPER_DOSE)}
