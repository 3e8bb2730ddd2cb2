"""One training batch from GRPO's responses and the chosen responses of the second sample."""

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from corollary.rl import Batch, concatenate

Mode = Literal["replace", "additive"]
Placement = Literal["shuffled", "front"]

REINFORCE = "aepo_reinforce"
"""Name in `Batch.per_token`: 1 on the tokens of REINFORCE samples."""
WEIGHT = "aepo_weight"
"""Name in `Batch.per_token`: what additive mode multiplies the token losses by."""


def implicit_alpha(chosen: int, total: int) -> float:
    r"""The weight of the REINFORCE term that replacing ``chosen`` of ``total`` responses amounts to.

    .. math:: \alpha = \frac{m / B}{1 - m / B}

    for responses of equal length: the mixed batch's loss is then :math:`(1 - m/B)(L_\text{GRPO} + \alpha L_\text{R})`.

    Raises:
        ValueError: not ``0 <= chosen < total``.

    Example:
        >>> implicit_alpha(60, 2560)
        0.024
    """
    if not 0 <= chosen < total:
        raise ValueError(f"chosen must be at least 0 and less than the batch's {total} responses, got {chosen}")
    return chosen / (total - chosen)


def mix_batch(
    batch: Batch,
    second: Batch,
    chosen: Tensor,
    *,
    mode: Mode = "replace",
    placement: Placement = "shuffled",
    alpha: float | None = None,
) -> Batch:
    r"""Put the chosen responses of the second sample into the batch, each with advantage 1 on every token.

    ``mode="replace"`` (the released code): the chosen :math:`m` responses, followed by the batch without its first
    :math:`m` responses, whose advantages stay as they are. The number of responses stays :math:`B`.

    ``mode="additive"`` (the formula): the chosen responses, followed by the whole batch, and `WEIGHT` such that the
    token mean over all :math:`N = N_\text{G} + N_\text{R}` tokens is

    .. math:: L_\text{GRPO} + \alpha\, \frac1m \sum_{i=1}^m \frac{1}{T_i} \sum_t -\log \pi_\theta(o_{i,t})

    namely :math:`N / N_\text{G}` on GRPO's tokens and :math:`\alpha N / (m T_i)` on those of a chosen response.

    Symbols: :math:`m` the length of ``chosen``, :math:`\alpha` ``alpha``, :math:`T_i` the tokens of a chosen response.

    Args:
        batch: GRPO's responses, ``B`` rows.
        second: The second sample. Its group ids differ from those of ``batch``.
        chosen: Rows of ``second``, int64, shape ``(m,)``; may be empty.
        mode: See above.
        placement: ``"shuffled"`` lets the trainer draw mini-batches at random. ``"front"`` keeps the rows as they
            stand, as the released code does: all REINFORCE samples are in the first mini-batch.
        alpha: Of additive mode, at least 0; None for `implicit_alpha`.

    Returns:
        The mixed batch, with `REINFORCE` (and `WEIGHT`) in ``per_token`` and without ``extra``.

    Raises:
        ValueError: more responses are chosen than the batch has, an option is unknown, ``alpha`` is given in replace
            mode or out of range, or a group id occurs in both samples.

    Implementation notes:
        * The additive loss is exact for one mini-batch. With several, the weights are still those of the whole batch,
          so the mean of the mini-batches' losses at fixed weights is the formula if all mini-batches hold equally many
          tokens, and each mini-batch's loss is an unbiased sample of it; a mini-batch without chosen responses has no
          REINFORCE term. Other weights, made anew for each mini-batch, would let a mini-batch with one chosen response
          weigh as much as one with many.
    """
    _check(batch, second, chosen, mode, placement, alpha)
    picked = second.rows(chosen)
    picked = replace(picked, advantages=picked.mask.to(batch.advantages.dtype))
    rest = batch if mode == "additive" else batch.rows(torch.arange(len(chosen), len(batch), device=chosen.device))
    picked_weight, rest_weight = torch.ones_like(picked.advantages), torch.ones_like(rest.advantages)
    if mode == "additive":
        alpha = implicit_alpha(len(chosen), len(batch)) if alpha is None else alpha
        per_response = picked.mask.sum(-1, keepdim=True).double()
        rest_count = rest.mask.sum().double()
        count = rest_count + per_response.sum()
        # Where there is no token there is nothing to weigh: the clamps only keep 0 out of the denominators.
        rest_weight *= count / rest_count.clamp(min=1)
        picked_weight *= alpha * count / (max(len(chosen), 1) * per_response.clamp(min=1))
    parts = [
        replace(picked, per_token={**picked.per_token, REINFORCE: picked.mask, WEIGHT: picked_weight}),
        replace(rest, per_token={**rest.per_token, REINFORCE: torch.zeros_like(rest.mask), WEIGHT: rest_weight}),
    ]
    mixed = concatenate([part for part in parts if len(part)])
    return replace(mixed, metrics=batch.metrics, extra=None, generator=batch.generator, in_order=placement == "front")


def check_mixing_options(mode: str, placement: str, alpha: float | None) -> None:
    """Refuse options that `mix_batch` does not take.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
    if placement not in get_args(Placement):
        raise ValueError(f"placement must be one of {get_args(Placement)}, got {placement!r}")
    if alpha is not None and mode == "replace":
        raise ValueError(f"alpha belongs to mode='additive'; in mode='replace' it is implied, got {alpha}")
    if alpha is not None and not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha must be finite and at least 0, got {alpha}")


def _check(batch: Batch, second: Batch, chosen: Tensor, mode: str, placement: str, alpha: float | None) -> None:
    check_mixing_options(mode, placement, alpha)
    if chosen.ndim != 1 or chosen.is_floating_point():
        raise ValueError(f"chosen must be row numbers, shape (m,), got {tuple(chosen.shape)} of {chosen.dtype}")
    if len(chosen) > len(batch):
        raise ValueError(f"at most the batch's {len(batch)} responses can be replaced, got {len(chosen)}")
    shared = torch.isin(second.rollouts.group_ids, batch.rollouts.group_ids)
    if bool(shared.any()):
        raise ValueError(
            "the second sample's group ids must differ from the batch's, got "
            f"{second.rollouts.group_ids[shared][0].item()} in both"
        )
