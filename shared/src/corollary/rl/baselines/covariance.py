"""The covariance of log-probability and advantage, token by token (arXiv:2505.22617)."""

import torch
from torch import Tensor
from torch import distributed as dist

from corollary.rl.baselines.masked_mean import masked_mean
from corollary.rl.losses import binary_mask


def token_covariance(
    log_probs: Tensor, advantages: Tensor, mask: Tensor, *, process_group: dist.ProcessGroup | None = None
) -> Tensor:
    r"""Each token's contribution to the covariance of log-probability and advantage.

    For the :math:`N` valid tokens,

    .. math:: c_i = \Bigl(\log\pi_i - \tfrac1N \sum_j \log\pi_j\Bigr) \Bigl(A_i - \tfrac1N \sum_j A_j\Bigr)

    so that their mean is the covariance. In the paper's analysis of a softmax policy the entropy falls in proportion to
    it: a few tokens with large :math:`c_i`, likely and rewarded, carry most of the fall.

    Symbols: :math:`\log\pi` ``log_probs``, :math:`A` ``advantages``.

    Args:
        log_probs: Log-probability of each token at the policy being trained, nats, ``(B, T)``. Gradients are cut.
        advantages: ``(B, T)``.
        mask: 1 for valid tokens, ``(B, T)``. Padding may hold anything.
        process_group: Take both means over the tokens of all ranks.

    Returns:
        ``c``, float64, ``(B, T)``, 0 where the mask is 0.

    Raises:
        ValueError: shapes differ, or the mask is not 0/1.

    Implementation notes:
        * The released code takes the means over what it calls with: a micro-batch of one device. Here it is whatever
          the caller passes; `ClipCov` and `KLCov` pass the mini-batch.

    Example:
        >>> ones = torch.ones(1, 2)
        >>> token_covariance(torch.tensor([[-1.0, -3.0]]), torch.tensor([[1.0, -1.0]]), ones).tolist()
        [[1.0, 1.0]]
    """
    if log_probs.shape != advantages.shape:
        raise ValueError(
            f"log_probs and advantages must have one shape (B, T), got {tuple(log_probs.shape)} and "
            f"{tuple(advantages.shape)}"
        )
    valid = binary_mask(mask, advantages.shape)
    log_probs, advantages = log_probs.detach().double(), advantages.detach().double()
    centred = (log_probs - masked_mean(log_probs, valid, process_group=process_group)) * (
        advantages - masked_mean(advantages, valid, process_group=process_group)
    )
    return torch.where(valid, centred, 0.0)


def selection_count(fraction: float, mask: Tensor) -> int:
    r"""How many of :math:`n` valid tokens a share selects: :math:`\max(1, \lfloor \text{fraction} \cdot n \rfloor)`."""
    return max(1, int(fraction * int(mask.sum())))
