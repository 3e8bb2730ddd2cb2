"""Advantages of the responses of a group: the baselines of GRPO, RLOO and OPO."""

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
    _check(rewards, group_ids)
    check_advantage_options(scale, eps, singleton)
    values, groups = rewards.double(), _Groups(group_ids)
    mean = groups.exact(groups.sum(values) / groups.size, values)
    alone = groups.alone(singleton)
    if singleton == "raw":
        mean = torch.where(alone, 0.0, mean)
    centred = values - mean[groups.index]

    if scale == "group":
        variance = groups.sum(centred**2) / (groups.size - 1).clamp(min=1)
        deviation = torch.where(alone, 1.0, variance.sqrt())[groups.index]
        advantages = centred / (deviation + eps)
    elif scale == "batch":
        deviation = values.std() if values.numel() > 1 else torch.ones_like(values[0])
        advantages = centred / (deviation + eps)
    else:
        advantages = centred
    # 0 / (0 + eps) is 0, but with eps = 0 it is NaN.
    advantages = torch.where(centred == 0, 0.0, advantages)
    return advantages.to(_precision(rewards))


def leave_one_out_advantages(rewards: Tensor, group_ids: Tensor, *, singleton: Singleton = "raw") -> Tensor:
    r"""Rewards minus the mean of the other rewards of their group (RLOO, arXiv:2402.14740).

    .. math:: A_i = R_i - \frac{1}{G_g - 1} \sum_{j \in g,\, j \ne i} R_j = \frac{G_g}{G_g - 1} (R_i - \bar R_g)

    The baseline of a response does not depend on the response itself, so the policy gradient stays unbiased.

    Symbols: :math:`R` ``rewards``, :math:`g` ``group_ids``, :math:`G_g` the number of its responses.

    Args:
        rewards: One reward per response, shape ``(B,)``, any floating or integer type.
        group_ids: The group of each response, shape ``(B,)``, integers, in any order.
        singleton: What a group of one response gets: its reward (``"raw"``), nothing (``"zero"``), or an error. The
            first two warn.

    Returns:
        ``A``, shape ``(B,)``, float32 (float64 for float64 rewards); exactly 0 in a group of equal rewards.

    Raises:
        ValueError: shapes differ, the batch is empty, a reward is not finite, ``singleton`` is unknown, or a group of
            one with ``singleton="error"``.

    Example:
        >>> leave_one_out_advantages(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 0])).tolist()
        [1.0, -0.5, -0.5]
    """
    _check(rewards, group_ids)
    check_singleton(singleton)
    values, groups = rewards.double(), _Groups(group_ids)
    mean = groups.exact(groups.sum(values) / groups.size, values)
    alone = groups.alone(singleton)
    if singleton == "raw":
        mean = torch.where(alone, 0.0, mean)
    factor = groups.size / (groups.size - 1).clamp(min=1)
    return (factor[groups.index] * (values - mean[groups.index])).to(_precision(rewards))


def length_weighted_advantages(
    rewards: Tensor, lengths: Tensor, group_ids: Tensor, *, singleton: Singleton = "raw"
) -> Tensor:
    r"""Rewards minus their group's mean weighted by the lengths (OPO, arXiv:2505.23585).

    .. math:: A_i = R_i - b_g, \qquad b_g = \frac{\sum_{i \in g} \ell_i R_i}{\sum_{i \in g} \ell_i}

    The baseline of least variance of a policy gradient is
    :math:`E[\lVert\nabla\log\pi\rVert^2 R] / E[\lVert\nabla\log\pi\rVert^2]`. If the squared norm of a response's
    score grows in proportion to its length, that is :math:`b_g`, which minimises
    :math:`\sum_i \ell_i (R_i - b)^2`.

    Symbols: :math:`R` ``rewards``, :math:`\ell` ``lengths``, :math:`g` ``group_ids``.

    Args:
        rewards: One reward per response, shape ``(B,)``, any floating or integer type.
        lengths: Tokens of each response, shape ``(B,)``, at least 0. A group without any token keeps its rewards.
        group_ids: The group of each response, shape ``(B,)``, integers, in any order.
        singleton: As in `leave_one_out_advantages`.

    Returns:
        ``A``, shape ``(B,)``, float32 (float64 for float64 rewards); exactly 0 in a group of equal rewards.

    Raises:
        ValueError: as `leave_one_out_advantages`; or ``lengths`` has another shape, or a negative or infinite entry.

    Implementation notes:
        * A response is part of its own baseline, as in the paper and in verl, which costs a little bias.

    Example:
        >>> length_weighted_advantages(torch.tensor([1.0, 0.0]), torch.tensor([1, 3]), torch.tensor([0, 0])).tolist()
        [0.75, -0.25]
    """
    _check(rewards, group_ids)
    check_singleton(singleton)
    weights = lengths.double()
    if weights.shape != rewards.shape:
        raise ValueError(f"lengths must be (B,) = {tuple(rewards.shape)}, got {tuple(lengths.shape)}")
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise ValueError(f"lengths must be finite and at least 0, got {weights.min().item()} to {weights.max().item()}")
    values, groups = rewards.double(), _Groups(group_ids)
    total = groups.sum(weights)
    mean = groups.sum(weights * values) / torch.where(total > 0, total, 1.0)
    mean = torch.where(total > 0, groups.exact(mean, values), 0.0)
    alone = groups.alone(singleton)
    if singleton == "raw":
        mean = torch.where(alone, 0.0, mean)
    return (values - mean[groups.index]).to(_precision(rewards))


class _Groups:
    """Sums over the members of each group."""

    def __init__(self, group_ids: Tensor) -> None:
        _, self.index = torch.unique(group_ids, return_inverse=True)
        self.count = int(self.index.max()) + 1
        self.size = self.sum(torch.ones_like(group_ids, dtype=torch.float64))

    def sum(self, x: Tensor) -> Tensor:
        return torch.zeros(self.count, dtype=x.dtype, device=x.device).index_add_(0, self.index, x)

    def exact(self, mean: Tensor, values: Tensor) -> Tensor:
        """The mean, and where all values of a group are equal, that value to the bit."""
        low = torch.full_like(mean, torch.inf).scatter_reduce(0, self.index, values, "amin")
        high = torch.full_like(mean, -torch.inf).scatter_reduce(0, self.index, values, "amax")
        return torch.where(low == high, low, mean)

    def alone(self, singleton: str) -> Tensor:
        """The groups of one response; warns of them, or refuses them."""
        alone = self.size == 1
        if bool(alone.any()):
            if singleton == "error":
                raise ValueError(f"every group needs at least 2 responses, got {int(alone.sum())} group(s) of size 1")
            warnings.warn(
                f"{int(alone.sum())} of {self.count} groups have a single response and hence no baseline; "
                f"singleton={singleton!r} applies",
                stacklevel=3,
            )
        return alone


def _precision(rewards: Tensor) -> torch.dtype:
    return torch.float64 if rewards.dtype == torch.float64 else torch.float32


def _check(rewards: Tensor, group_ids: Tensor) -> None:
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


def check_advantage_options(scale: str, eps: float, singleton: str) -> None:
    """Refuse options that `group_advantages` does not have.

    Raises:
        ValueError: ``scale`` or ``singleton`` is unknown, or ``eps`` is negative.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {get_args(Scale)}, got {scale!r}")
    check_singleton(singleton)
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")


def check_singleton(singleton: str) -> None:
    """Refuse a treatment of groups of one response that does not exist.

    Raises:
        ValueError: ``singleton`` is unknown.
    """
    if singleton not in get_args(Singleton):
        raise ValueError(f"singleton must be one of {get_args(Singleton)}, got {singleton!r}")
