"""The public entry point from hidden states and the language-model head: :func:`linear_token_stats`."""

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from corollary.kernels._function import outputs_of
from corollary.kernels._linear_function import LinearTokenStatsFunction, linear_rows, run_linear_forward
from corollary.kernels._rows import compute_dtype
from corollary.kernels._token_stats import STATISTICS, TokenStats, choose_backend, split_temperature, traced_result
from corollary.kernels._validation import (
    check_head,
    check_softcap,
    check_stats,
    check_target_range,
    check_targets,
    row_temperature,
    valid_rows,
)

CHUNK_BYTES = 256 << 20
"""Logits that exist at one time, by default."""

FORWARDS = ("chunked", "fused")


def linear_token_stats(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    stats: Sequence[str] = ("log_prob", "entropy"),
    mask: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    backend: str = "auto",
    forward: str = "chunked",
) -> TokenStats:
    r"""Token statistics from hidden states and the head's weight, without ever holding all logits.

    The statistics are those of :func:`token_stats` of the logits

    .. math:: z = W h + b, \qquad \hat z = c \tanh(z / c) \text{ if a cap is given},

    with :math:`p = \mathrm{softmax}(\hat z / \tau)`. Rows go through the head a chunk at a time, into one buffer that
    is reused. Nothing of size ``(N, V)`` is allocated, forward or backward: the backward pass makes the logits again,
    overwrites them with their gradient and multiplies that with weight and hidden states. It costs a fourth matrix
    product of that size where plain autograd needs three. In low precision it goes by blocks of columns, as large as a
    chunk, so that the weight's gradient needs no accumulator in float32 (that of the hidden states does).

    Symbols: :math:`h` = ``hidden``, :math:`W` = ``weight``, :math:`b` = ``bias``, :math:`c` = ``softcap``,
    :math:`\tau` = ``temperature``; the statistics' own are in :func:`token_stats`.

    Args:
        hidden: What the head is applied to, shape ``(..., D)``, bfloat16, float16, float32 or float64.
        weight: Of the head, shape ``(V, D)``, as in `torch.nn.Linear`, in the dtype of ``hidden``.
        targets: Taken tokens, shape ``(...)``, any integer dtype, each in ``0..V-1`` where ``mask`` is 1.
        bias: Of the head, shape ``(V,)``, or None.
        temperature: Divides the capped logits; finite and > 0. A number, or a tensor that broadcasts to ``(...)``. No
            gradient flows to it.
        softcap: Cap of the logits (Gemma 2's ``final_logit_softcapping``), finite and > 0, or None.
        stats: Which of :data:`STATISTICS` to compute.
        mask: 1 for valid tokens, shape ``(...)``, bool or numbers 0 and 1. Hidden state and target of a masked token
            may be anything: they are not read, its outputs and gradients are 0, and it costs no matrix product.
        chunk_bytes: Bytes of logits that exist at one time (and as many of their gradient if there is a cap: the
            number is shared), at least one row.
        backend: Of :func:`token_stats`; it works on the rows of a chunk.
        forward: ``"chunked"``, or ``"fused"``: one Triton kernel (CUDA) multiplies and sums, and no logit reaches
            memory; meant for small ``D``, where writing and reading the logits costs most. It has not been timed on a
            GPU. The backward pass is the chunked one.

    Returns:
        TokenStats: tensors of shape ``(...)``, float32 (float64 for float64 ``hidden``). All but ``log_z`` are
        differentiable with respect to ``hidden``, ``weight`` and ``bias``, once.

    Raises:
        ValueError: a shape, dtype or device does not fit; ``softcap`` or ``chunk_bytes`` is not positive; ``forward``
            is unknown; a valid row has no distribution (NaN or +inf logits, where the backend looks for them: the
            fused forward gives NaN for such a row); and what :func:`token_stats` refuses.
        ImportError: backend ``triton`` or forward ``fused`` is asked for and triton is not installed.

    Implementation notes:
        * Logits are rounded to the dtype of ``hidden``, as the head itself would; the statistics of them are computed
          in float32. The gradients of weight and bias are summed in float32 and rounded once, at the end.
        * Under autocast the products are taken in its dtype, as `torch.nn.functional.linear` takes them; the
          statistics and the sums of gradients stay in float32.
        * The matrix product may give a row other bits when the chunk has another height, so here (unlike in
          :func:`token_stats`) a row is the same in every company only for chunks of the same height. The fused
          forward has no such dependence.
        * The fused forward rounds logits where the chunked one does; the two differ in the order of sums, so a logit
          on the edge of two values of a low-precision dtype may be rounded to either. Products of float32 use tf32
          only where `torch.set_float32_matmul_precision` allows it, as those of torch do.
        * Under `torch.compile` and `torch.export` the call is one operator, ``corollary::linear_token_stats``.
        * Hidden states that cannot be viewed as ``(N, D)`` are copied, ``N D`` elements.

    Example:
        >>> import torch
        >>> hidden, weight = torch.ones(2, 3), torch.zeros(8, 3)
        >>> linear_token_stats(hidden, weight, torch.tensor([0, 5])).entropy.exp().round(decimals=4).tolist()
        [8.0, 8.0]

    References:
        arXiv:2411.09009 (the head without its logits), arXiv:2408.00118 (the cap).
    """
    names = check_stats(stats, STATISTICS)
    device = hidden.device if isinstance(hidden, Tensor) else torch.device("cpu")
    autocast = torch.is_autocast_enabled(device.type)
    check_head(hidden, weight, bias, autocast=autocast)
    check_targets(targets, hidden, name="hidden")
    cap = check_softcap(softcap)
    _check_forward(forward)
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes must be at least 1, got {chunk_bytes}")
    vocabulary, dtype = weight.shape[0], product_dtype(hidden)
    chunk_rows = max(1, chunk_bytes // ((1 if cap is None else 2) * vocabulary * dtype.itemsize))
    if torch.compiler.is_compiling():
        tensor, tau = split_temperature(temperature)
        rest = (tensor, tau, cap, mask, ",".join(names), chunk_rows, dtype, backend, forward)
        return traced_result(names, torch.ops.corollary.linear_token_stats(hidden, weight, bias, targets, *rest))
    index = valid_rows(mask, targets)
    leading = tuple(hidden.shape[:-1])
    per_row = row_temperature(temperature, leading, index, device=device, dtype=compute_dtype(hidden))
    flat_targets = targets.reshape(-1)
    if index is not None:
        flat_targets = flat_targets.index_select(0, index)
    check_target_range(flat_targets, vocabulary)
    implementation = choose_backend(backend, hidden)
    problem = linear_rows(hidden, weight, bias, cap, flat_targets.long(), per_row, index, leading, chunk_rows, dtype)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (hidden, weight, bias)):
        fused = forward == "fused"
        outputs = LinearTokenStatsFunction.apply(hidden, weight, bias, problem, names, implementation, fused)
    else:
        with torch.autocast(device.type, enabled=False):
            sums, _ = run_linear_forward(problem, frozenset(names), implementation, fused=forward == "fused")
        outputs = outputs_of(problem, sums, names)
    return TokenStats(**dict(zip(names, outputs, strict=False)), log_z=outputs[-1])


def _check_forward(name: str) -> None:
    if name not in FORWARDS:
        raise ValueError(f"forward must be one of {', '.join(FORWARDS)}; got {name!r}")
    if name == "fused" and importlib.util.find_spec("triton") is None:
        raise ImportError("forward 'fused' needs the package triton: pip install triton")


def product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype that the head's matrix products are taken in: autocast's where it is on, and never for float64."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype
