r"""The head's backward pass in low precision: by blocks of the vocabulary, all rows at a time.

By chunks of rows, the gradient of the weight is a sum over chunks, which in bfloat16 would stop growing: it takes an
accumulator in float32, twice the gradient's size, that every chunk reads and writes. By blocks of columns, a part of
the weight's gradient is one product over all rows, which adds into float32 inside and is rounded once. What is
accumulated instead is the gradient of the hidden states, ``4ND`` bytes.

The gradient of a logit needs sums of its row, but those are known from the forward pass; nothing here adds along a row.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from corollary.kernels._function import Backend
from corollary.kernels._linear_products import add_product, write_product
from corollary.kernels._linear_rows import LinearRows
from corollary.kernels._rows import Coefficients, Rows, RowSums

BLOCK_MULTIPLE = 128
"""Blocks are a multiple of it, so that their rows are aligned."""


def gradients_by_columns(
    problem: LinearRows,
    sums: RowSums,
    coefficients: Coefficients,
    backend: Backend,
    needs: Sequence[bool],
    weight_dtype: torch.dtype,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Return the gradients of hidden states ``(n, D)`` in float32, weight in ``weight_dtype``, and bias in float32."""
    hidden = problem.hidden if problem.index is None else problem.hidden.index_select(0, problem.index)
    hidden = hidden.to(problem.weight.dtype)
    device, shape = hidden.device, problem.weight.shape
    for_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=device) if needs[0] else None
    for_weight = torch.zeros(shape, dtype=weight_dtype, device=device)
    for_bias = torch.zeros(shape[:1], dtype=torch.float32, device=device) if needs[2] else None
    for columns, gradient in _logit_gradients(problem, hidden, sums, coefficients, backend):
        write_product(for_weight[columns], gradient, hidden)
        if for_hidden is not None:
            add_product(for_hidden, gradient.t(), problem.weight[columns])
        if for_bias is not None:
            for_bias[columns] = gradient.sum(0, dtype=torch.float32)
    return for_hidden, for_weight, for_bias


def _logit_gradients(
    problem: LinearRows, hidden: Tensor, sums: RowSums, coefficients: Coefficients, backend: Backend
) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of columns with the gradient of their logits ``(n, width)``, which the next block overwrites."""
    count, vocabulary = problem.count, problem.weight.shape[0]
    if count == 0:
        return
    # As many logits at a time as a chunk of rows has.
    width = min(vocabulary, max(1, problem.chunk_rows * vocabulary // count))
    if BLOCK_MULTIPLE < width < vocabulary:
        width = width // BLOCK_MULTIPLE * BLOCK_MULTIPLE
    buffer = torch.empty(count * width, dtype=hidden.dtype, device=hidden.device)
    second = None if problem.softcap is None else torch.empty_like(buffer)
    for first in range(0, vocabulary, width):
        columns = slice(first, min(first + width, vocabulary))
        size = columns.stop - first
        logits = problem.logits_into(buffer[: count * size].view(count, size), hidden, columns)
        gradient = logits if second is None else second[: count * size].view(count, size)
        # A taken token of another block adds 0 to some column here.
        place = problem.targets - first
        inside = (place >= 0) & (place < size)
        target = coefficients.target
        here = coefficients._replace(target=None if target is None else target.masked_fill(~inside, 0.0))
        rows = Rows.of(logits, place.clamp(0, size - 1), problem.temperature, None)
        backend.backward(rows, sums, here, gradient, ())
        yield columns, problem.through_cap(gradient, logits)
