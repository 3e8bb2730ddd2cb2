"""Which responses of the second sample become REINFORCE samples."""

from typing import Literal, get_args

import torch
from torch import Tensor

from corollary.rl import binary_mask

Select = Literal["advantage", "reward"]


def select_reinforce(
    advantages: Tensor,
    mask: Tensor,
    max_num: int,
    *,
    rewards: Tensor | None = None,
    select: Select = "advantage",
    threshold: float = 0.05,
    entropy: float | None = None,
    target: float | None = None,
    halve_when_cooling: bool = True,
) -> Tensor:
    r"""The first responses of the second sample that count as correct.

    .. math:: \mathcal K = \{i : A_i > c\} \ (\text{or } \{i : R_i > c\}), \qquad
              m = \min(m_\text{max}, |\mathcal K|), \quad
              m \leftarrow \lfloor m / 2 \rfloor \text{ if } H > H^*

    Symbols: :math:`A` ``advantages``, :math:`R` ``rewards``, :math:`c` ``threshold``, :math:`m_\text{max}` ``max_num``,
    :math:`H` ``entropy``, :math:`H^*` ``target``.

    Args:
        advantages: Group advantages within the second sample, one a response ``(B,)``, or equal on its tokens
            ``(B, T)``.
        mask: 1 on completion tokens, ``(B, T)``. A response without any is never chosen.
        max_num: The most responses to choose, at least 0.
        rewards: ``(B,)``; needed for ``select="reward"``.
        select: ``"advantage"`` is the released code: correct, in a group that has wrong responses too. ``"reward"`` is
            the paper's :math:`R(q, o)`: every correct response. The first finds nothing once all groups are
            all-correct, so control is lost on tasks that training solves.
        threshold: In [0, 1).
        entropy: The controller's last measurement, nats; with ``target`` it says whether this step cools.
        target: Target entropy, nats.
        halve_when_cooling: Whether a cooling step uses half as many (the released code since November 2025).

    Returns:
        Their rows, ascending, int64, shape ``(m,)``; empty if none is correct.

    Raises:
        ValueError: shapes differ, a value is not finite, an option is out of range, or ``rewards``, or one of
            ``entropy`` and ``target``, is missing.

    Example:
        >>> select_reinforce(torch.tensor([1.2, -0.4, 0.0, 0.7]), torch.ones(4, 2), 60).tolist()
        [0, 3]
    """
    mask = _check(advantages, mask, max_num, rewards, select, threshold, entropy, target)
    if select == "reward" and rewards is not None:
        values = rewards
    elif advantages.ndim == 2:
        # The first valid token's: exact, where a mean over equal values may be an ulp off.
        values = advantages.gather(1, mask.int().argmax(1, keepdim=True))[:, 0]
    else:
        values = advantages
    kept = torch.nonzero((values > threshold) & mask.any(1))[:, 0]
    count = min(max_num, len(kept))
    if halve_when_cooling and entropy is not None and target is not None and entropy > target:
        count //= 2
    return kept[:count]


def check_selection_options(select: str, threshold: float) -> None:
    """Refuse options that `select_reinforce` does not take.

    Raises:
        ValueError: ``select`` is unknown or ``threshold`` out of range.
    """
    if select not in get_args(Select):
        raise ValueError(f"select must be one of {get_args(Select)}, got {select!r}")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be in [0, 1), got {threshold}")


def _check(
    advantages: Tensor,
    mask: Tensor,
    max_num: int,
    rewards: Tensor | None,
    select: str,
    threshold: float,
    entropy: float | None,
    target: float | None,
) -> Tensor:
    """The mask as booleans, if all is well."""
    check_selection_options(select, threshold)
    if mask.ndim != 2 or tuple(advantages.shape) not in (tuple(mask.shape), tuple(mask.shape[:1])):
        raise ValueError(
            f"mask must be (B, T) and advantages (B,) or (B, T), got {tuple(mask.shape)} and {tuple(advantages.shape)}"
        )
    if max_num < 0:
        raise ValueError(f"max_num must be at least 0, got {max_num}")
    if not bool(torch.isfinite(advantages).all()):
        raise ValueError(f"advantages must be finite, got {advantages[~torch.isfinite(advantages)][0].item()}")
    if select == "reward":
        if rewards is None:
            raise ValueError("select='reward' needs rewards, got None")
        if rewards.shape != mask.shape[:1]:
            raise ValueError(f"rewards must be (B,) = {tuple(mask.shape[:1])}, got {tuple(rewards.shape)}")
        if not bool(torch.isfinite(rewards.double()).all()):
            raise ValueError("rewards must be finite, got one that is not")
    if (entropy is None) != (target is None):
        raise ValueError(f"give both entropy and target, or none, got {entropy} and {target}")
    return binary_mask(mask, mask.shape)
