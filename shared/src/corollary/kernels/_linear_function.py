r"""The autograd function of the head: logits by chunks, forward and once more backward.

With hidden states :math:`h`, weight :math:`W`, bias :math:`b` and cap :math:`c`, the logits of a row are :math:`z =
W h + b`, capped :math:`\hat z = c \tanh(z / c)`. From the gradient :math:`g = \partial L / \partial \hat z` of
:mod:`corollary.kernels._function`,

.. math:: \frac{\partial L}{\partial z} = g \odot (1 - (\hat z / c)^2), \quad
    \frac{\partial L}{\partial h} = W^\top \frac{\partial L}{\partial z}, \quad
    \frac{\partial L}{\partial W} = \sum_n \frac{\partial L}{\partial z_n} h_n^\top, \quad
    \frac{\partial L}{\partial b} = \sum_n \frac{\partial L}{\partial z_n}.

The backward pass makes the logits again, overwrites them with their gradient, and multiplies: by chunks of rows, or in
low precision by blocks of columns (:mod:`corollary.kernels._linear_columns`). Between the passes only the row sums are
kept.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from corollary.kernels._function import Backend, outputs_of, row_coefficients
from corollary.kernels._linear_columns import gradients_by_columns
from corollary.kernels._linear_products import add_product
from corollary.kernels._linear_rows import LinearRows, LogitsChunk
from corollary.kernels._rows import Coefficients, RowSums, concatenate


def run_linear_forward(
    problem: LinearRows, stats: frozenset[str], backend: Backend, *, fused: bool = False
) -> tuple[RowSums, bool]:
    """Return the row sums, and whether a taken token may have probability 0.

    Args:
        problem: Checked input.
        stats: Names of statistics.
        backend: Sums the rows of a chunk of logits.
        fused: Sum without logits instead, by :func:`corollary.kernels._triton_head.fused_head_forward`.

    Raises:
        ValueError: a valid row has no distribution, where the backend looks for that; ``fused`` on a device that
            cannot.
    """
    if fused:
        from corollary.kernels._triton_head import fused_head_forward

        return fused_head_forward(problem, stats), True
    parts = [backend.forward(chunk.rows, stats, keep=False)[0] for chunk in problem.chunks()]
    if not parts:
        like = torch.float64 if problem.weight.dtype == torch.float64 else torch.float32
        empty = torch.empty(0, dtype=like, device=problem.weight.device)
        return RowSums(*(empty for _ in RowSums._fields)), False
    sums = concatenate(parts)
    if not backend.raises_on_bad_rows:
        return sums, True
    if math.isfinite(float(sums.log_prob.sum())):
        return sums, False
    _raise_on_bad_rows(problem, sums)
    return sums, True


def _raise_on_bad_rows(problem: LinearRows, sums: RowSums) -> None:
    bad = (~sums.log_sum.isfinite()).nonzero()
    if len(bad) == 0:
        return
    place = int(bad[0]) if problem.index is None else int(problem.index[int(bad[0])])
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), problem.leading)) if problem.leading else ()
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    hidden = "hidden states that are not finite" if not problem.hidden[place].isfinite().all() else "bad logits"
    raise ValueError(f"{hidden} on a valid token: row {where}{more}; expected at least one finite logit, and no NaN")


class LinearTokenStatsFunction(torch.autograd.Function):
    """Requested statistics and ``log_z`` of the valid rows, with gradients to hidden states, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        problem: LinearRows,
        stats: tuple[str, ...],
        backend: Backend,
        fused: bool,
    ) -> tuple[Tensor, ...]:
        """See :func:`corollary.kernels.linear_token_stats`."""
        with torch.autocast(hidden.device.type, enabled=False):
            sums, impossible = run_linear_forward(problem, frozenset(stats), backend, fused=fused)
            outputs = outputs_of(problem, sums, stats)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(outputs[-1])
        # All through autograd, as in TokenStatsFunction: hence not `problem`, which holds the same memory.
        ctx.save_for_backward(hidden, weight, bias, *sums)
        ctx.stats, ctx.backend, ctx.impossible = stats, backend, impossible
        ctx.rest = (problem.softcap, problem.targets, problem.temperature, problem.index, problem.leading)
        ctx.chunk_rows, ctx.product_dtype = problem.chunk_rows, problem.weight.dtype
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Make the logits of each chunk again and multiply their gradient; skip what nobody asked for."""
        hidden, weight, bias, *saved = ctx.saved_tensors
        arrived = {
            name: gradient.reshape(-1)
            for name, gradient in zip(ctx.stats, gradients, strict=False)
            if gradient is not None
        }
        needs = ctx.needs_input_grad[:3]
        if not arrived or not any(needs):
            return (None,) * 7
        with torch.autocast(hidden.device.type, enabled=False):
            problem = linear_rows(hidden, weight, bias, *ctx.rest, ctx.chunk_rows, ctx.product_dtype)
            results = linear_gradients(
                *(problem, RowSums(*saved), arrived, ctx.backend, needs, weight.dtype), impossible=ctx.impossible
            )
        for_hidden, for_weight, for_bias = results
        return (
            None if for_hidden is None else for_hidden.view(hidden.shape),
            None if for_weight is None else for_weight.to(weight.dtype),
            None if for_bias is None or bias is None else for_bias.to(bias.dtype),
            *(None,) * 4,
        )


def linear_rows(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    targets: Tensor,
    temperature: float | Tensor,
    index: Tensor | None,
    leading: tuple[int, ...],
    chunk_rows: int,
    dtype: torch.dtype,
) -> LinearRows:
    """Describe checked input; ``dtype`` is that of the product, the other fields are those of :class:`LinearRows`."""
    return LinearRows(
        hidden.detach().reshape(math.prod(leading), hidden.shape[-1]),
        weight.detach().to(dtype),
        None if bias is None else bias.detach().to(dtype),
        softcap,
        targets,
        temperature,
        index,
        leading,
        chunk_rows,
    )


def linear_gradients(
    problem: LinearRows,
    sums: RowSums,
    arrived: dict[str, Tensor],
    backend: Backend,
    needs: Sequence[bool],
    weight_dtype: torch.dtype,
    *,
    impossible: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of hidden states ``(N, D)``, weight and bias that ``needs`` asks for.

    Args:
        problem: What the forward pass worked on.
        sums: What it left.
        arrived: Upstream gradient, shape ``(N,)``, of each output that received one.
        backend: The backend of the forward pass.
        needs: Whether hidden states, weight and bias need a gradient.
        weight_dtype: Of the weight as the caller has it, in which its gradient is returned.
        impossible: Whether a taken token may have probability 0.

    Returns:
        The first in the dtype of the hidden states, the second in that of the weight, both summed in float32 (float64
        for float64), since a sum of thousands of rows in bfloat16 stops growing; the last as it was summed.
    """
    if problem.index is not None:
        arrived = {name: gradient.index_select(0, problem.index) for name, gradient in arrived.items()}
    coefficients = row_coefficients(problem, sums, arrived, impossible=impossible)
    device = problem.weight.device
    wide = torch.float64 if problem.weight.dtype == torch.float64 else torch.float32
    for_hidden = for_weight = for_bias = None
    if needs[1] and problem.weight.dtype != wide:
        of_valid, for_weight, for_bias = gradients_by_columns(problem, sums, coefficients, backend, needs, weight_dtype)
        if of_valid is not None:
            for_hidden = of_valid.to(problem.hidden.dtype)
            if problem.index is not None:
                for_hidden = torch.zeros_like(problem.hidden).index_copy_(0, problem.index, for_hidden)
        return for_hidden, for_weight, for_bias
    if needs[0]:
        # Rows that the mask leaves out get 0.
        make = torch.empty_like if problem.index is None else torch.zeros_like
        for_hidden = make(problem.hidden)
    if needs[1]:
        for_weight = torch.zeros(problem.weight.shape, dtype=wide, device=device)
    if needs[2]:
        for_bias = torch.zeros(problem.weight.shape[:1], dtype=wide, device=device)
    second = None if problem.softcap is None else problem.buffer()
    for chunk in problem.chunks():
        gradient = _logit_gradient(problem, chunk, sums, coefficients, backend, second)
        if for_hidden is not None:
            product = gradient @ problem.weight
            if problem.index is None:
                chunk.of(for_hidden).copy_(product)
            else:
                for_hidden.index_copy_(0, chunk.of(problem.index), product.to(for_hidden.dtype))
        if for_weight is not None:
            add_product(for_weight, gradient, chunk.hidden)
        if for_bias is not None:
            for_bias += gradient.sum(0, dtype=wide)
    return for_hidden, for_weight, for_bias


def _logit_gradient(
    problem: LinearRows,
    chunk: LogitsChunk,
    sums: RowSums,
    coefficients: Coefficients,
    backend: Backend,
    second: Tensor | None,
) -> Tensor:
    """Overwrite the chunk's logits, or fill ``second`` where the cap still needs them, with the gradient of z."""
    logits = chunk.rows.logits
    gradient = logits if second is None else second[: chunk.stop - chunk.start]
    of_chunk = Coefficients(*(None if c is None else chunk.of(c) for c in coefficients))  # ty: ignore
    backend.backward(chunk.rows, sums.map(chunk.of), of_chunk, gradient, ())
    return problem.through_cap(gradient, logits)
