"""STEER on top of GRPO: its weights on the clipped token loss, in the core's protocol."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from corollary.kernels import TokenStats
from corollary.rl import (
    Algorithm,
    Batch,
    GRPOConfig,
    Rollouts,
    leave_one_out_advantages,
    length_weighted_advantages,
)
from corollary_steer.entropy_change import Form, check_form
from corollary_steer.weights import (
    METRICS,
    Mode,
    OnNonfinite,
    SteerWeights,
    WeightMapping,
    check_weight_options,
    steer_weights,
)

Scope = Literal["micro", "mini", "global"]
Advantage = Literal["grpo", "rloo", "opo"]


@dataclass(frozen=True, kw_only=True)
class SteerConfig(GRPOConfig):
    """Hyper-parameters of STEER. The clip constants are those of the released scripts."""

    clip_high: float = 0.28
    """DAPO's clip-higher is part of the base recipe."""
    dual_clip: float | None = 10.0
    """The scripts' value; verl's default is 3."""
    advantage: Advantage = "grpo"
    """Group-normalised as in the main results, or the baseline of RLOO or OPO (appendix), which divide by nothing."""
    lambda_min: float = 0.7
    """Weight of the largest predicted change (paper v4: 0.7; released exponential script: 0.8)."""
    mapping: WeightMapping = "exponential"
    """The paper's method; see `steer_weights` for the others."""
    mode: Mode = "symmetric"
    """``"asymmetric"`` damps only updates that lower the entropy (an earlier public release)."""
    weight_max: float | None = None
    """Largest weight of the linear mapping and of the asymmetric mode; None for the released value."""
    binary_threshold: float = 0.5
    """Of the binary mapping, whose public definition we have not seen: ours."""
    floor: float = 0.02
    """Changes below this are damped as if the largest of them were this (released code)."""
    form: Form = "released"
    """Of the predicted change: see `entropy_change`."""
    use_clip_indicator: bool = False
    """The theorem has it, the released code has not."""
    on_nonfinite: OnNonfinite = "raise"
    """The released code: ``"zero"``."""
    scope: Scope = "mini"
    """What the maximum is taken over: the mini-batch, whatever its split into micro-batches; ``"micro"``, as released,
    where that split is part of the method; or ``"global"``, the mini-batches of all ranks of ``process_group``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_form(self.form)
        check_weight_options(
            lambda_min=self.lambda_min,
            mapping=self.mapping,
            mode=self.mode,
            weight_max=self.weight_max,
            binary_threshold=self.binary_threshold,
            floor=self.floor,
            on_nonfinite=self.on_nonfinite,
        )
        for name, value, known in (("scope", self.scope, Scope), ("advantage", self.advantage, Advantage)):
            if value not in get_args(known):
                raise ValueError(f"{name} must be one of {get_args(known)}, got {value!r}")


def configured_weights(
    config: SteerConfig,
    behaviour: TokenStats,
    advantages: Tensor,
    log_probs: Tensor,
    mask: Tensor,
    *,
    process_group: ProcessGroup | None = None,
) -> SteerWeights:
    """`steer_weights` with the options of a configuration, and the old log-probability and entropy of ``behaviour``."""
    log_probs_old, entropy = behaviour.required("log_prob", "entropy")
    return steer_weights(
        advantages,
        entropy,
        log_probs_old,
        log_probs,
        mask,
        lambda_min=config.lambda_min,
        mapping=config.mapping,
        mode=config.mode,
        weight_max=config.weight_max,
        binary_threshold=config.binary_threshold,
        floor=config.floor,
        form=config.form,
        sum_p2=behaviour.sum_p2,
        sum_p2_log_p=behaviour.sum_p2_log_p,
        use_clip_indicator=config.use_clip_indicator,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        on_nonfinite=config.on_nonfinite,
        process_group=process_group,
    )


class Steer(Algorithm):
    """GRPO whose token losses are weighted by how little they are predicted to change the entropy (arXiv:2510.10150).

    The weights multiply the clipped loss and carry no gradient; the normaliser stays that of the base loss, the number
    of tokens and not the sum of the weights.
    """

    Config = SteerConfig
    config: SteerConfig
    metrics: ClassVar[Mapping[str, str]] = {
        **METRICS,
        "kl/old": "Mean of r - 1 - log r over the tokens of the loss: an estimate of KL(old policy || trained policy).",
    }

    def __init__(self, config: SteerConfig | None = None) -> None:
        super().__init__(config)
        if self.config.form == "exact":
            self.behaviour_stats = frozenset({"log_prob", "entropy", "sum_p2", "sum_p2_log_p"})

    def advantages(self, rollouts: Rollouts) -> Tensor:
        """GRPO's, RLOO's or OPO's, one for each response."""
        singleton = self.config.singleton
        if self.config.advantage == "rloo":
            return leave_one_out_advantages(rollouts.rewards, rollouts.group_ids, singleton=singleton)
        if self.config.advantage == "opo":
            return length_weighted_advantages(
                rollouts.rewards, rollouts.lengths, rollouts.group_ids, singleton=singleton
            )
        return super().advantages(rollouts)

    def weights(self, batch: Batch, stats: TokenStats) -> SteerWeights:
        """The weights of these rows, relative to these rows (with scope ``"global"``, to those of all ranks)."""
        (log_probs,) = stats.required("log_prob")
        group = self.process_group if self.config.scope == "global" else None
        return configured_weights(
            self.config, batch.behaviour, batch.advantages, log_probs, batch.mask, process_group=group
        )

    def prepare_mini_batch(self, batch: Batch, stats: TokenStats) -> Batch:
        """The weights, so that they do not depend on the split into micro-batches; not for scope ``"micro"``."""
        if self.config.scope == "micro":
            return batch
        weights, metrics = self.weights(batch, stats)
        return replace(batch, per_token={**batch.per_token, "weights": weights}, metrics={**batch.metrics, **metrics})

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """The clipped loss of each token, times its weight."""
        weights = batch.per_token["weights"] if "weights" in batch.per_token else self.weights(batch, stats).weights
        return weights * super().token_loss(batch, stats)

    def update_metrics(self, batch: Batch, stats: TokenStats) -> dict[str, tuple[Tensor, Tensor]]:
        """GRPO's, the divergence from the behaviour policy and, for scope ``"micro"``, the weights."""
        (log_probs,) = stats.required("log_prob")
        log_ratio = (log_probs - batch.old_log_probs)[batch.mask].double()
        logged = {
            **super().update_metrics(batch, stats),
            "kl/old": ((log_ratio.expm1() - log_ratio).sum(), batch.mask.sum()),
        }
        if self.config.scope == "micro":
            one = torch.ones(())
            metrics = self.weights(batch, stats).metrics
            logged |= {name: (torch.tensor(value), one) for name, value in metrics.items()}
        return logged
