r"""The Triton backend: one pass over the logits forward, one backward, one program per row.

The forward pass keeps, for the columns seen so far with largest logit :math:`m` and :math:`u_j = (z_j -
m)/\tau`,

.. math:: S_1 = \sum e^u,\; T_1 = \sum u e^u,\; Q_1 = \sum u^2 e^u,\; S_2 = \sum e^{2u},\; T_2 = \sum u
e^{2u}.

When a tile raises the maximum from :math:`m` to :math:`m'`, with :math:`d = (m - m')/\tau` and :math:`a =
e^d`, the old sums are moved to the new centre before the tile is added, each from the others' old values:

.. math:: Q_1 \leftarrow a (Q_1 + 2 d T_1 + d^2 S_1),\; T_1 \leftarrow a (T_1 + d S_1),\; S_1 \leftarrow a
S_1,\;
    T_2 \leftarrow a^2 (T_2 + d S_2),\; S_2 \leftarrow a^2 S_2.

The tile order is fixed, so a row has the same bits whatever its neighbours are. With ``TRITON_INTERPRET=1``
in the environment when this module is imported, the kernels run on CPU tensors (slowly: for tests).
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from corollary.kernels._rows import Coefficients, Rows, RowSums

MAX_BLOCK = 4096
"""Columns per tile at most; one tile is held in registers."""


@triton.jit
def _forward_kernel(
    logits,  # any floating dtype; row i begins at offsets[i], its columns are neighbours
    offsets,  # (n,) int64
    targets,  # (n,) int64
    temperature,  # (n,) or (1,)
    temperature_stride,  # 1 or 0
    row_max,  # (n,) and so on: outputs
    log_sum,
    log_prob,
    mean_shift,
    sum_p2,
    sum_p2_log_p,
    varentropy,
    vocabulary,
    MEAN: tl.constexpr,
    SECOND: tl.constexpr,
    SECOND_LOG: tl.constexpr,
    SPREAD: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = logits + tl.load(offsets + row)
    tau = tl.load(temperature + row * temperature_stride)
    infinity = float("inf")
    m = tl.full((), -infinity, DTYPE)
    s1 = tl.full((), 0.0, DTYPE)
    t1 = tl.full((), 0.0, DTYPE)
    q1 = tl.full((), 0.0, DTYPE)
    s2 = tl.full((), 0.0, DTYPE)
    t2 = tl.full((), 0.0, DTYPE)
    for first in range(0, vocabulary, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        z = tl.load(start + columns, mask=columns < vocabulary, other=-infinity).to(DTYPE)
        new_m = tl.maximum(m, tl.max(z, axis=0))
        # While only -inf was seen, any finite centre does: all sums are 0.
        centre = tl.where(new_m == -infinity, 0.0, new_m)
        old = tl.where(m == -infinity, centre, m)
        d = (old - centre) / tau
        a = tl.exp(d)
        if SPREAD:
            q1 = a * (q1 + 2.0 * d * t1 + d * d * s1)
        if MEAN:
            t1 = a * (t1 + d * s1)
        s1 = a * s1
        if SECOND_LOG:
            t2 = a * a * (t2 + d * s2)
        if SECOND:
            s2 = a * a * s2
        u = (z - centre) / tau
        e = tl.exp(u)
        # 0 * -inf would be NaN: a column of probability 0 adds 0 to every sum.
        u = tl.where(u == -infinity, 0.0, u)
        s1 += tl.sum(e, axis=0)
        if MEAN:
            t1 += tl.sum(u * e, axis=0)
        if SPREAD:
            q1 += tl.sum(u * u * e, axis=0)
        if SECOND:
            s2 += tl.sum(e * e, axis=0)
        if SECOND_LOG:
            t2 += tl.sum(u * e * e, axis=0)
        m = new_m
    # A row of only -inf has no distribution: NaN, never a plausible number.
    s1 = tl.where(s1 > 0.0, s1, float("nan"))
    log_s1 = tl.log(s1)
    taken = tl.load(start + tl.load(targets + row)).to(DTYPE)
    tl.store(row_max + row, m)
    tl.store(log_sum + row, log_s1)
    tl.store(log_prob + row, (taken - m) / tau - log_s1)
    if MEAN:
        tl.store(mean_shift + row, t1 / s1)
    if SECOND:
        tl.store(sum_p2 + row, s2 / (s1 * s1))
    if SECOND_LOG:
        tl.store(sum_p2_log_p + row, (t2 - log_s1 * s2) / (s1 * s1))
    if SPREAD:
        tl.store(varentropy + row, q1 / s1 - (t1 / s1) * (t1 / s1))


@triton.jit
def _backward_kernel(
    logits,
    offsets,
    gradient,  # row i begins at gradient_offsets[i]; may be the memory of logits
    gradient_offsets,
    targets,
    temperature,
    temperature_stride,
    row_max,
    a0,
    a1,
    a2,
    b0,
    b1,
    target_gradient,
    vocabulary,
    A1: tl.constexpr,
    A2: tl.constexpr,
    B0: tl.constexpr,
    B1: tl.constexpr,
    TARGET: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = logits + tl.load(offsets + row)
    gradient_start = gradient + tl.load(gradient_offsets + row)
    tau = tl.load(temperature + row * temperature_stride)
    m = tl.load(row_max + row)
    infinity = float("inf")
    constant = tl.load(a0 + row)
    for first in range(0, vocabulary, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < vocabulary
        z = tl.load(start + columns, mask=inside, other=-infinity).to(DTYPE)
        u = (z - m) / tau
        e = tl.exp(u)
        u = tl.where(u == -infinity, 0.0, u)
        bracket = constant + tl.zeros((BLOCK,), DTYPE)
        if A2:
            bracket += u * (tl.load(a1 + row) + u * tl.load(a2 + row))
        elif A1:
            bracket += u * tl.load(a1 + row)
        if B1:
            bracket += e * (tl.load(b0 + row) + u * tl.load(b1 + row))
        elif B0:
            bracket += e * tl.load(b0 + row)
        dz = e * bracket
        if TARGET:
            dz += tl.where(columns == tl.load(targets + row), tl.load(target_gradient + row), 0.0)
        tl.store(gradient_start + columns, dz.to(gradient.dtype.element_ty), mask=inside)


INTERPRETED = not isinstance(_forward_kernel, triton.runtime.JITFunction)
"""Whether the kernels were defined under ``TRITON_INTERPRET=1``."""


class TritonBackend:
    """One kernel forward and one backward; rows without a finite normaliser give NaN."""

    name = "triton"
    raises_on_bad_rows = False

    def __init__(self, *, block: int | None = None) -> None:
        """Fix the number of columns per tile, a power of 2; None picks it by ``V``."""
        self.block = block

    def forward(self, rows: Rows, stats: frozenset[str], *, keep: bool) -> tuple[RowSums, Sequence[Tensor]]:
        """Read each valid row once."""
        _check_device(rows)
        spread = "varentropy" in stats
        mean = spread or "entropy" in stats
        second_log = "sum_p2_log_p" in stats
        second = second_log or "sum_p2" in stats
        wanted = (True, True, True, mean, second, second_log, spread)
        device, dtype = rows.logits.device, rows.compute_dtype
        sums = [torch.empty(rows.count, dtype=dtype, device=device) if want else None for want in wanted]
        if rows.count:
            source = _with_unit_column_stride(rows)
            # A kernel argument must be a tensor: the row maximum stands in for what is not written.
            outputs = [sums[0] if field is None else field for field in sums]
            temperature, stride = _temperature(rows)
            arguments: list[Any] = [
                *(source.logits, source.offsets(), rows.targets, temperature, stride),
                *outputs,
                rows.vocabulary,
            ]
            with _on(device):
                _forward_kernel[(rows.count,)](
                    *arguments,
                    **self._constants(rows, MEAN=mean, SECOND=second, SECOND_LOG=second_log, SPREAD=spread),
                )
        return RowSums(*sums), ()  # ty: ignore[invalid-argument-type]

    def backward(
        self,
        rows: Rows,
        sums: RowSums,
        coefficients: Coefficients,
        gradient: Tensor,
        kept: Sequence[Tensor],
    ) -> None:
        """Read each valid row once and write its gradient."""
        if rows.count == 0:
            return
        if gradient.stride(-1) != 1:
            # Only in-place gradients of transposed logits come here.
            straight = torch.zeros(gradient.shape, dtype=gradient.dtype, device=gradient.device)
            self.backward(rows, sums, coefficients, straight, kept)
            gradient.copy_(straight)
            return
        device = rows.logits.device
        places = torch.arange(rows.count, device=device) if rows.index is None else rows.index
        source = _with_unit_column_stride(rows)
        temperature, stride = _temperature(rows)
        present = {name.upper(): c is not None for name, c in coefficients._asdict().items() if name != "a0"}
        arguments: list[Any] = [
            *(source.logits, source.offsets(), gradient, places * gradient.stride(0)),
            *(rows.targets, temperature, stride, sums.row_max),
            *(coefficients.a0 if c is None else c.contiguous() for c in coefficients),
            rows.vocabulary,
        ]
        with _on(device):
            _backward_kernel[(rows.count,)](*arguments, **self._constants(rows, **present))

    def _constants(self, rows: Rows, **flags: bool) -> dict[str, Any]:
        block = self.block or min(MAX_BLOCK, triton.next_power_of_2(rows.vocabulary))
        dtype = tl.float64 if rows.compute_dtype == torch.float64 else tl.float32
        return {**flags, "DTYPE": dtype, "BLOCK": block}


def _check_device(rows: Rows) -> None:
    if not (rows.logits.is_cuda or INTERPRETED):
        raise ValueError(
            f"backend 'triton' expected CUDA tensors, got {rows.logits.device} "
            "(on a CPU only with TRITON_INTERPRET=1 set before the kernels are imported)"
        )


def _on(device: torch.device) -> contextlib.AbstractContextManager:
    # Triton launches on the current device, which need not be the tensors' one.
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _with_unit_column_stride(rows: Rows) -> Rows:
    return rows if rows.logits.stride(-1) == 1 else replace(rows, logits=rows.logits.contiguous())


def _temperature(rows: Rows) -> tuple[Tensor, int]:
    if isinstance(rows.temperature, Tensor):
        return rows.temperature.contiguous(), 1
    return torch.full((1,), rows.temperature, dtype=rows.compute_dtype, device=rows.logits.device), 0
