"""The training runs behind the scaled claims, for each budget.

All on ``digit-sum``. Tabular policies carry the control claims (C2, C9): they are cheap, and what a policy could do at
best is known exactly. A small transformer carries the claims on collapse, cost and exploration (C1, C3 to C6).
"""

from dataclasses import dataclass
from typing import Any

from corollary.models import StartingPolicy, WarmStart
from corollary.papers import Budget
from corollary.rl import TrainConfig
from corollary.rl.rlvr import RLVR
from corollary.runs import Run, options_of
from corollary_aepo.base_policy import BasePolicy
from corollary_aepo.tabular_start import TabularStart

TASK = "digit-sum"

SEEDS = {Budget.SMOKE: (0,), Budget.QUICK: (0, 1, 2, 3, 4), Budget.FULL: (0, 1, 2, 3, 4)}
"""The pilot that fixed step sizes and lengths used seeds from 1001."""

SHARE = 0.25
"""The most REINFORCE samples, as a share of the batch. The authors' 60 of 2560 are 6 of the 256 responses here."""

SMALLER_SHARES = (60 / 2560, 0.05, 0.1)

TABLE_TARGETS = (0.6, 0.8, 1.0, 1.2)
"""Below the ceiling of the always-right policies, `corollary_aepo.entropy_ceiling`."""

DOSE_TARGET = 0.8
"""Where the smaller shares are tried: below where GRPO ends, so that it takes control to get there."""

MEMORY_TARGET = 1.0

NETWORK_TARGETS = (0.25, 0.5, 1.0, 1.5, 2.0)

CONTROLLED = (0.5, 1.0, 1.5)
"""The targets of the transformer that C2 judges."""

COEFFICIENTS = (0.01, 0.03, 0.1)
"""Of the entropy bonus; the middle one is the default of the field in the released code."""

ABLATIONS = ("temperature", "selection", "reinforce")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long the runs of a budget are."""

    table_steps: int
    network_steps: int
    warm_start_steps: int
    demonstrations: int
    evaluation_samples: int


SIZES = {
    Budget.SMOKE: Size(table_steps=2, network_steps=2, warm_start_steps=20, demonstrations=2_000, evaluation_samples=4),
    Budget.QUICK: Size(
        table_steps=80, network_steps=20, warm_start_steps=400, demonstrations=100_000, evaluation_samples=64
    ),
    Budget.FULL: Size(
        table_steps=300, network_steps=260, warm_start_steps=800, demonstrations=100_000, evaluation_samples=256
    ),
}


def run(start: StartingPolicy, train: TrainConfig, seed: int, algorithm: str, samples: int = 0, **options: Any) -> Run:
    """One training run."""
    return Run(
        RLVR(
            task=TASK,
            algorithm=algorithm,
            options=options_of(options),
            train=train,
            warm_start=start,
            evaluation_samples=samples,
        ),
        seed,
    )


def table(budget: Budget, seed: int, algorithm: str, *, memory: str = "remaining-sum", **options: Any) -> Run:
    """One run of a tabular policy. Decay would pull its logits, which nothing else moves, towards uniform."""
    size = SIZES[budget]
    start = TabularStart(task=TASK, memory=memory, demonstrations=size.demonstrations)
    train = TrainConfig(steps=size.table_steps, learning_rate=0.05, weight_decay=0.0, checkpoint_every=100)
    return run(start, train, seed, algorithm, **options)


def network(budget: Budget, seed: int, algorithm: str, **options: Any) -> Run:
    """One run of the transformer, evaluated on the held-out prompts."""
    size = SIZES[budget]
    train = TrainConfig(steps=size.network_steps, learning_rate=9e-4)
    return run(network_start(budget), train, seed, algorithm, samples=size.evaluation_samples, **options)


def network_start(budget: Budget) -> WarmStart:
    """The transformer that all its runs start from."""
    return WarmStart(task=TASK, steps=SIZES[budget].warm_start_steps)


def base(budget: Budget, seed: int) -> Run:
    """Its own answers to the held-out prompts."""
    return Run(
        BasePolicy(task=TASK, warm_start=network_start(budget), evaluation_samples=SIZES[budget].evaluation_samples),
        seed,
    )


def table_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """AEPO with selection by reward at each target, and GRPO (C2)."""
    return {
        "grpo": table(budget, seed, "grpo"),
        **{
            f"H={target:g}": table(budget, seed, "aepo", target=target, select="reward", reinforce_fraction=SHARE)
            for target in TABLE_TARGETS
        },
    }


def released_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The same with the released code's selection rule (C2-released)."""
    return {
        "grpo": table(budget, seed, "grpo"),
        **{
            f"H={target:g}": table(budget, seed, "aepo", target=target, reinforce_fraction=SHARE)
            for target in TABLE_TARGETS
        },
    }


def dose_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """Smaller shares of REINFORCE samples (C2-share)."""
    return {
        f"m={share:.3f}": table(budget, seed, "aepo", target=DOSE_TARGET, select="reward", reinforce_fraction=share)
        for share in (*SMALLER_SHARES, SHARE)
    }


def memory_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The policy that has to be repetitive to be right: GRPO, AEPO, and AEPO with hotter temperatures (C2-memory)."""
    common = {"memory": "previous-digit", "target": MEMORY_TARGET, "reinforce_fraction": SHARE}
    return {
        "grpo": table(budget, seed, "grpo", memory="previous-digit"),
        "released": table(budget, seed, "aepo", **common),
        "hotter": table(budget, seed, "aepo", **common, select="reward", t_high=3.0, t_low=0.5),
    }


def ablation_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """AEPO without one of its parts, at the lowest and the highest target (C9)."""
    ends = (TABLE_TARGETS[0], TABLE_TARGETS[-1])
    whole = table_runs(budget, seed)
    runs = {f"whole, H={target:g}": whole[f"H={target:g}"] for target in ends}
    for part in ABLATIONS:
        for target in ends:
            runs[f"{part}, H={target:g}"] = table(
                budget,
                seed,
                "aepo-ablation",
                target=target,
                select="reward",
                reinforce_fraction=SHARE,
                without=part,
            )
    return runs


def collapse_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """GRPO on the transformer (C1)."""
    return {"grpo": network(budget, seed, "grpo")}


def network_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The base policy, GRPO, and AEPO at each target, on the transformer (C2-network, C3, C4, C5)."""
    return {
        "base": base(budget, seed),
        **collapse_runs(budget, seed),
        **{
            f"H={target:g}": network(budget, seed, "aepo", target=target, select="reward", reinforce_fraction=SHARE)
            for target in NETWORK_TARGETS
        },
    }


def bonus_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """AEPO at the judged targets, and GRPO with an entropy bonus (C6)."""
    runs = network_runs(budget, seed)
    return {
        **{f"H={target:g}": runs[f"H={target:g}"] for target in CONTROLLED},
        **{f"bonus {c:g}": network(budget, seed, "entropy-bonus", coefficient=c) for c in COEFFICIENTS},
    }
