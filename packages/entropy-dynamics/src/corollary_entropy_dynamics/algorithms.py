"""Clip_B and Clip_V on top of GRPO, and the paper's gradient-masking controls.

Each overrides one thing: which tokens of the batch stay in the loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl import Algorithm, Batch, GRPOConfig
from corollary_entropy_dynamics.discriminator import (
    deviation,
    entropy_discriminator,
    predicted_entropy_change,
)
from corollary_entropy_dynamics.masks import METRICS as MASK_METRICS
from corollary_entropy_dynamics.masks import (
    Applies,
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
    """Cap on the share of tokens that are dropped, though at least one candidate is (authors' example)."""
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


def discriminator_metrics(batch: Batch) -> dict[str, float]:
    """What the discriminator looks like on a batch: S always, D if the statistics for it are there."""
    valid = batch.rollouts.completion_mask
    s = entropy_discriminator(*batch.behaviour.required("log_prob", "entropy"))[valid].double()
    metrics = {"discriminator/mean": s.mean().item(), "discriminator/std": s.std(correction=0).item()}
    if batch.behaviour.sum_p2 is not None and batch.behaviour.sum_p2_log_p is not None:
        d = deviation(batch.behaviour)[valid].double()
        predicted = predicted_entropy_change(batch.behaviour, batch.advantages)[valid].double()
        metrics |= {
            "deviation/mean": d.mean().item(),
            "deviation/std": d.std(correction=0).item(),
            "predicted/entropy_change": predicted.mean().item(),
        }
    return metrics


S_METRICS = {
    "discriminator/mean": "Mean of S over the completion tokens of the batch.",
    "discriminator/std": "Its population standard deviation.",
}
D_METRICS = {
    "deviation/mean": "Mean of D = S - N over the completion tokens of the batch.",
    "deviation/std": "Its population standard deviation.",
    "predicted/entropy_change": "Mean of -A D over the completion tokens: the first-order change of the entropy "
    "per unit of step that the logits take.",
}


class ClipB(Algorithm):
    """GRPO with batch-normalised clipping of the entropy discriminator (arXiv:2602.03392)."""

    Config = ClipBConfig
    config: ClipBConfig
    # The authors' value, named so that a benchmark's run is the one that the claims ask for.
    benchmark: ClassVar[Mapping[str, Any] | None] = {"mu": 2.5}
    metrics: ClassVar[Mapping[str, str]] = {**S_METRICS, **MASK_METRICS}

    def prepare(self, batch: Batch) -> Batch:
        """Replace the mask by `clip_b_mask` at the behaviour policy: the loss is normalised over what is kept."""
        c = self.config
        clipped = clip_b_mask(
            batch.behaviour,
            batch.advantages,
            batch.mask,
            log_probs=batch.rollouts.sampling_log_probs if c.log_prob_source == "rollout" else None,
            mu=c.mu,
            mu_high=c.mu_high,
            applies=c.applies,
            lower=c.lower,
            upper=c.upper,
            process_group=self.process_group,
        )
        return replace(batch, mask=clipped.mask, metrics={**discriminator_metrics(batch), **clipped.metrics})


class ClipV(Algorithm):
    """GRPO with vocabulary-normalised clipping of the entropy discriminator (arXiv:2602.03392)."""

    Config = ClipVConfig
    config: ClipVConfig
    # The authors' mu 8.5 with a cap of one token in 10,000 drops nothing in a batch of some thousand tokens.
    benchmark: ClassVar[Mapping[str, Any] | None] = {"mu": 2.0, "max_fraction": 1.0}
    behaviour_stats = frozenset({"log_prob", "entropy", "sum_p2", "sum_p2_log_p"})
    metrics: ClassVar[Mapping[str, str]] = {**S_METRICS, **D_METRICS, **MASK_METRICS}

    def prepare(self, batch: Batch) -> Batch:
        """Replace the mask by `clip_v_mask` at the behaviour policy: the loss is normalised over what is kept."""
        c = self.config
        clipped = clip_v_mask(
            batch.behaviour,
            batch.advantages,
            batch.mask,
            mu=c.mu,
            max_fraction=c.max_fraction,
            strict_official=c.strict_official,
            process_group=self.process_group,
        )
        return replace(batch, mask=clipped.mask, metrics={**discriminator_metrics(batch), **clipped.metrics})


class ObservedGRPO(Algorithm):
    """GRPO, with the discriminator and the tokens that the upper clip holds back in the log. Trains exactly as GRPO."""

    benchmark: ClassVar[Mapping[str, Any] | None] = None
    behaviour_stats = frozenset({"log_prob", "entropy", "sum_p2", "sum_p2_log_p"})
    metrics: ClassVar[Mapping[str, str]] = {
        **S_METRICS,
        **D_METRICS,
        "batch/tokens": "Completion tokens of the batch.",
        "clip_high/old_prob": "Mean old probability of the tokens that the upper clip holds back.",
        "clip_high/negative_deviation": "Share of those tokens with D < 0.",
        "unclipped/old_prob": "Mean old probability of the tokens that no clip holds back.",
    }

    def prepare(self, batch: Batch) -> Batch:
        """Log S and D, and keep D for the updates."""
        metrics = {**discriminator_metrics(batch), "batch/tokens": float(batch.rollouts.completion_mask.sum())}
        return replace(batch, per_token={"deviation": deviation(batch.behaviour)}, metrics=metrics)

    def update_metrics(self, batch: Batch, stats: TokenStats) -> dict[str, tuple[Tensor, Tensor]]:
        """GRPO's clip fractions, and who the tokens are that the upper clip holds back."""
        high, low, dual = self.clip_events(batch, stats)
        free = batch.mask & ~(high | low | dual)
        old = batch.old_log_probs.exp()
        return {
            **super().update_metrics(batch, stats),
            "clip_high/old_prob": ((old * high).sum(), high.sum()),
            "clip_high/negative_deviation": ((high & (batch.per_token["deviation"] < 0)).sum(), high.sum()),
            "unclipped/old_prob": ((old * free).sum(), free.sum()),
        }


class SignMask(ObservedGRPO):
    """GRPO that learns only from tokens with chosen signs of A and D: the intervention that tests the theory.

    The loss of the other tokens is zero and the normaliser stays the number of all tokens.
    """

    Config = SignMaskConfig
    config: SignMaskConfig

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """GRPO's loss where both signs are the chosen ones."""
        c = self.config
        chosen = (batch.advantages.sign() == c.keep_advantage) & (
            batch.per_token["deviation"].sign() == c.keep_deviation
        )
        return torch.where(chosen, super().token_loss(batch, stats), 0.0)
