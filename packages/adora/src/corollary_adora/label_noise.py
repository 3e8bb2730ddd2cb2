r"""How much of a label is chance: the probability that it flips between two rollouts of the same prompt and policy.

The difficulty label of a prompt with success probability :math:`\rho` depends on a binomial count alone, so

.. math:: q = P(\mathrm{Bin}(G, \rho) \le \tau G), \qquad P(\text{flip}) = 2 q (1 - q)

(derived here), which is a coin toss at :math:`\rho = \tau` however large the group is. The length label depends on the
distribution of lengths too and is simulated.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from corollary_adora.rule import AdoraConfig, adora_labels

Sampler = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""How many responses, and chance; to which of them are right, bool, and their lengths, integers."""


def difficulty_flip(success: float, size: int, *, tau: float = 0.5) -> float:
    """Probability that DA differs between two independent groups of ``size`` at success probability ``success``."""
    counts = [k for k in range(size + 1) if k / size <= tau]
    q = math.fsum(math.comb(size, k) * success**k * (1 - success) ** (size - k) for k in counts)
    return 2 * q * (1 - q)


def simulated_flip(
    sampler: Sampler, size: int, *, config: AdoraConfig, pairs: int, generator: torch.Generator
) -> float:
    """Share of ``pairs`` of independent groups of ``size`` whose labels differ."""
    correct, lengths = sampler(2 * pairs * size, generator)
    group_ids = torch.arange(2 * pairs).repeat_interleave(size)
    labels = adora_labels(correct, lengths, group_ids, config=config)[::size]
    return (labels[:pairs] != labels[pairs:]).double().mean().item()


def lengths_without_signal(success: float, *, median: float = 400.0, spread: float = 0.5) -> Sampler:
    """Right with probability ``success``, and log-normal lengths that have nothing to do with that."""

    def sample(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        correct = torch.rand(count, generator=generator, dtype=torch.float64) < success
        normal = torch.randn(count, generator=generator, dtype=torch.float64)
        return correct, (median * (spread * normal).exp()).long().clamp(min=1)

    return sample


def four_kinds(p: Tensor, right: Tensor, lengths: Tensor) -> Sampler:
    """Responses of the kinds of `corollary_adora.bandit`, with probabilities ``p``, ``(4,)``."""

    def sample(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        kinds = torch.multinomial(p, count, replacement=True, generator=generator)
        return right[kinds], lengths[kinds]

    return sample
