"""The clipped policy surrogate, unreduced, and the ways to reduce it."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0
"""The log-ratio is clamped to this range before ``exp``, as verl and Trinity-RFT do."""

Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]

TRL_AGGREGATIONS: dict[str, Aggregation] = {
    "grpo": "seq-mean-token-mean",
    "bnpo": "token-mean",
    "dapo": "token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
    "luspo": "seq-mean-token-sum",
}
"""TRL's ``loss_type`` names and the normalisation that each one means."""


def clipped_surrogate(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
) -> Tensor:
    r"""PPO's clipped loss of each token (arXiv:1707.06347, Eq. 7, negated), not reduced.

    .. math:: r &= \exp(\log\pi - \log\pi_\text{old}) \\
              \ell &= \max\bigl(-A r,\; -A\,\mathrm{clip}(r, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high})\bigr)

    and, where :math:`A < 0`, :math:`\ell \leftarrow \min(\ell, -c A)` (dual clip, arXiv:1912.09729).

    Symbols: :math:`\log\pi` ``log_probs``, :math:`\log\pi_\text{old}` ``old_log_probs``, :math:`A` ``advantages``,
    :math:`\epsilon_\text{low}` ``clip_low``, :math:`\epsilon_\text{high}` ``clip_high``, :math:`c` ``dual_clip``.

    Args:
        log_probs: Log-probability of each token under the policy that is trained, nats, shape ``(B, T)``; carries
            the gradient.
        old_log_probs: The same under the behaviour policy, shape ``(B, T)``.
        advantages: Advantage of each token, shape ``(B, T)``.
        clip_low: Lower clip range, in [0, 1).
        clip_high: Upper clip range, at least 0. 0.28 is DAPO's clip-higher (arXiv:2503.14476).
        dual_clip: The constant ``c``, larger than 1; ``None`` switches the dual clip off.

    Returns:
        The loss, shape ``(B, T)``, float32 for inputs of 16 bits. Values at padding are whatever the inputs give:
        reduce with a mask.

    Raises:
        ValueError: shapes differ or an option is out of range.
    """
    _check_surrogate(log_probs, old_log_probs, advantages, clip_low, clip_high, dual_clip)
    ratio, advantages = importance_ratio(log_probs, old_log_probs), at_least_float32(advantages)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return loss


class ClipEvents(NamedTuple):
    """Which tokens each clip holds back; boolean, shape ``(B, T)``, disjoint."""

    high: Tensor
    """A > 0 and r > 1 + clip_high: no gradient."""
    low: Tensor
    """A < 0 and r < 1 - clip_low: no gradient."""
    dual: Tensor
    """A < 0 and r > dual_clip: no gradient."""


def clip_events(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
) -> ClipEvents:
    """The tokens on which `clipped_surrogate` is flat, by the clip that flattens it. Same arguments."""
    _check_surrogate(log_probs, old_log_probs, advantages, clip_low, clip_high, dual_clip)
    ratio = importance_ratio(log_probs.detach(), old_log_probs)
    dual = (advantages < 0) & (ratio > dual_clip) if dual_clip is not None else torch.zeros_like(ratio).bool()
    return ClipEvents(
        high=(advantages > 0) & (ratio > 1 + clip_high),
        low=(advantages < 0) & (ratio < 1 - clip_low),
        dual=dual,
    )


def importance_ratio(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """``exp(log_probs - old_log_probs)`` in float32 at least, the difference clamped to `LOG_RATIO_BOUND`."""
    return (
        (at_least_float32(log_probs) - at_least_float32(old_log_probs)).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    )


def _check_surrogate(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> None:
    if not (log_probs.shape == old_log_probs.shape == advantages.shape):
        raise ValueError(
            "log_probs, old_log_probs and advantages must have one shape (B, T), got "
            f"{tuple(log_probs.shape)}, {tuple(old_log_probs.shape)} and {tuple(advantages.shape)}"
        )
    check_clip_range(clip_low, clip_high, dual_clip)


def check_clip_range(clip_low: float, clip_high: float, dual_clip: float | None) -> None:
    """Refuse clip constants that make no sense.

    Raises:
        ValueError: ``clip_low`` is not in [0, 1), ``clip_high`` is negative, or ``dual_clip`` is not larger than 1.
    """
    if not 0 <= clip_low < 1:
        raise ValueError(f"clip_low must be in [0, 1), got {clip_low}")
    if not clip_high >= 0:
        raise ValueError(f"clip_high must be at least 0, got {clip_high}")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip must be larger than 1, or None, got {dual_clip}")


def aggregation_mode(name: str) -> Aggregation:
    """The normalisation behind a verl or TRL name.

    Raises:
        ValueError: the name is neither.
    """
    if name in get_args(Aggregation):
        return name  # ty: ignore[invalid-explicit-return]
    if name in TRL_AGGREGATIONS:
        return TRL_AGGREGATIONS[name]
    known = (*get_args(Aggregation), *TRL_AGGREGATIONS)
    raise ValueError(f"aggregation must be one of {', '.join(known)}, got {name!r}")


def aggregate(
    loss: Tensor,
    mask: Tensor,
    mode: str = "token-mean",
    *,
    max_length: int | None = None,
    token_count: float | None = None,
    sequence_count: float | None = None,
) -> Tensor:
    r"""Reduce per-token losses to a scalar.

    With :math:`m` the mask, :math:`N = \sum_{b,t} m_{bt}`, and :math:`B` the number of sequences with at least one
    kept token,

    ============================ ==================================================== =============
    mode (verl)                  formula                                              TRL
    ============================ ==================================================== =============
    ``token-mean``               :math:`\sum_{bt} m\ell / N`                          bnpo, dapo
    ``seq-mean-token-mean``      :math:`B^{-1}\sum_b (\sum_t m\ell / \sum_t m)`       grpo
    ``seq-mean-token-sum``       :math:`B^{-1}\sum_b \sum_t m\ell`                    luspo
    ``seq-mean-token-sum-norm``  :math:`(B\,T_{\max})^{-1}\sum_{bt} m\ell`            dr_grpo
    ============================ ==================================================== =============

    Symbols: :math:`\ell` ``loss``, :math:`m` ``mask``, :math:`T_{\max}` ``max_length``, :math:`N` ``token_count``,
    :math:`B` ``sequence_count``.

    Args:
        loss: Per-token loss, shape ``(B, T)``. Values where the mask is 0 are ignored, NaN included.
        mask: 1 (or True) for the tokens that count, shape ``(B, T)``.
        mode: One of the names above, verl's or TRL's.
        max_length: The constant :math:`T_{\max}` of ``seq-mean-token-sum-norm`` (required there): the longest
            completion allowed, not the longest one that happens to be in the batch.
        token_count: :math:`N` of the whole mini-batch, when ``loss`` is one micro-batch of it. The sum over
            micro-batches is then the mini-batch's own value, however it is split.
        sequence_count: :math:`B` of the whole mini-batch, likewise.

    Returns:
        A scalar, float32 for a loss of 16 bits. 0 when the mask keeps nothing.

    Raises:
        ValueError: shapes differ, the mask is not 0/1, an unknown mode, or ``max_length`` missing.

    Implementation notes:
        * Fully masked sequences do not count in :math:`B`, as in verl. TRL's ``dr_grpo`` counts them; pass
          ``sequence_count=loss.shape[0]`` for that.
        * TRL's ``dapo`` is ``token-mean`` with the ``token_count`` of the whole generation batch, its ``bnpo`` the same
          with the count of the micro-batch.
    """
    kept = binary_mask(mask, loss.shape)
    mode = aggregation_mode(mode)
    masked = torch.where(kept, at_least_float32(loss), 0.0)
    per_sequence = kept.sum(-1)
    if token_count is None:
        token_count = float(per_sequence.sum())
    if sequence_count is None:
        sequence_count = float((per_sequence > 0).sum())
    if mode == "token-mean":
        return masked.sum() / max(token_count, 1.0)
    if mode == "seq-mean-token-mean":
        return (masked.sum(-1) / per_sequence.clamp(min=1)).sum() / max(sequence_count, 1.0)
    total = masked.sum() / max(sequence_count, 1.0)
    if mode == "seq-mean-token-sum":
        return total
    if max_length is None or max_length < 1:
        raise ValueError(f"mode 'seq-mean-token-sum-norm' needs max_length >= 1, got {max_length}")
    return total / max_length


def binary_mask(mask: Tensor, shape: torch.Size) -> Tensor:
    """``mask`` as booleans.

    Raises:
        ValueError: its shape is not ``shape``, or it holds something other than 0 and 1.
    """
    if mask.shape != shape:
        raise ValueError(f"mask must have the shape {tuple(shape)}, got {tuple(mask.shape)}")
    if mask.dtype == torch.bool:
        return mask
    kept = mask != 0
    if not bool((kept == mask).all()):
        raise ValueError(f"mask must hold only 0 and 1, got {mask[kept != mask].flatten()[0].item()}")
    return kept


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 if it has 16 bits: in bfloat16 a log-ratio of 0.01 at -5 is 0."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
