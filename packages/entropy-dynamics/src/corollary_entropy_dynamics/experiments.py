"""The training runs behind the scaled claims, for each budget.

Two tasks (see `corollary.tasks`): plain ``digit-sum`` for the claims on single updates (C5, C6, C7), and
``digit-sum-running``, whose mixture of uncertain and nearly deterministic tokens Clip_B and Clip_V need, for the
claims on training (C8, C9, C10).
"""

from dataclasses import dataclass
from typing import Any

from corollary.models import WarmStart
from corollary.papers import Budget
from corollary.rl import TrainConfig
from corollary.rl.rlvr import RLVR
from corollary.runs import Run, options_of
from corollary_entropy_dynamics.network import NetworkStep

SEEDS = {Budget.SMOKE: (0,), Budget.QUICK: (0, 1, 2, 3, 4), Budget.FULL: (0, 1, 2, 3, 4)}
"""The pilot that fixed tasks, step sizes and doses used seeds from 1001."""

SIGNS = {"A>0, D>0": (1, 1), "A>0, D<0": (1, -1), "A<0, D>0": (-1, 1), "A<0, D<0": (-1, -1)}
"""The four masking runs: which tokens keep their gradient."""

CLIP_B_DOSES = (1.0, 1.75, 2.5)
"""The last is the authors' value."""

CLIP_V = {"mu": 2.0, "max_fraction": 1.0}
"""The authors' mu 8.5 with a cap of one token in 10,000 drops nothing in a batch of 3,840 tokens of this policy."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long the runs of a budget are."""

    warm_start_steps: dict[str, int]
    on_policy_steps: int
    """GRPO on digit-sum (C5, C7)."""
    control_steps: int
    """The negative control of C5."""
    masking_steps: int
    """Each of the four masking runs (C6)."""
    training_steps: int
    """Each arm of C8, C9 and C10."""
    network_tokens: int
    evaluation_samples: int


SIZES = {
    Budget.SMOKE: Size(
        warm_start_steps={"digit-sum": 20, "digit-sum-running": 20},
        on_policy_steps=2,
        control_steps=2,
        masking_steps=2,
        training_steps=2,
        network_tokens=8,
        evaluation_samples=4,
    ),
    Budget.QUICK: Size(
        warm_start_steps={"digit-sum": 400, "digit-sum-running": 600},
        on_policy_steps=60,
        control_steps=5,
        masking_steps=20,
        training_steps=60,
        network_tokens=128,
        evaluation_samples=64,
    ),
    Budget.FULL: Size(
        warm_start_steps={"digit-sum": 400, "digit-sum-running": 600},
        on_policy_steps=200,
        control_steps=20,
        masking_steps=60,
        training_steps=400,
        network_tokens=256,
        evaluation_samples=64,
    ),
}


def warm_start(task: str, budget: Budget) -> WarmStart:
    """The policy that all runs of a task start from."""
    return WarmStart(task=task, steps=SIZES[budget].warm_start_steps[task])


def run(
    task: str,
    algorithm: str,
    budget: Budget,
    seed: int,
    *,
    train: TrainConfig,
    samples: int = 0,
    **options: Any,
) -> Run:
    """One training run."""
    return Run(
        RLVR(
            task=task,
            algorithm=algorithm,
            options=options_of(options),
            train=train,
            warm_start=warm_start(task, budget),
            evaluation_samples=samples,
        ),
        seed,
    )


def on_policy_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """GRPO with the discriminator in its log (C5, C7)."""
    train = TrainConfig(steps=SIZES[budget].on_policy_steps, learning_rate=6e-4)
    return {"grpo": run("digit-sum", "grpo-observed", budget, seed, train=train)}


def on_policy_and_control_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The same, and a run whose statistics are at another temperature than its samples (C5)."""
    control = TrainConfig(steps=SIZES[budget].control_steps, learning_rate=6e-4, temperature=0.7, score_temperature=1.0)
    return {
        **on_policy_runs(budget, seed),
        "control": run("digit-sum", "grpo-observed", budget, seed, train=control),
    }


def masking_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The four interventions (C6)."""
    train = TrainConfig(steps=SIZES[budget].masking_steps, learning_rate=6e-4)
    return {
        name: run(
            "digit-sum",
            "sign-mask",
            budget,
            seed,
            train=train,
            keep_advantage=advantage,
            keep_deviation=deviation,
        )
        for name, (advantage, deviation) in SIGNS.items()
    }


def arm(algorithm: str, budget: Budget, seed: int, **options: Any) -> Run:
    """One method on the mixed-entropy task (C8, C9, C10)."""
    size = SIZES[budget]
    train = TrainConfig(steps=size.training_steps, learning_rate=1e-4)
    return run("digit-sum-running", algorithm, budget, seed, train=train, samples=size.evaluation_samples, **options)


def method_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """GRPO, clip-higher, Clip_B and Clip_V at equal budget (C8, C10)."""
    return {
        "grpo": arm("grpo", budget, seed),
        "clip-higher": arm("clip-higher", budget, seed),
        "clip-b": arm("clip-b", budget, seed, mu=CLIP_B_DOSES[-1]),
        "clip-v": arm("clip-v", budget, seed, **CLIP_V),
    }


def dose_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """Clip_B at three doses (C9)."""
    return {f"mu={mu}": arm("clip-b", budget, seed, mu=mu) for mu in CLIP_B_DOSES}


def network_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """Single-token steps of the network, and a training run (C3 in a network)."""
    steps = NetworkStep(
        task="digit-sum", warm_start=warm_start("digit-sum", budget), tokens=SIZES[budget].network_tokens
    )
    return {"steps": Run(steps, seed), **on_policy_runs(budget, seed)}
