"""The compiled backend: the centred formulas and the analytic gradient, fused by `torch.compile`.

On a CPU this comes close to hand-written loops. The price is some seconds of compilation for each combination
of statistics, dtype and vocabulary, paid at the first call (and once more when the number of rows first
changes).
"""

from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from corollary.kernels._rows import Chunk, Coefficients, Rows, RowSums, concatenate

GATHER_BYTES = 1 << 26
"""Size of a copy of rows that cannot be viewed (scattered masks, unusual strides), per chunk."""


class CompiledBackend:
    """`torch.compile` of one fused function forward and one backward."""

    name = "compile"
    raises_on_bad_rows = True

    def forward(self, rows: Rows, stats: frozenset[str], *, keep: bool) -> tuple[RowSums, Sequence[Tensor]]:
        """Sum all rows with one fused function."""
        mean = "entropy" in stats
        second_log = "sum_p2_log_p" in stats
        second = second_log or "sum_p2" in stats
        spread = "varentropy" in stats
        run = _compiled(_sum_rows, _key(rows))
        parts = []
        with torch.no_grad():
            for chunk in rows.chunks(_chunk_size(rows)):
                parts.append(
                    RowSums(
                        *run(
                            chunk.logits,
                            chunk.of(rows.targets),
                            _temperature(rows, chunk),
                            mean=mean,
                            second=second,
                            second_log=second_log,
                            spread=spread,
                        )
                    )
                )
        if not parts:
            empty = torch.empty(0, dtype=rows.compute_dtype, device=rows.logits.device)
            return RowSums(*(empty for _ in RowSums._fields)), ()
        return concatenate(parts), ()

    def backward(
        self,
        rows: Rows,
        sums: RowSums,
        coefficients: Coefficients,
        gradient: Tensor,
        kept: Sequence[Tensor],
    ) -> None:
        """Write the gradient of all rows with one fused function."""
        run = _compiled(_write_gradient, _key(rows))
        in_place = gradient.data_ptr() == rows.logits.data_ptr()
        with torch.no_grad():
            for chunk in rows.chunks(_chunk_size(rows)):
                if not isinstance(chunk.where, slice):
                    out = torch.empty(chunk.logits.shape, dtype=gradient.dtype, device=gradient.device)
                else:
                    # The same object twice, so that the compiler sees that both are one memory.
                    out = chunk.logits if in_place else gradient[chunk.where]
                run(
                    out,
                    chunk.logits,
                    chunk.of(rows.targets),
                    _temperature(rows, chunk),
                    chunk.of(sums.row_max),
                    *(None if c is None else chunk.of(c) for c in coefficients),
                )
                if not isinstance(chunk.where, slice):
                    gradient.index_copy_(0, chunk.where, out)


def _sum_rows(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor,
    *,
    mean: bool,
    second: bool,
    second_log: bool,
    spread: bool,
) -> tuple[Tensor | None, ...]:
    """Return the fields of :class:`RowSums`."""
    z = logits.to(temperature.dtype)
    row_max = z.amax(-1, keepdim=True)
    u = (z - row_max) / temperature
    target_u = u.gather(1, targets.unsqueeze(-1)).squeeze(-1)
    e = u.exp()
    # A column of probability 0 adds 0 to every sum, where 0 * -inf would be NaN.
    u = u.masked_fill(u.isneginf(), 0.0)
    total = e.sum(-1)
    log_sum = total.log()
    mean_shift = (u * e).sum(-1) / total if mean or spread else None
    sum_p2 = (e * e).sum(-1) / (total * total) if second else None
    sum_p2_log_p = None
    if second_log and sum_p2 is not None:
        sum_p2_log_p = (u * e * e).sum(-1) / (total * total) - log_sum * sum_p2
    varentropy = None
    if spread and mean_shift is not None:
        varentropy = ((u - mean_shift.unsqueeze(-1)).square() * e).sum(-1) / total
    return row_max.squeeze(-1), log_sum, target_u - log_sum, mean_shift, sum_p2, sum_p2_log_p, varentropy


def _write_gradient(
    out: Tensor,
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor,
    row_max: Tensor,
    a0: Tensor,
    a1: Tensor | None,
    a2: Tensor | None,
    b0: Tensor | None,
    b1: Tensor | None,
    target: Tensor | None,
) -> None:
    """Evaluate the polynomial of :class:`Coefficients` into ``out``."""
    u = (logits.to(temperature.dtype) - row_max.unsqueeze(-1)) / temperature
    e = u.exp()
    u = u.masked_fill(u.isneginf(), 0.0)
    bracket = a0.unsqueeze(-1)
    if a2 is not None:
        bracket = bracket + u * u * a2.unsqueeze(-1)
    if a1 is not None:
        bracket = bracket + u * a1.unsqueeze(-1)
    if b0 is not None:
        inner = b0.unsqueeze(-1)
        if b1 is not None:
            inner = inner + u * b1.unsqueeze(-1)
        bracket = bracket + e * inner
    gradient = e * bracket
    if target is not None:
        columns = torch.arange(logits.shape[-1], device=logits.device)
        gradient = gradient + torch.where(columns == targets.unsqueeze(-1), target.unsqueeze(-1), 0.0)
    out.copy_(gradient)


@cache
def _compiled(function: FunctionType, key: tuple[Any, ...]) -> Callable[..., Any]:
    # The compiler allows few specialisations per code object, and then runs uncompiled without a word. A copy
    # of the code for each vocabulary and dtype gives each its own allowance.
    copy = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return torch.compile(copy)


def _key(rows: Rows) -> tuple[Any, ...]:
    per_row = isinstance(rows.temperature, Tensor)
    return (rows.vocabulary, rows.logits.dtype, rows.logits.device.type, per_row, rows.flat is None)


def _chunk_size(rows: Rows) -> int:
    if rows.index is None and rows.flat is not None:
        return max(1, rows.count)
    return max(1, GATHER_BYTES // (rows.vocabulary * rows.logits.dtype.itemsize))


def _temperature(rows: Rows, chunk: Chunk) -> Tensor:
    """Return one number as a tensor, or a column of them; its dtype tells the compute dtype."""
    if isinstance(rows.temperature, Tensor):
        return chunk.of(rows.temperature).unsqueeze(-1)
    return torch.tensor(rows.temperature, dtype=rows.compute_dtype, device=rows.logits.device)
