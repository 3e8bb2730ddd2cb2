"""Exact facts about digit-sum by dynamic programming: how many answers there are, and what a tabular policy does."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from corollary_aepo.tabular import DIGITS, RemainingSum


def answers(n_digits: int) -> list[int]:
    """How many strings of ``n_digits`` digits have each sum from 0 to ``9 n_digits``.

    Example:
        >>> counts = answers(6)
        >>> counts[8], counts[27]
        (1287, 55252)
    """
    counts = [1]
    for _ in range(n_digits):
        longer = [0] * (len(counts) + DIGITS - 1)
        for total, ways in enumerate(counts):
            for digit in range(DIGITS):
                longer[total + digit] += ways
        counts = longer
    return counts


def entropy_ceiling(targets: Iterable[int], n_digits: int = 6) -> float:
    r"""The largest mean token entropy of a policy that is always right, nats, averaged over the targets.

    .. math:: \frac{1}{|\mathcal T|} \sum_{t \in \mathcal T} \frac{\ln N_t}{L}

    with :math:`N_t` the number of strings of :math:`L` digits with sum :math:`t`: by the chain rule the token entropies
    of an answer add up to the entropy of the answer, which is largest for the uniform distribution. No target entropy
    above it can be held at accuracy 1.

    Symbols: :math:`\mathcal T` ``targets``, :math:`L` ``n_digits``.

    Raises:
        ValueError: there is no target, or one that no string has.

    Example:
        >>> round(entropy_ceiling([27]), 2), round(entropy_ceiling([8]), 2)
        (1.82, 1.19)
    """
    counts, targets = answers(n_digits), list(targets)
    if not targets or not all(0 <= target < len(counts) for target in targets):
        raise ValueError(f"targets must be at least one sum in [0, {len(counts) - 1}], got {targets}")
    return sum(math.log(counts[target]) for target in targets) / (n_digits * len(targets))


@torch.no_grad()
def exact_policy(policy: RemainingSum, targets: Iterable[int]) -> tuple[float, float]:
    """Mean token entropy (nats) and accuracy of a fully observed tabular policy, averaged over targets, exactly.

    Probabilities of the remaining sums are carried from digit to digit, in float64; nothing is sampled.
    """
    wanted = torch.tensor(list(targets))
    log_p = torch.log_softmax(policy.table.double(), -1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1)
    here = torch.nn.functional.one_hot(wanted + policy.largest_target, p.shape[1]).double()
    total = torch.zeros(len(wanted), dtype=torch.float64)
    for position in range(policy.n_digits):
        total += here @ entropy[position]
        here = _spend(here, p[position])
    return (total.mean() / policy.n_digits).item(), here[:, policy.largest_target].mean().item()


def _spend(here: Tensor, p: Tensor) -> Tensor:
    """Distribution over remaining sums after one more digit, ``(B, S)``, ``(S, 10)`` -> ``(B, S)``."""
    after = torch.zeros_like(here)
    for digit in range(DIGITS):
        moved = here * p[:, digit]
        after[:, : moved.shape[1] - digit] += moved[:, digit:]
    return after
