"""A mini-batch made up of random states, for the claims on weights and losses."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from corollary.kernels import TokenStats, token_stats
from corollary.rl import Batch, Rollouts
from corollary_steer.worlds import random_logits


class TokenQuantities(NamedTuple):
    """The first four arguments of `steer_weights` and `entropy_change`, each ``(B, T)``."""

    advantages: Tensor
    entropy: Tensor
    """At the behaviour policy."""
    log_probs_old: Tensor
    log_probs: Tensor


@dataclass(frozen=True, kw_only=True)
class SyntheticBatch:
    """Ragged rows of tokens. On padding stand values that would change the result if they counted."""

    tokens: TokenQuantities
    mask: Tensor
    """``(B, T)``, bool."""

    def as_batch(self) -> Batch:
        """The same as what an `Algorithm` gets."""
        rows, length = self.mask.shape
        ids = torch.zeros(rows, length, dtype=torch.int64)
        rollouts = Rollouts(
            prompt_ids=ids[:, :1],
            prompt_mask=torch.ones(rows, 1, dtype=torch.bool),
            completion_ids=ids,
            completion_mask=self.mask,
            sampling_log_probs=self.tokens.log_probs_old,
            rewards=torch.zeros(rows),
            group_ids=torch.arange(rows),
            temperatures=torch.ones(rows),
        )
        behaviour = TokenStats(log_prob=self.tokens.log_probs_old, entropy=self.tokens.entropy)
        return Batch(rollouts=rollouts, advantages=self.tokens.advantages, behaviour=behaviour, mask=self.mask)


def synthetic_batch(seed: int, *, rows: int = 32, length: int = 24, size: int = 30) -> SyntheticBatch:
    """Tokens sampled from random states by a policy that has moved since, so that some ratios are clipped."""
    generator = torch.Generator().manual_seed(seed)
    logits_old = random_logits(rows * length, size, generator, spread=5.0)
    moved = logits_old + 0.3 * torch.randn(logits_old.shape, generator=generator, dtype=torch.float64)
    sampled = torch.multinomial(torch.softmax(logits_old, -1), 1, generator=generator)[:, 0]
    old, new = (token_stats(logits, sampled) for logits in (logits_old, moved))
    lengths = torch.randint(length // 2, length + 1, (rows,), generator=generator)
    mask = torch.arange(length) < lengths[:, None]
    advantages = torch.randn(rows, 1, generator=generator, dtype=torch.float64).expand(rows, length)
    shape = (rows, length)
    old_log_probs, entropy, log_probs = (
        value.view(shape) for value in (*old.required("log_prob", "entropy"), *new.required("log_prob"))
    )
    tokens = TokenQuantities(
        advantages=torch.where(mask, advantages, 100.0),
        entropy=torch.where(mask, entropy, 3.0),
        log_probs_old=torch.where(mask, old_log_probs, -9.0),
        log_probs=torch.where(mask, log_probs, -8.0),
    )
    return SyntheticBatch(tokens=tokens, mask=mask)
