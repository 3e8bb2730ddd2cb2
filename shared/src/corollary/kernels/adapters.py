"""Drop-in forms of functions that TRL and verl call on logits, backed by :func:`corollary.kernels.token_stats`.

Each takes the arguments of the function it stands in for, and differs from it in two ways: results are float32 for
bfloat16 and float16 logits, which are never rounded in between; and logits of -inf count as probability 0 instead of
making the entropy NaN. To use one, replace the name in the module that calls it::

    import trl.experimental.a2po.a2po_trainer as a2po
    from corollary.kernels import adapters

    a2po.selective_log_softmax = adapters.selective_log_softmax

TRL's ``GRPOTrainer`` has a fused function of its own since 1.16; `corollary.rl.integrations.trl.AlgorithmGRPOTrainer`
calls the kernels directly. Nothing of TRL or verl is imported here.
"""

import torch
from torch import Tensor

from corollary.kernels._token_stats import token_stats

__all__ = ["entropy_from_logits", "logprobs_from_logits", "selective_log_softmax"]


def selective_log_softmax(
    logits: Tensor,
    index: Tensor,
    temperature: float = 1.0,
    row_mask: Tensor | None = None,
) -> Tensor:
    r"""Log-probabilities of chosen tokens, as TRL's ``trl.trainer.utils.selective_log_softmax`` (1.16.0).

    .. math:: \log p_k = z_k / \tau - \log \sum_j e^{z_j / \tau}

    Several tokens of one row share one pass: with :math:`m` the largest logit's place, :math:`\log p_k = \log p_m +
    (z_k - z_m)/\tau`.

    Symbols: :math:`z` = ``logits``, :math:`k` = ``index``, :math:`\tau` = ``temperature``.

    Args:
        logits: Shape ``(..., V)``.
        index: Chosen tokens, shape ``(...)``, or ``(..., K)`` for ``K`` of each row.
        temperature: Divides the logits; finite and > 0.
        row_mask: Of the shape of ``index``; a row with a 0 in it is not read and gives 0. None keeps all rows.

    Returns:
        Log-probabilities in nats, of the shape of ``index``, float32 (float64 for float64 logits).

    Raises:
        ValueError: ``index`` or ``row_mask`` has another shape; and what `token_stats` refuses.
    """
    single = index.shape == logits.shape[:-1]
    if not single and index.shape[:-1] != logits.shape[:-1]:
        leading = tuple(logits.shape[:-1])
        raise ValueError(f"index must be {leading} or ({', '.join(map(str, leading))}, K), got {tuple(index.shape)}")
    mask = None
    if row_mask is not None:
        if row_mask.shape != index.shape:
            raise ValueError(
                f"row_mask must have the shape of index, {tuple(index.shape)}, got {tuple(row_mask.shape)}"
            )
        mask = row_mask != 0 if single else (row_mask != 0).all(-1)
    if single:
        (log_prob,) = token_stats(logits, index, temperature=temperature, stats=("log_prob",), mask=mask).required(
            "log_prob"
        )
        return log_prob
    largest = logits.detach().argmax(-1)
    (log_prob,) = token_stats(logits, largest, temperature=temperature, stats=("log_prob",), mask=mask).required(
        "log_prob"
    )
    places = torch.cat([index.long(), largest.unsqueeze(-1)], -1)
    if mask is not None:
        places = places.masked_fill(~mask.unsqueeze(-1), 0)
    chosen = logits.gather(-1, places).to(log_prob.dtype)
    several = log_prob.unsqueeze(-1) + (chosen[..., :-1] - chosen[..., -1:]) / temperature
    return several if mask is None else torch.where(mask.unsqueeze(-1), several, 0.0)


def entropy_from_logits(logits: Tensor, chunk_size: int = 128) -> Tensor:
    r"""Entropy of each row, as TRL's ``trl.trainer.utils.entropy_from_logits`` and verl's function of that name.

    .. math:: H = -\sum_j p_j \log p_j, \quad p = \mathrm{softmax}(z)

    Args:
        logits: :math:`z`, shape ``(..., V)``.
        chunk_size: Accepted and not used: the kernels choose their own chunks.

    Returns:
        Entropy in nats, shape ``(...)``, float32 (float64 for float64 logits), differentiable.

    Raises:
        ValueError: what `token_stats` refuses.
    """
    anything = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    return token_stats(logits, anything, stats=("entropy",)).required("entropy")[0]


def logprobs_from_logits(logits: Tensor, labels: Tensor, inplace_backward: bool = True) -> Tensor:
    r"""Log-probabilities of labels, as verl's ``verl.utils.torch_functional.logprobs_from_logits`` (0.9.1).

    .. math:: \log p_y = z_y - \log \sum_j e^{z_j}

    Args:
        logits: :math:`z`, shape ``(..., V)``.
        labels: :math:`y`, shape ``(...)``.
        inplace_backward: Let the backward pass overwrite the logits with their gradient, where that is possible (they
            are not a leaf and can be viewed as rows). True, as in verl: pass False if anything else still reads the
            logits, as verl does when it computes an entropy too.

    Returns:
        Log-probabilities in nats, shape ``(...)``, float32 (float64 for float64 logits).

    Raises:
        ValueError: what `token_stats` refuses.
    """
    inplace = inplace_backward and not logits.is_leaf and _viewable(logits)
    stats = token_stats(logits, labels, stats=("log_prob",), inplace_backward=inplace)
    return stats.required("log_prob")[0]


def _viewable(logits: Tensor) -> bool:
    try:
        logits.detach().view(-1, logits.shape[-1])
    except RuntimeError:
        return False
    return True
