"""What passes between the sampler, an algorithm and the trainer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    temperatures: Tensor
    """``(B,)``: the sampling temperature of each response."""

    def __len__(self) -> int:
        return self.completion_ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each completion, ``(B,)``, int64."""
        return self.completion_mask.sum(-1)

    def rows(self, index: Tensor) -> Self:
        """The responses ``index`` of the batch."""
        return replace(self, **{name: value[index] for name, value in vars(self).items()})


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
    """The answer to `Algorithm.extra_rollouts`, if it asked. Its group ids differ from those of the batch."""
    generator: torch.Generator | None = None
    """The run's own randomness, part of its checkpoint: for methods that choose at random."""
    in_order: bool = False
    """Whether mini-batches take the rows as they stand; else in a random order, a new one each epoch."""

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


def concatenate(parts: Sequence[Batch]) -> Batch:
    """One batch of all responses of ``parts``, in order; for methods that mix samples.

    Prompts are padded at the left and completions at the right to the widest part, with masks False, statistics 0 and
    token id 0 there. Group ids are kept, so a group may have members in several parts. `metrics`, `extra`,
    `generator` and `in_order` are those of the first part.

    Raises:
        ValueError: there is no part, or the parts differ in which statistics or per-token tensors they have.
    """
    if not parts:
        raise ValueError("concatenate needs at least one batch, got none")
    first = parts[0]
    for part in parts[1:]:
        ours = [name for name, value in zip(TokenStats._fields, first.behaviour, strict=True) if value is not None]
        theirs = [name for name, value in zip(TokenStats._fields, part.behaviour, strict=True) if value is not None]
        if ours != theirs or set(first.per_token) != set(part.per_token):
            raise ValueError(
                f"batches must have the same statistics and per-token tensors, got {ours} and {theirs}, "
                f"{sorted(first.per_token)} and {sorted(part.per_token)}"
            )
    width = max(part.rollouts.prompt_ids.shape[1] for part in parts)
    length = max(part.rollouts.completion_ids.shape[1] for part in parts)

    def left(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(x, (width - x.shape[1], 0)) for x in tensors])

    def right(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(x, (0, length - x.shape[1])) for x in tensors])

    def joined(name: str) -> Tensor:
        tensors = [getattr(part.rollouts, name) for part in parts]
        if tensors[0].ndim == 1:
            return torch.cat(tensors)
        return left(tensors) if name.startswith("prompt") else right(tensors)

    return replace(
        first,
        rollouts=Rollouts(**{name: joined(name) for name in vars(first.rollouts)}),
        advantages=right([part.advantages for part in parts]),
        behaviour=TokenStats(
            *(
                None if values[0] is None else right(values)
                for values in zip(*(p.behaviour for p in parts), strict=True)
            )
        ),
        mask=right([part.mask for part in parts]),
        per_token={name: right([part.per_token[name] for part in parts]) for name in first.per_token},
    )
