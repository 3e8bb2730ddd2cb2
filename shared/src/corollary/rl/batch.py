"""What passes between the sampler, an algorithm and the trainer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from corollary.kernels import TokenStats


@dataclass(frozen=True)
class Rollouts:
    """Completions of a batch of prompts, with their rewards.

    ``B`` responses, prompts left-padded to ``P`` tokens, completions right-padded to ``T`` tokens.
    """

    prompt_ids: Tensor
    """``(B, P)``, int64."""
    prompt_mask: Tensor
    """``(B, P)``, bool: False on the padding at the left."""
    completion_ids: Tensor
    """``(B, T)``, int64."""
    completion_mask: Tensor
    """``(B, T)``, bool: True up to and including the stop token."""
    sampling_log_probs: Tensor
    """``(B, T)``, nats: the log-probability of each token under the sampler, at the sampling temperature."""
    rewards: Tensor
    """``(B,)``."""
    group_ids: Tensor
    """``(B,)``, int64: responses to one prompt of the batch share a number."""
    temperature: float
    """The sampling temperature."""

    def __len__(self) -> int:
        return self.completion_ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each completion, ``(B,)``, int64."""
        return self.completion_mask.sum(-1)

    def rows(self, index: Tensor) -> Self:
        """The responses ``index`` of the batch."""
        return replace(self, **{name: value[index] for name, value in vars(self).items() if torch.is_tensor(value)})


@dataclass(frozen=True)
class Batch:
    """Rollouts, and what an algorithm needs to know of them before it trains on them."""

    rollouts: Rollouts
    advantages: Tensor
    """``(B, T)``, 0 on padding."""
    behaviour: TokenStats
    """Token statistics at the behaviour policy (before the first update on the batch) and the training
    temperature, each ``(B, T)`` without gradient, 0 on padding."""
    mask: Tensor
    """``(B, T)``, bool: the tokens that the loss counts. The completion mask, until an algorithm narrows it."""
    per_token: Mapping[str, Tensor] = field(default_factory=dict)
    """What `Algorithm.prepare` hands to `Algorithm.token_loss`, each ``(B, T)``."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What `Algorithm.prepare` wants logged."""
    extra: "Batch | None" = None
    """The answer to `Algorithm.extra_rollouts`, if it asked."""

    def __len__(self) -> int:
        return len(self.rollouts)

    @property
    def old_log_probs(self) -> Tensor:
        """Log-probabilities at the behaviour policy, the denominator of the ratio, ``(B, T)``."""
        return self.behaviour.required("log_prob")[0]

    def rows(self, index: Tensor) -> Self:
        """The responses ``index`` of the batch, without `metrics` and `extra`."""
        return replace(
            self,
            rollouts=self.rollouts.rows(index),
            advantages=self.advantages[index],
            behaviour=TokenStats(*(None if value is None else value[index] for value in self.behaviour)),
            mask=self.mask[index],
            per_token={name: value[index] for name, value in self.per_token.items()},
            metrics={},
            extra=None,
        )
