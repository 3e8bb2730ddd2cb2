"""The mean over a batch's valid tokens, on one process or on several."""

import torch
from torch import Tensor
from torch import distributed as dist

from corollary.rl.losses import binary_mask


def masked_mean(values: Tensor, mask: Tensor, *, process_group: dist.ProcessGroup | None = None) -> Tensor:
    """The mean of ``values`` where ``mask`` is 1, over all ranks of ``process_group``.

    Args:
        values: ``(B, T)``; anything, NaN included, where the mask is 0. Gradients are cut.
        mask: 1 for the tokens that count, ``(B, T)``.
        process_group: Take the mean over the tokens of all its ranks, which must all call this.

    Returns:
        A float64 scalar; 0 where there is no token.

    Raises:
        ValueError: the shapes differ or the mask is not 0/1.
    """
    kept = binary_mask(mask, values.shape)
    total = torch.stack([torch.where(kept, values.detach().double(), 0.0).sum(), kept.sum().double()])
    if process_group is not None:
        dist.all_reduce(total, group=process_group)
    return total[0] / total[1].clamp(min=1)
