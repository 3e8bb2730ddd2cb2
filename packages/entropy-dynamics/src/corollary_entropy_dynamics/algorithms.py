"""Clip_B and Clip_V on top of GRPO, and the paper's gradient-masking controls.

Each overrides one thing: which tokens of the batch stay in the loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl import Algorithm, Batch, GRPOConfig, clip_events
from corollary_entropy_dynamics.discriminator import (
    deviation,
    entropy_discriminator,
    predicted_entropy_change,
)
from corollary_entropy_dynamics.masks import METRICS as MASK_METRICS
from corollary_entropy_dynamics.masks import (
    Applies,
    ClipMask,
    check_clip_b_options,
    check_clip_v_options,
    clip_b_mask,
    clip_v_mask,
)


@dataclass(frozen=True, kw_only=True)
class ClipBConfig(GRPOConfig):
    """Hyper-parameters of Clip_B."""

    mu: float = 2.5
    """Outlier threshold, in standard deviations (authors' example; the paper sweeps 2.0 to 3.0)."""
    mu_high: float | None = None
    """Threshold of the upper tail; None for ``mu``."""
    applies: Applies = "negative"
    """Advantages that the rule applies to (released code: negative)."""
    lower: bool = True
    """Clip the lower tail (released code: yes)."""
    upper: bool = False
    """Clip the upper tail (released code: no)."""
    log_prob_source: Literal["recomputed", "rollout"] = "recomputed"
    """The log-probability in S. The released code takes the sampler's, though its comment says recomputed; with a
    sampler of another precision or temperature the two differ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip_b_options(self.mu, self.mu_high, self.applies, self.lower, self.upper)
        if self.log_prob_source not in ("recomputed", "rollout"):
            raise ValueError(f"log_prob_source must be 'recomputed' or 'rollout', got {self.log_prob_source!r}")


@dataclass(frozen=True, kw_only=True)
class ClipVConfig(GRPOConfig):
    """Hyper-parameters of Clip_V."""

    mu: float = 8.5
    """Outlier threshold in batch deviations of D (authors' example; the paper sweeps 7.5 to 8.5)."""
    max_fraction: float = 1e-4
    """At most this share of the tokens is dropped (authors' example)."""
    strict_official: bool = False
    """Let tokens with zero advantage be candidates, as the released code does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip_v_options(self.mu, self.max_fraction)


@dataclass(frozen=True, kw_only=True)
class SignMaskConfig(GRPOConfig):
    """Which tokens keep their gradient in a masking run (paper: the four-way intervention)."""

    keep_advantage: Literal[1, -1] = 1
    """Sign of the advantage."""
    keep_deviation: Literal[1, -1] = 1
    """Sign of D = S - N."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("keep_advantage", "keep_deviation"):
            if getattr(self, name) not in (1, -1):
                raise ValueError(f"{name} must be 1 or -1, got {getattr(self, name)}")


class ObservedGRPO(Algorithm):
    """GRPO, with the discriminator's statistics in the log. Trains exactly as GRPO."""

    name = "grpo-observed"
    behaviour_stats = frozenset({"log_prob", "entropy", "sum_p2", "sum_p2_log_p"})
    metrics: ClassVar[Mapping[str, str]] = {
        "discriminator/mean": "Mean of S over the completion tokens of the batch.",
        "discriminator/std": "Its population standard deviation.",
        "deviation/mean": "Mean of D = S - N over the completion tokens of the batch.",
        "deviation/std": "Its population standard deviation.",
        "predicted/entropy_change": "Mean of -A D over the completion tokens: the first-order change of the entropy "
        "per unit of step that the logits take.",
        "tokens": "Completion tokens of the batch.",
        "clip_high/old_prob": "Mean old probability of the tokens that the upper clip holds back.",
        "clip_high/negative_deviation": "Share of those tokens with D < 0.",
        "unclipped/old_prob": "Mean old probability of the tokens that no clip holds back.",
        **MASK_METRICS,
    }

    def clip(self, batch: Batch) -> ClipMask:
        """The tokens that stay in the loss. Plain GRPO keeps all."""
        return ClipMask(batch.mask, dict.fromkeys(MASK_METRICS, 0.0))

    def prepare(self, batch: Batch) -> Batch:
        """Replace the mask, so that the loss is normalised over the kept tokens, and log S and D."""
        clipped = self.clip(batch)
        valid = batch.rollouts.completion_mask
        s = entropy_discriminator(*batch.behaviour.required("log_prob", "entropy"))[valid].double()
        d = deviation(batch.behaviour)
        metrics = {
            "discriminator/mean": s.mean().item(),
            "discriminator/std": s.std(correction=0).item(),
            "deviation/mean": d[valid].double().mean().item(),
            "deviation/std": d[valid].double().std(correction=0).item(),
            "predicted/entropy_change": predicted_entropy_change(batch.behaviour, batch.advantages)[valid]
            .double()
            .mean()
            .item(),
            "tokens": float(valid.sum()),
            **clipped.metrics,
        }
        return replace(
            batch,
            mask=clipped.mask,
            per_token={**batch.per_token, "deviation": d},
            metrics={**batch.metrics, **metrics},
        )

    def update_metrics(self, batch: Batch, stats: TokenStats) -> dict[str, tuple[Tensor, Tensor]]:
        """GRPO's clip fractions, and who the tokens are that the upper clip holds back."""
        c = self.config
        events = clip_events(
            *stats.required("log_prob"),
            batch.old_log_probs,
            batch.advantages,
            clip_low=c.clip_low,
            clip_high=c.clip_high,
            dual_clip=c.dual_clip,
        )
        old = batch.old_log_probs.exp()
        high = events.high & batch.mask
        free = batch.mask & ~(events.high | events.low | events.dual)
        return {
            **super().update_metrics(batch, stats),
            "clip_high/old_prob": ((old * high).sum(), high.sum()),
            "clip_high/negative_deviation": ((high & (batch.per_token["deviation"] < 0)).sum(), high.sum()),
            "unclipped/old_prob": ((old * free).sum(), free.sum()),
        }


class ClipB(ObservedGRPO):
    """GRPO with batch-normalised clipping of the entropy discriminator (arXiv:2602.03392)."""

    name = "clip-b"
    Config = ClipBConfig
    config: ClipBConfig

    def clip(self, batch: Batch) -> ClipMask:
        """`clip_b_mask` at the behaviour policy."""
        c = self.config
        recomputed = c.log_prob_source == "recomputed"
        return clip_b_mask(
            batch.old_log_probs if recomputed else batch.rollouts.sampling_log_probs,
            *batch.behaviour.required("entropy"),
            batch.advantages,
            batch.mask,
            mu=c.mu,
            mu_high=c.mu_high,
            applies=c.applies,
            lower=c.lower,
            upper=c.upper,
        )


class ClipV(ObservedGRPO):
    """GRPO with vocabulary-normalised clipping of the entropy discriminator (arXiv:2602.03392)."""

    name = "clip-v"
    Config = ClipVConfig
    config: ClipVConfig

    def clip(self, batch: Batch) -> ClipMask:
        """`clip_v_mask` at the behaviour policy."""
        c = self.config
        return clip_v_mask(
            batch.behaviour,
            batch.advantages,
            batch.mask,
            mu=c.mu,
            max_fraction=c.max_fraction,
            strict_official=c.strict_official,
        )


class SignMask(ObservedGRPO):
    """GRPO that learns only from tokens with chosen signs of A and D: the intervention that tests the theory.

    The loss of the other tokens is zero and the normaliser stays the number of all tokens.
    """

    name = "sign-mask"
    Config = SignMaskConfig
    config: SignMaskConfig

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """GRPO's loss where both signs are the chosen ones."""
        c = self.config
        chosen = (batch.advantages.sign() == c.keep_advantage) & (
            batch.per_token["deviation"].sign() == c.keep_deviation
        )
        return torch.where(chosen, super().token_loss(batch, stats), 0.0)
