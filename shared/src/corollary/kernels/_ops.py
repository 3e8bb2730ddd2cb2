"""What `torch.compile` and `torch.export` see: operators with known shapes and gradients, opaque inside.

Checks that read values (the range of the targets, masks, temperatures) would break a graph, so they run inside the
operators. Eager calls do not come here: they skip the dispatcher. Saved row sums travel as one tensor ``(7, N)``, the
fields of :class:`~corollary.kernels._rows.RowSums` in order, 0 where a field was not asked for or a row is masked.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from corollary.kernels._function import outputs_of, row_coefficients, run_forward
from corollary.kernels._linear_function import linear_gradients, linear_rows, run_linear_forward
from corollary.kernels._linear_rows import LinearRows
from corollary.kernels._rows import Rows, RowSums, compute_dtype
from corollary.kernels._token_stats import STATISTICS, choose_backend
from corollary.kernels._validation import check_target_range, row_temperature, valid_rows

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""The five statistics (empty where not asked for), ``log_z``, and the row sums."""


def _selection(
    rows: Tensor, targets: Tensor, vocabulary: int, temperature: Tensor | None, tau: float, mask: Tensor | None
) -> tuple[Tensor, float | Tensor, Tensor | None]:
    """Return targets and temperatures of the valid rows, and the rows' places."""
    index = valid_rows(mask, targets)
    shape = tuple(targets.shape)
    given = tau if temperature is None else temperature.detach()
    per_row = row_temperature(given, shape, index, device=rows.device, dtype=compute_dtype(rows))
    flat = targets.reshape(-1)
    if index is not None:
        flat = flat.index_select(0, index)
    check_target_range(flat, vocabulary)
    return flat.long(), per_row, index


def _pack(problem: Rows | LinearRows, sums: RowSums, stats: str, total: int) -> Outputs:
    names = stats.split(",") if stats else []
    outputs = outputs_of(problem, sums, names)
    like = outputs[-1]
    found = dict(zip(names, outputs, strict=False))
    packed = like.new_zeros(len(RowSums._fields), total)
    for i, field in enumerate(sums):
        if field is not None:
            packed[i, slice(None) if problem.index is None else problem.index] = field
    fields = [found.get(name, like.new_empty(0)) for name in STATISTICS]
    return (*fields, like, packed)  # ty: ignore[invalid-explicit-return]


def _unpack(packed: Tensor, index: Tensor | None) -> RowSums:
    return RowSums(*(packed if index is None else packed[:, index]).unbind(0))


def _fake(rows: Tensor, targets: Tensor, stats: str) -> Outputs:
    names = stats.split(",") if stats else []
    dtype = compute_dtype(rows)
    fields = [rows.new_empty(targets.shape if name in names else (0,), dtype=dtype) for name in (*STATISTICS, "log_z")]
    fields[-1] = rows.new_empty(targets.shape, dtype=dtype)
    return (*fields, rows.new_empty((len(RowSums._fields), targets.numel()), dtype=dtype))  # ty: ignore


def _upstream(stats: str, gradients: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    # An output that was not asked for is empty, and so is the gradient that may arrive there.
    names = stats.split(",")
    return [g if name in names else None for name, g in zip(STATISTICS, gradients, strict=False)]


def _arrived(gradients: list[Tensor | None]) -> dict[str, Tensor]:
    return {name: g.reshape(-1) for name, g in zip(STATISTICS, gradients, strict=True) if g is not None}


@custom_op("corollary::token_stats", mutates_args=())
def token_stats_op(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    tau: float,
    mask: Tensor | None,
    stats: str,
    backend: str,
    row_splits: int | None = None,
) -> Outputs:
    """:func:`corollary.kernels.token_stats`; ``stats`` is joined by commas, ``tau`` holds without ``temperature``."""
    flat, per_row, index = _selection(logits, targets, logits.shape[-1], temperature, tau, mask)
    rows = Rows.of(logits, flat, per_row, index, row_splits)
    names = frozenset(stats.split(",")) - {""}
    sums, _, _ = run_forward(rows, names, choose_backend(backend, logits), keep=False)
    return _pack(rows, sums, stats, rows.total)


@token_stats_op.register_fake
def _(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    tau: float,
    mask: Tensor | None,
    stats: str,
    backend: str,
    row_splits: int | None = None,
) -> Outputs:
    return _fake(logits, targets, stats)


@custom_op("corollary::token_stats_backward", mutates_args=())
def token_stats_backward_op(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    tau: float,
    mask: Tensor | None,
    sums: Tensor,
    log_prob: Tensor | None,
    entropy: Tensor | None,
    sum_p2: Tensor | None,
    sum_p2_log_p: Tensor | None,
    varentropy: Tensor | None,
    backend: str,
) -> Tensor:
    """The gradient of the logits from those of the statistics; None costs nothing."""
    flat, per_row, index = _selection(logits, targets, logits.shape[-1], temperature, tau, mask)
    rows = Rows.of(logits, flat, per_row, index)
    arrived = _arrived([log_prob, entropy, sum_p2, sum_p2_log_p, varentropy])
    if index is not None:
        arrived = {name: gradient.index_select(0, index) for name, gradient in arrived.items()}
    make = torch.empty if index is None else torch.zeros
    gradient = make(rows.total, rows.vocabulary, dtype=logits.dtype, device=logits.device)
    unpacked = _unpack(sums, index)
    coefficients = row_coefficients(rows, unpacked, arrived, impossible=True)
    choose_backend(backend, logits).backward(rows, unpacked, coefficients, gradient, ())
    return gradient.view(logits.shape)


@token_stats_backward_op.register_fake
def _(logits: Tensor, *_rest: Any) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _save_logits(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    logits, targets, temperature, tau, mask, ctx.stats, backend, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[-2:])
    ctx.save_for_backward(logits, targets, temperature, mask, output[-1])
    ctx.tau, ctx.backend = tau, backend


def _logits_backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    logits, targets, temperature, mask, sums = ctx.saved_tensors
    upstream = _upstream(ctx.stats, gradients)
    if all(g is None for g in upstream):
        return (None,) * 8
    gradient = token_stats_backward_op(logits, targets, temperature, ctx.tau, mask, sums, *upstream, ctx.backend)
    return (gradient, *(None,) * 7)


token_stats_op.register_autograd(_logits_backward, setup_context=_save_logits)


@custom_op("corollary::linear_token_stats", mutates_args=())
def linear_token_stats_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    tau: float,
    softcap: float | None,
    mask: Tensor | None,
    stats: str,
    chunk_rows: int,
    dtype: torch.dtype,
    backend: str,
    forward: str = "chunked",
) -> Outputs:
    """:func:`corollary.kernels.linear_token_stats` with products in ``dtype``."""
    flat, per_row, index = _selection(hidden, targets, weight.shape[0], temperature, tau, mask)
    leading = tuple(targets.shape)
    problem = linear_rows(hidden, weight, bias, softcap, flat, per_row, index, leading, chunk_rows, dtype)
    names = frozenset(stats.split(",")) - {""}
    sums, _ = run_linear_forward(problem, names, choose_backend(backend, hidden), fused=forward == "fused")
    return _pack(problem, sums, stats, math.prod(leading))


@linear_token_stats_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    tau: float,
    softcap: float | None,
    mask: Tensor | None,
    stats: str,
    chunk_rows: int,
    dtype: torch.dtype,
    backend: str,
    forward: str = "chunked",
) -> Outputs:
    return _fake(hidden, targets, stats)


@custom_op("corollary::linear_token_stats_backward", mutates_args=())
def linear_token_stats_backward_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    tau: float,
    softcap: float | None,
    mask: Tensor | None,
    sums: Tensor,
    log_prob: Tensor | None,
    entropy: Tensor | None,
    sum_p2: Tensor | None,
    sum_p2_log_p: Tensor | None,
    varentropy: Tensor | None,
    chunk_rows: int,
    dtype: torch.dtype,
    for_hidden: bool,
    for_weight: bool,
    for_bias: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of hidden states, weight and bias, each empty where it is not needed."""
    flat, per_row, index = _selection(hidden, targets, weight.shape[0], temperature, tau, mask)
    leading = tuple(targets.shape)
    problem = linear_rows(hidden, weight, bias, softcap, flat, per_row, index, leading, chunk_rows, dtype)
    one, two, three = linear_gradients(
        problem,
        _unpack(sums, index),
        _arrived([log_prob, entropy, sum_p2, sum_p2_log_p, varentropy]),
        choose_backend(backend, hidden),
        (for_hidden, for_weight, for_bias),
        weight.dtype,
        impossible=True,
    )
    return (
        hidden.new_empty(0) if one is None else one.view(hidden.shape),
        weight.new_empty(0) if two is None else two.to(weight.dtype),
        weight.new_empty(0) if three is None or bias is None else three.to(bias.dtype),
    )


@linear_token_stats_backward_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: Tensor | None,
    tau: float,
    softcap: float | None,
    mask: Tensor | None,
    sums: Tensor,
    log_prob: Tensor | None,
    entropy: Tensor | None,
    sum_p2: Tensor | None,
    sum_p2_log_p: Tensor | None,
    varentropy: Tensor | None,
    chunk_rows: int,
    dtype: torch.dtype,
    for_hidden: bool,
    for_weight: bool,
    for_bias: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    def like(tensor: Tensor, needed: bool) -> Tensor:
        return tensor.new_empty(tensor.shape if needed else (0,))

    last = weight.new_empty(0) if bias is None else like(bias, for_bias)
    return like(hidden, for_hidden), like(weight, for_weight), last


def _save_head(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    hidden, weight, bias, targets, temperature, tau, softcap, mask, ctx.stats, chunk_rows, dtype, backend, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[-2:])
    ctx.save_for_backward(hidden, weight, bias, targets, temperature, mask, output[-1])
    ctx.tau, ctx.softcap, ctx.chunk_rows, ctx.dtype, ctx.backend = tau, softcap, chunk_rows, dtype, backend


def _head_backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    hidden, weight, bias, targets, temperature, mask, sums = ctx.saved_tensors
    upstream = _upstream(ctx.stats, gradients)
    needs = ctx.needs_input_grad[:3]
    if all(g is None for g in upstream):
        return (None,) * 13
    found = linear_token_stats_backward_op(
        *(hidden, weight, bias, targets, temperature, ctx.tau, ctx.softcap, mask, sums),
        *upstream,
        *(ctx.chunk_rows, ctx.dtype, *needs, ctx.backend),
    )
    return (*(g if needed else None for g, needed in zip(found, needs, strict=True)), *(None,) * 10)


linear_token_stats_op.register_autograd(_head_backward, setup_context=_save_head)
