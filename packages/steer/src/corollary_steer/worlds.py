"""Worlds small enough to know the truth: tables of logits, stepped on as in Assumption 1 or as a softmax is.

Nothing here uses the estimate that it judges: gradients come from autograd or are written out, and entropies from their
definition.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from corollary.kernels import TokenStats, token_stats
from corollary.rl import clipped_surrogate, group_advantages

ALL = ("log_prob", "entropy", "sum_p2", "sum_p2_log_p")
DIFFERENCE_STEP = 1e-5
"""Central differences in float64: truncation and rounding both stay below 1e-10."""


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy of ``softmax(logits)`` over the last axis, nats, straight from the definition."""
    log_p = torch.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1)


def random_logits(count: int, size: int, generator: torch.Generator, *, spread: float = 3.0) -> Tensor:
    """Logits of random states, from flat to peaked, ``(count, size)`` float64."""
    scale = torch.rand(count, 1, generator=generator, dtype=torch.float64) * spread
    return torch.randn(count, size, generator=generator, dtype=torch.float64) * scale


def every_token(logits: Tensor) -> TokenStats:
    """Statistics with each token of the vocabulary as the sampled one, each ``(n, V)``."""
    n, size = logits.shape
    targets = torch.arange(size).expand(n, size)
    return token_stats(logits[:, None, :].expand(n, size, size), targets, stats=ALL)


def own_logits(logits: Tensor) -> Tensor:
    """For every token, the direction in which Assumption 1 moves the logits: ``(1 - p_a) e_a``, ``(n, V, V)``."""
    return torch.diag_embed(1 - torch.softmax(logits, -1))


def all_logits(logits: Tensor) -> Tensor:
    """For every token, the direction in which a softmax is moved: ``e_a - p``, ``(n, V, V)``."""
    return torch.eye(logits.shape[1], dtype=logits.dtype) - torch.softmax(logits, -1)[:, None]


def slope(logits: Tensor, directions: Tensor) -> Tensor:
    """Central difference of the entropy along each direction: ``(n, V)``, ``(n, K, V)`` -> ``(n, K)``."""
    step = DIFFERENCE_STEP * directions
    return (entropy_of(logits[:, None] + step) - entropy_of(logits[:, None] - step)) / (2 * DIFFERENCE_STEP)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """``n`` states with ``G`` sampled tokens each."""

    logits: Tensor
    """Of the policy that is updated, ``(n, V)``."""
    tokens: Tensor
    """``(n, G)``."""
    advantages: Tensor
    """``(n, G)``, normalised over the group of a state."""
    stats: TokenStats
    """At the policy that is updated, each ``(n, G)``."""
    log_probs_old: Tensor
    """``(n, G)``."""


def draw_samples(seed: int, *, states: int, size: int, group: int = 8, drift: float = 0.0) -> Samples:
    """Sampled tokens with verifiable rewards: each token of each state is right or wrong.

    Args:
        seed: Of the world and of the samples.
        states: ``n``.
        size: ``V``.
        group: ``G``.
        drift: Standard deviation of the log-ratio between old and updated policy; 0 is on-policy.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = random_logits(states, size, generator)
    right = (torch.rand(states, size, generator=generator) < 0.3).double()
    tokens = torch.multinomial(torch.softmax(logits, -1), group, replacement=True, generator=generator)
    groups = torch.arange(states).repeat_interleave(group)
    advantages = group_advantages(right.gather(1, tokens).flatten(), groups).view(states, group)
    stats = token_stats(logits[:, None].expand(states, group, size), tokens, stats=ALL)
    (log_probs,) = stats.required("log_prob")
    noise = drift * torch.randn(states, group, generator=generator, dtype=torch.float64)
    return Samples(
        logits=logits,
        tokens=tokens,
        advantages=advantages,
        stats=stats,
        log_probs_old=(log_probs - noise).clamp(max=0.0),
    )


def surrogate_gradient(samples: Samples) -> Tensor:
    """What the clipped loss (0.2, 0.28) of each sample asks of its log-probability, ``-dl / d log pi``, ``(n, G)``."""
    log_probs = samples.stats.required("log_prob")[0].clone().requires_grad_()
    loss = clipped_surrogate(
        log_probs, samples.log_probs_old, samples.advantages, clip_low=0.2, clip_high=0.28, dual_clip=None
    )
    (gradient,) = torch.autograd.grad(loss.sum(), log_probs)
    return -gradient


def stepped(samples: Samples, directions: Tensor, step: float) -> Tensor:
    """Entropy change of every state by one SGD step on its samples, ``(n,)``.

    Args:
        samples: The batch.
        directions: How the logits of a state answer to each token of the vocabulary, ``(n, V, V)``: `own_logits` for
            Assumption 1, `all_logits` for a softmax.
        step: Learning rate over the number of tokens.
    """
    size = samples.logits.shape[1]
    chosen = directions.gather(1, samples.tokens[..., None].expand(*samples.tokens.shape, size))
    gradient = surrogate_gradient(samples)
    moved = samples.logits + step * (gradient[..., None] * chosen).sum(1)
    return entropy_of(moved) - entropy_of(samples.logits)
