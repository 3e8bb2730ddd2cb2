"""Group advantages: the baseline of GRPO and its relatives."""

import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
Singleton = Literal["raw", "zero", "error"]


def group_advantages(
    rewards: Tensor,
    group_ids: Tensor,
    *,
    scale: Scale = "group",
    eps: float = 1e-6,
    singleton: Singleton = "raw",
) -> Tensor:
    r"""Rewards centred on the mean of their group, and scaled.

    For response :math:`i` of group :math:`g` with :math:`G_g` responses (arXiv:2402.03300, outcome supervision),

    .. math:: A_i = \frac{R_i - \bar R_g}{\sigma + \epsilon}, \qquad
              \sigma_g^2 = \frac{1}{G_g - 1} \sum_{j \in g} (R_j - \bar R_g)^2

    with :math:`\sigma = \sigma_g` (``scale="group"``), the standard deviation of all rewards of the batch
    (``"batch"``), or no division at all (``"none"``, Dr.GRPO, arXiv:2503.20783).

    Symbols: :math:`R` ``rewards``, :math:`g` ``group_ids``, :math:`\epsilon` ``eps``.

    Args:
        rewards: One reward per response, shape ``(B,)``, any floating or integer type.
        group_ids: The group of each response, shape ``(B,)``, integers; equal numbers form a group, wherever they
            stand in the batch.
        scale: What the centred reward is divided by.
        eps: Added to the standard deviation. verl and EasyR1 use 1e-6, TRL 1e-4, OpenRLHF 1e-9.
        singleton: A group of one response has no baseline. ``"raw"`` (verl, Trinity-RFT) takes mean 0 and standard
            deviation 1, so the advantage is the reward itself; ``"zero"`` gives it no advantage; ``"error"``
            refuses it. The first two warn.

    Returns:
        ``A``, shape ``(B,)``, float32 (float64 for float64 rewards).

    Raises:
        ValueError: shapes differ, the batch is empty, a reward is not finite, ``eps`` is negative, an unknown option,
            or a group of one with ``singleton="error"``.

    Implementation notes:
        * All standard deviations are unbiased (:math:`G - 1`), as in TRL, verl and OpenRLHF.
        * Sums are taken in float64, and a group whose rewards are all equal gets exactly 0. In float32 the mean of
          equal rewards may be off by one ulp, which division by ``eps`` turns into a spurious advantage.
    """
    _check(rewards, group_ids, scale, eps, singleton)
    values = rewards.double()
    _, index = torch.unique(group_ids, return_inverse=True)
    n_groups = int(index.max()) + 1

    def group_sum(x: Tensor) -> Tensor:
        return torch.zeros(n_groups, dtype=x.dtype, device=x.device).index_add_(0, index, x)

    size = group_sum(torch.ones_like(values))
    mean = group_sum(values) / size
    low = torch.full_like(mean, torch.inf).scatter_reduce(0, index, values, "amin")
    high = torch.full_like(mean, -torch.inf).scatter_reduce(0, index, values, "amax")
    mean = torch.where(low == high, low, mean)
    alone = size == 1
    if bool(alone.any()):
        if singleton == "error":
            raise ValueError(f"every group needs at least 2 responses, got {int(alone.sum())} group(s) of size 1")
        warnings.warn(
            f"{int(alone.sum())} of {n_groups} groups have a single response and hence no baseline; "
            f"singleton={singleton!r} applies",
            stacklevel=2,
        )
        if singleton == "raw":
            mean = torch.where(alone, 0.0, mean)
    centred = values - mean[index]

    if scale == "group":
        variance = group_sum(centred**2) / (size - 1).clamp(min=1)
        deviation = torch.where(alone, 1.0, variance.sqrt())[index]
        advantages = centred / (deviation + eps)
    elif scale == "batch":
        deviation = values.std() if values.numel() > 1 else torch.ones_like(values[0])
        advantages = centred / (deviation + eps)
    else:
        advantages = centred
    # 0 / (0 + eps) is 0, but with eps = 0 it is NaN.
    advantages = torch.where(centred == 0, 0.0, advantages)
    return advantages.to(torch.float64 if rewards.dtype == torch.float64 else torch.float32)


def _check(rewards: Tensor, group_ids: Tensor, scale: str, eps: float, singleton: str) -> None:
    if rewards.ndim != 1 or rewards.shape != group_ids.shape:
        raise ValueError(
            f"rewards and group_ids must both be (B,), got {tuple(rewards.shape)} and {tuple(group_ids.shape)}"
        )
    if rewards.numel() == 0:
        raise ValueError("rewards must hold at least one response, got an empty batch")
    if group_ids.is_floating_point() or group_ids.is_complex():
        raise ValueError(f"group_ids must be integers, got {group_ids.dtype}")
    if not bool(torch.isfinite(rewards.double()).all()):
        raise ValueError(f"rewards must be finite, got {rewards[~torch.isfinite(rewards.double())][0].item()}")
    check_advantage_options(scale, eps, singleton)


def check_advantage_options(scale: str, eps: float, singleton: str) -> None:
    """Refuse options that `group_advantages` does not have.

    Raises:
        ValueError: ``scale`` or ``singleton`` is unknown, or ``eps`` is negative.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {get_args(Scale)}, got {scale!r}")
    if singleton not in get_args(Singleton):
        raise ValueError(f"singleton must be one of {get_args(Singleton)}, got {singleton!r}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
