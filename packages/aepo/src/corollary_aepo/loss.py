"""AEPO's loss as one function of tensors, for trainers that mix their batches themselves."""

import math

import torch
from torch import Tensor

from corollary.rl import aggregate, binary_mask, clipped_surrogate


def aepo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    reinforce_mask: Tensor,
    alpha: float | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
    aggregation: str = "token-mean",
) -> Tensor:
    r"""The loss of a mixed batch.

    Replace mode (``alpha=None``, the released code): the clipped surrogate of all rows, those of ``reinforce_mask``
    with advantage 1, aggregated together. Additive mode (the formula):

    .. math:: L = L_\text{GRPO} - \alpha\, \frac1m \sum_{i=1}^m \frac{1}{T_i} \sum_t \log \pi_\theta(o_{i,t})

    with the aggregate of the other rows as :math:`L_\text{GRPO}`.

    Symbols: :math:`\log\pi_\theta` ``log_probs``, :math:`\alpha` ``alpha``, :math:`m` the rows of ``reinforce_mask``
    with at least one token, :math:`T_i` their tokens.

    Args:
        log_probs: Under the policy that is trained, at temperature 1, nats, ``(B, T)``; carries the gradient.
        old_log_probs: Under the policy before the first update on the batch, at temperature 1 also for the rows that
            were sampled at another one, ``(B, T)``.
        advantages: ``(B, T)``; not read on the rows of ``reinforce_mask``.
        mask: 1 on completion tokens, ``(B, T)``.
        reinforce_mask: 1 on the rows from the second sample, ``(B,)``.
        alpha: Weight of the REINFORCE term; None for replace mode.
        clip_low: Lower clip range.
        clip_high: Upper clip range.
        dual_clip: Dual-clip constant, or None.
        aggregation: Of GRPO's loss; see `corollary.rl.aggregate`.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: shapes differ, advantages of valid tokens are NaN, ``alpha`` is negative or not finite, or
            ``reinforce_mask`` holds anything but 0 and 1.
    """
    valid = binary_mask(mask, log_probs.shape)
    if reinforce_mask.shape != log_probs.shape[:1]:
        raise ValueError(
            f"reinforce_mask must be (B,) = {tuple(log_probs.shape[:1])}, got {tuple(reinforce_mask.shape)}"
        )
    if advantages.shape != log_probs.shape:
        raise ValueError(f"advantages must be (B, T) = {tuple(log_probs.shape)}, got {tuple(advantages.shape)}")
    if alpha is not None and not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be finite and at least 0, got {alpha}")
    chosen = binary_mask(reinforce_mask, reinforce_mask.shape)[:, None]
    if bool((torch.isnan(advantages) & valid & ~chosen).any()):
        raise ValueError("advantages must not be NaN on tokens in the loss, got NaN")
    surrogate = clipped_surrogate(
        log_probs,
        old_log_probs,
        torch.where(chosen, 1.0, advantages),
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
    )
    if alpha is None:
        return aggregate(surrogate, valid, aggregation)
    grpo = aggregate(surrogate, valid & ~chosen, aggregation)
    return grpo + alpha * aggregate(-log_probs, valid & chosen, "seq-mean-token-mean")
