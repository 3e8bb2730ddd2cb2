"""Any weighting of prompts on any estimator of advantages, and the two controls of such weightings."""

from typing import Protocol

import torch
from torch import Tensor

from corollary.rl import group_advantages
from corollary_adora.rule import groups


class AdvantageEstimator(Protocol):
    """Advantages from rewards: `corollary.rl.group_advantages`, a leave-one-out mean, or the rewards themselves."""

    def __call__(self, rewards: Tensor, group_ids: Tensor, /) -> Tensor:
        """``(B,)`` and ``(B,)`` to ``(B,)``, or ``(B, T)`` for an estimator of token advantages."""
        ...


class AdvantageWeighting(Protocol):
    """Weights from rollouts: `corollary_adora.adora_weights` with its ``config`` bound, or your own."""

    def __call__(self, correct: Tensor, lengths: Tensor, group_ids: Tensor, /) -> Tensor:
        """Rewards, lengths and group ids, each ``(B,)``, to non-negative weights ``(B,)``."""
        ...


def weighted_advantages(
    rewards: Tensor,
    lengths: Tensor,
    group_ids: Tensor,
    *,
    weighting: AdvantageWeighting,
    estimator: AdvantageEstimator = group_advantages,
) -> Tensor:
    r"""Advantages times the weight of their prompt, :math:`A_{i,t} \leftarrow w_s A_i` (arXiv:2602.10019, Eq. 4).

    Args:
        rewards: ``(B,)``.
        lengths: Tokens of each response, ``(B,)``.
        group_ids: ``(B,)``, integers.
        weighting: Rollouts to weights. For ADORA: ``functools.partial(adora_weights, config=...)``.
        estimator: Rewards to advantages; GRPO's by default.

    Returns:
        The estimator's shape and type.

    Raises:
        ValueError: the weights are not ``(B,)``, or one is negative or not finite.

    Example:
        >>> rewards, groups = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1])
        >>> def doubled(correct, lengths, group_ids):
        ...     return torch.full(correct.shape, 2.0)
        >>> def raw(rewards, group_ids):
        ...     return rewards
        >>> weighted_advantages(rewards, torch.ones(4), groups, weighting=doubled, estimator=raw).tolist()
        [2.0, 0.0, 2.0, 0.0]
    """
    return apply_weights(estimator(rewards, group_ids), weighting(rewards, lengths, group_ids))


def apply_weights(advantages: Tensor, weights: Tensor) -> Tensor:
    """Each response's advantage, ``(B,)`` or ``(B, T)``, times its weight ``(B,)``; the weights carry no gradient.

    Raises:
        ValueError: the weights are not ``(B,)``, or one is negative or not finite.
    """
    if weights.shape != advantages.shape[:1]:
        raise ValueError(f"weights must be (B,) = {tuple(advantages.shape[:1])}, got {tuple(weights.shape)}")
    refused = ~(weights.isfinite() & (weights >= 0))
    if bool(refused.any()):
        raise ValueError(f"weights must be finite and at least 0, got {weights[refused][0].item()}")
    weights = weights.detach().to(advantages.dtype)
    return advantages * (weights if advantages.ndim == 1 else weights[:, None])


def normalised(weights: Tensor) -> Tensor:
    """Weights divided by their mean over the batch: they say which prompts count, and not how large the step is.

    Weights that are all 0 stay 0.
    """
    mean = weights.double().mean()
    return torch.where(mean > 0, weights.double() / mean, 0.0).to(weights.dtype)


def permuted_over_groups(
    weights: Tensor, group_ids: Tensor, among: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """The groups' weights in a random order: the same numbers, without what they knew of the groups.

    Args:
        weights: ``(B,)``, equal within a group.
        group_ids: ``(B,)``, integers.
        among: ``(B,)`` bool: the responses whose groups take part; a group with any of them does. With the groups that
            have a gradient, the distribution of weights over gradients stays as it is.
        generator: The source of randomness.

    Returns:
        ``(B,)``; the weights of groups that take no part are unchanged.
    """
    index, count = groups(group_ids)
    of_group = weights.new_zeros(count).scatter_(0, index, weights)
    member = torch.zeros(count, dtype=torch.bool, device=weights.device).index_fill_(0, index[among], True)
    chosen = member.nonzero()[:, 0]
    order = torch.randperm(len(chosen), generator=generator, device=weights.device)
    shuffled = of_group.clone()
    shuffled[chosen] = of_group[chosen[order]]
    return shuffled[index]
