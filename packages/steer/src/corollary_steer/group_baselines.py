"""Advantages of RLOO and OPO, on top of which the paper also runs STEER: other baselines, and no deviation."""

import torch
from torch import Tensor

from corollary.rl import group_advantages


def rloo_advantages(rewards: Tensor, group_ids: Tensor) -> Tensor:
    r"""Leave-one-out advantages (RLOO): the mean reward of the *other* responses of the group is the baseline.

    .. math:: A_i = R_i - \frac{1}{G - 1} \sum_{j \ne i} R_j = \frac{G}{G - 1} (R_i - \bar R_g)

    Symbols: :math:`R` ``rewards``, :math:`g` ``group_ids``, :math:`G` the size of the group.

    Args:
        rewards: ``(B,)``.
        group_ids: ``(B,)``, integers; equal numbers form a group.

    Returns:
        ``A``, ``(B,)``.

    Raises:
        ValueError: as `corollary.rl.group_advantages`, and for a group of one.
    """
    centred = group_advantages(rewards, group_ids, scale="none", singleton="error")
    _, index, counts = torch.unique(group_ids, return_inverse=True, return_counts=True)
    size = counts[index].to(centred.dtype)
    return centred * size / (size - 1)


def opo_advantages(rewards: Tensor, lengths: Tensor, group_ids: Tensor) -> Tensor:
    r"""Advantages with OPO's baseline: the mean reward of the group, weighted by length.

    .. math:: A_i = R_i - \frac{\sum_{j \in g} \ell_j R_j}{\sum_{j \in g} \ell_j}

    Symbols: :math:`R` ``rewards``, :math:`\ell` ``lengths``, :math:`g` ``group_ids``.

    Args:
        rewards: ``(B,)``.
        lengths: Tokens of each response, at least 1, ``(B,)``.
        group_ids: ``(B,)``, integers; equal numbers form a group.

    Returns:
        ``A``, ``(B,)``, float32 (float64 for float64 rewards). Exactly 0 where all rewards of the group are equal.

    Raises:
        ValueError: shapes differ, or a response has no token.
    """
    if not rewards.ndim == 1 or not rewards.shape == lengths.shape == group_ids.shape:
        raise ValueError(
            "rewards, lengths and group_ids must all be (B,), got "
            f"{tuple(rewards.shape)}, {tuple(lengths.shape)} and {tuple(group_ids.shape)}"
        )
    if bool((lengths < 1).any()):
        raise ValueError(f"lengths must be at least 1, got {lengths.min().item()}")
    _, index = torch.unique(group_ids, return_inverse=True)
    values, weight = rewards.double(), lengths.double()
    zeros = torch.zeros(int(index.max()) + 1, dtype=torch.float64, device=rewards.device)
    baseline = zeros.index_add(0, index, weight * values) / zeros.index_add(0, index, weight)
    # A weighted mean of equal numbers may be off by an ulp; it must lie between the smallest and the largest reward.
    low = torch.full_like(zeros, torch.inf).scatter_reduce(0, index, values, "amin")
    high = torch.full_like(zeros, -torch.inf).scatter_reduce(0, index, values, "amax")
    advantages = values - torch.minimum(torch.maximum(baseline, low), high)[index]
    return advantages.to(torch.float64 if rewards.dtype == torch.float64 else torch.float32)
