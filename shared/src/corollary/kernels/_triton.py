r"""The Triton backend: one pass over the logits forward, one backward.

The forward pass keeps, for the columns seen so far with largest logit :math:`m` and :math:`u_j = (z_j -
m)/\tau`,

.. math:: S_1 = \sum e^u,\; T_1 = \sum u e^u,\; Q_1 = \sum u^2 e^u,\; S_2 = \sum e^{2u},\; T_2 = \sum u
e^{2u}.

When a tile raises the maximum from :math:`m` to :math:`m'`, with :math:`d = (m - m')/\tau` and :math:`a =
e^d`, the old sums are moved to the new centre before the tile is added, each from the others' old values:

.. math:: Q_1 \leftarrow a (Q_1 + 2 d T_1 + d^2 S_1),\; T_1 \leftarrow a (T_1 + d S_1),\; S_1 \leftarrow a
S_1,\;
    T_2 \leftarrow a^2 (T_2 + d S_2),\; S_2 \leftarrow a^2 S_2.

The same rule merges the parts of a row that several programs have summed. NOTES.md says why the kernels are shaped as
they are: u is in units of log 2, so that one multiplication prepares the exponential; the sums are vectors as wide as a
tile and are reduced once per row; they are moved only when a tile raises the maximum; only the last tile has a mask.

The order of the sums is fixed by V (and the number of programs per row), so a row has the same bits whatever its
neighbours are. With ``TRITON_INTERPRET=1`` in the environment when this module is imported, the kernels run on CPU
tensors (slowly: for tests).
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from corollary.kernels._rows import Coefficients, Rows, RowSums

MAX_BLOCK = 2048
"""Columns per tile at most; one tile, and the sums as wide as it, are held in registers."""

STAGES = 4
"""Tiles on their way from memory at one time."""

SPLIT_COLUMNS = 1 << 18
"""Columns that one program sums, unless the caller says how many programs share a row."""

BACKWARD_PROGRAMS = 1024
"""Programs that the backward pass aims at. It has no sums, so splitting its rows changes no bit."""

LN_2 = tl.constexpr(math.log(2.0))
FLOOR = tl.constexpr(-1e5)
# 2^-1e5 is 0 in float64 too: a column of probability 0 then adds 0 * FLOOR = 0 to every sum, where 0 * -inf is NaN.


@triton.jit
def moved(
    d, s1, t1, q1, s2, t2,
    MEAN: tl.constexpr, SECOND: tl.constexpr, SECOND_LOG: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    """Move sums to a centre that is ``-d`` higher; ``d`` in units of log 2, at most 0."""
    a = tl.exp2(d)
    if SPREAD:
        q1 = a * (q1 + 2.0 * d * t1 + d * d * s1)
    if MEAN:
        t1 = a * (t1 + d * s1)
    if SECOND_LOG:
        t2 = a * a * (t2 + d * s2)
    if SECOND:
        s2 = a * a * s2
    s1 = a * s1
    return s1, t1, q1, s2, t2


@triton.jit
def _with_tile(
    z, m, scale, s1, t1, q1, s2, t2,
    MEAN: tl.constexpr, SECOND: tl.constexpr, SECOND_LOG: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    """Add a tile of logits to the sums of a row, lane by lane."""
    infinity = float("inf")
    highest = tl.max(z, axis=0)
    if highest > m:
        # The first finite tile has nothing to move, and (-inf) * 0 must not appear.
        d = tl.where(m == -infinity, 0.0, tl.maximum((m - highest) * scale, FLOOR))
        s1, t1, q1, s2, t2 = moved(d, s1, t1, q1, s2, t2, MEAN, SECOND, SECOND_LOG, SPREAD)
        m = highest
    # While only -inf was seen, any finite centre does: all sums are 0.
    u = (z - tl.where(m == -infinity, 0.0, m)) * scale
    e = tl.exp2(u)
    s1 += e
    if MEAN or SECOND_LOG:
        u = tl.maximum(u, FLOOR)
    if MEAN:
        ue = u * e
        t1 += ue
        if SPREAD:
            q1 += u * ue
    if SECOND:
        ee = e * e
        s2 += ee
        if SECOND_LOG:
            t2 += u * ee
    return m, s1, t1, q1, s2, t2


@triton.jit
def finish(
    row, m, s1, t1, q1, s2, t2, taken, scale,
    row_max, log_sum, log_prob, mean_shift, sum_p2, sum_p2_log_p, varentropy,
    MEAN: tl.constexpr, SECOND: tl.constexpr, SECOND_LOG: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    """Store the statistics of a row from its sums, which are scalars here."""
    # A row of only -inf has no distribution: NaN, never a plausible number.
    s1 = tl.where(s1 > 0.0, s1, float("nan"))
    log_s1 = tl.log(s1)
    tl.store(row_max + row, m)
    tl.store(log_sum + row, log_s1)
    tl.store(log_prob + row, (taken - m) * scale * LN_2 - log_s1)
    if MEAN:
        mean = t1 / s1
        tl.store(mean_shift + row, mean * LN_2)
        if SPREAD:
            spread = q1 / s1 - mean * mean
            # Rounding may leave a negative number; not tl.maximum, which would turn NaN into 0.
            tl.store(varentropy + row, tl.where(spread < 0.0, 0.0, spread) * (LN_2 * LN_2))
    if SECOND:
        tl.store(sum_p2 + row, s2 / (s1 * s1))
        if SECOND_LOG:
            tl.store(sum_p2_log_p + row, (t2 * LN_2 - log_s1 * s2) / (s1 * s1))


@triton.jit
def _forward_kernel(
    logits,  # any floating dtype; row i begins at offsets[i], its columns are neighbours
    offsets,  # (n,) int64
    targets,  # (n,) int64
    scales,  # (n,) or (1,): 1 / (temperature log 2)
    scale_stride,  # 1 or 0
    parts,  # (n, programs of a row, 6): sums of each part, if PARTS
    row_max, log_sum, log_prob, mean_shift, sum_p2, sum_p2_log_p, varentropy,  # (n,): outputs, if not PARTS
    vocabulary,
    span,  # columns of a program, a multiple of BLOCK
    MEAN: tl.constexpr, SECOND: tl.constexpr, SECOND_LOG: tl.constexpr, SPREAD: tl.constexpr,
    PARTS: tl.constexpr, DTYPE: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = logits + tl.multiple_of(tl.load(offsets + row), ALIGN)
    scale = tl.load(scales + row * scale_stride)
    infinity = float("inf")
    lanes = tl.arange(0, BLOCK)
    none = tl.full((), 0.0, DTYPE)
    m = tl.full((), -infinity, DTYPE)
    s1 = tl.zeros((BLOCK,), DTYPE)
    # What was not asked for stays a number that nothing reads, and the compiler drops it.
    t1 = tl.zeros((BLOCK,), DTYPE) if MEAN else none
    q1 = tl.zeros((BLOCK,), DTYPE) if SPREAD else none
    s2 = tl.zeros((BLOCK,), DTYPE) if SECOND else none
    t2 = tl.zeros((BLOCK,), DTYPE) if SECOND_LOG else none
    first = tl.program_id(1) * span
    stop = tl.minimum(first + span, vocabulary)
    full = first + (stop - first) // BLOCK * BLOCK
    for column in tl.range(first, full, BLOCK, num_stages=STAGES):
        z = tl.load(start + column + lanes).to(DTYPE)
        m, s1, t1, q1, s2, t2 = _with_tile(z, m, scale, s1, t1, q1, s2, t2, MEAN, SECOND, SECOND_LOG, SPREAD)
    if full < stop:
        columns = full + lanes
        z = tl.load(start + columns, mask=columns < stop, other=-infinity).to(DTYPE)
        m, s1, t1, q1, s2, t2 = _with_tile(z, m, scale, s1, t1, q1, s2, t2, MEAN, SECOND, SECOND_LOG, SPREAD)
    s1 = tl.sum(s1, axis=0)
    if MEAN:
        t1 = tl.sum(t1, axis=0)
    if SPREAD:
        q1 = tl.sum(q1, axis=0)
    if SECOND:
        s2 = tl.sum(s2, axis=0)
    if SECOND_LOG:
        t2 = tl.sum(t2, axis=0)
    if PARTS:
        part = parts + (row * tl.num_programs(1) + tl.program_id(1)) * 6
        tl.store(part, m)
        tl.store(part + 1, s1)
        tl.store(part + 2, t1)
        tl.store(part + 3, q1)
        tl.store(part + 4, s2)
        tl.store(part + 5, t2)
    else:
        taken = tl.load(start + tl.load(targets + row)).to(DTYPE)
        finish(
            row, m, s1, t1, q1, s2, t2, taken, scale,
            row_max, log_sum, log_prob, mean_shift, sum_p2, sum_p2_log_p, varentropy,
            MEAN, SECOND, SECOND_LOG, SPREAD,
        )  # fmt: skip


@triton.jit
def _merge_kernel(
    logits, offsets, targets, scales, scale_stride, parts,
    row_max, log_sum, log_prob, mean_shift, sum_p2, sum_p2_log_p, varentropy,
    count,  # parts of a row
    MEAN: tl.constexpr, SECOND: tl.constexpr, SECOND_LOG: tl.constexpr, SPREAD: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Merge the parts of a row, in their order."""
    row = tl.program_id(0).to(tl.int64)
    scale = tl.load(scales + row * scale_stride)
    infinity = float("inf")
    m = tl.full((), -infinity, DTYPE)
    s1 = tl.full((), 0.0, DTYPE)
    t1 = tl.full((), 0.0, DTYPE)
    q1 = tl.full((), 0.0, DTYPE)
    s2 = tl.full((), 0.0, DTYPE)
    t2 = tl.full((), 0.0, DTYPE)
    for number in range(0, count):
        part = parts + (row * count + number) * 6
        other_m = tl.load(part)
        highest = tl.maximum(m, other_m)
        d = tl.where(m == -infinity, 0.0, tl.maximum((m - highest) * scale, FLOOR))
        s1, t1, q1, s2, t2 = moved(d, s1, t1, q1, s2, t2, MEAN, SECOND, SECOND_LOG, SPREAD)
        d = tl.where(other_m == -infinity, 0.0, tl.maximum((other_m - highest) * scale, FLOOR))
        r1, v1, x1, r2, v2 = moved(
            d, tl.load(part + 1), tl.load(part + 2), tl.load(part + 3), tl.load(part + 4), tl.load(part + 5),
            MEAN, SECOND, SECOND_LOG, SPREAD,
        )  # fmt: skip
        s1 += r1
        t1 += v1
        q1 += x1
        s2 += r2
        t2 += v2
        m = highest
    taken = tl.load(logits + tl.load(offsets + row) + tl.load(targets + row)).to(DTYPE)
    finish(
        row, m, s1, t1, q1, s2, t2, taken, scale,
        row_max, log_sum, log_prob, mean_shift, sum_p2, sum_p2_log_p, varentropy,
        MEAN, SECOND, SECOND_LOG, SPREAD,
    )  # fmt: skip


@triton.jit
def _tile_gradient(
    z, columns, m, scale, a0, a1, a2, b0, b1, target, taken,
    A1: tl.constexpr, A2: tl.constexpr, B0: tl.constexpr, B1: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """Evaluate the polynomial of a row on a tile."""
    u = (z - m) * scale
    e = tl.exp2(u)
    if A1 or A2 or B1:
        u = tl.maximum(u, FLOOR)
    if A2:
        bracket = a0 + u * (a1 + u * a2)
    elif A1:
        bracket = a0 + u * a1
    else:
        bracket = a0
    if B1:
        bracket += e * (b0 + u * b1)
    elif B0:
        bracket += e * b0
    dz = e * bracket
    if TARGET:
        dz += tl.where(columns == taken, target, 0.0)
    return dz


@triton.jit
def _backward_kernel(
    logits, offsets,
    gradient, gradient_offsets,  # row i begins at gradient_offsets[i]; may be the memory of logits
    targets, scales, scale_stride, row_max,
    a0, a1, a2, b0, b1, target,  # (n,): Coefficients; what is None is not read
    vocabulary, span,
    A1: tl.constexpr, A2: tl.constexpr, B0: tl.constexpr, B1: tl.constexpr, TARGET: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = logits + tl.multiple_of(tl.load(offsets + row), ALIGN)
    gradient_start = gradient + tl.multiple_of(tl.load(gradient_offsets + row), ALIGN)
    scale = tl.load(scales + row * scale_stride)
    m = tl.load(row_max + row)
    taken = tl.load(targets + row)
    infinity = float("inf")
    none = tl.full((), 0.0, DTYPE)
    # u is in units of log 2 here, and in nats where the coefficients come from.
    c0 = tl.load(a0 + row)
    c1 = tl.load(a1 + row) * LN_2 if A1 else none
    c2 = tl.load(a2 + row) * (LN_2 * LN_2) if A2 else none
    d0 = tl.load(b0 + row) if B0 else none
    d1 = tl.load(b1 + row) * LN_2 if B1 else none
    extra = tl.load(target + row) if TARGET else none
    lanes = tl.arange(0, BLOCK)
    first = tl.program_id(1) * span
    stop = tl.minimum(first + span, vocabulary)
    full = first + (stop - first) // BLOCK * BLOCK
    for column in tl.range(first, full, BLOCK, num_stages=STAGES):
        columns = column + lanes
        z = tl.load(start + columns).to(DTYPE)
        dz = _tile_gradient(z, columns, m, scale, c0, c1, c2, d0, d1, extra, taken, A1, A2, B0, B1, TARGET)
        tl.store(gradient_start + columns, dz.to(gradient.dtype.element_ty))
    if full < stop:
        columns = full + lanes
        z = tl.load(start + columns, mask=columns < stop, other=-infinity).to(DTYPE)
        dz = _tile_gradient(z, columns, m, scale, c0, c1, c2, d0, d1, extra, taken, A1, A2, B0, B1, TARGET)
        tl.store(gradient_start + columns, dz.to(gradient.dtype.element_ty), mask=columns < stop)


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
        device, dtype = rows.logits.device, rows.compute_dtype
        check_device(device, "backend 'triton'")
        sums, flags = wanted_sums(stats, rows.count, device=device, dtype=dtype)
        if rows.count:
            source = _with_unit_column_stride(rows)
            launch = self._launch(rows, alignment(source.logits))
            span = _span(rows.vocabulary, row_programs(rows), launch["BLOCK"])
            programs = -(-rows.vocabulary // span)
            columns: list[Any] = [rows.vocabulary, span, programs]
            one_warp: dict[str, Any] = {"DTYPE": launch["DTYPE"], "num_warps": 1}
            launch["PARTS"] = programs > 1
            # A kernel argument must be a tensor: the row maximum stands in for what is not written.
            outputs = [sums[0] if field is None else field for field in sums]
            parts = sums[0] if programs == 1 else torch.empty(rows.count, programs, 6, dtype=dtype, device=device)
            inputs: list[Any] = [source.logits, source.offsets(), rows.targets, *_scales(rows), parts, *outputs]
            with on_device(device):
                _forward_kernel[(rows.count, programs)](*inputs, *columns[:2], **flags, **launch)
                if programs > 1:
                    _merge_kernel[(rows.count,)](*inputs, *columns[2:], **flags, **one_warp)
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
        present: dict[str, Any] = {
            name.upper(): c is not None for name, c in coefficients._asdict().items() if name != "a0"
        }
        launch = self._launch(rows, min(alignment(source.logits), alignment(gradient)))
        span = _span(rows.vocabulary, -(-BACKWARD_PROGRAMS // rows.count), launch["BLOCK"])
        arguments: list[Any] = [
            *(source.logits, source.offsets(), gradient, places * gradient.stride(0)),
            *(rows.targets, *_scales(rows), sums.row_max),
            *(coefficients.a0 if c is None else c.contiguous() for c in coefficients),
            *(rows.vocabulary, span),
        ]
        with on_device(device):
            _backward_kernel[(rows.count, -(-rows.vocabulary // span))](*arguments, **present, **launch)

    def _launch(self, rows: Rows, align: int) -> dict[str, Any]:
        block = self.block or min(MAX_BLOCK, triton.next_power_of_2(rows.vocabulary))
        dtype = tl.float64 if rows.compute_dtype == torch.float64 else tl.float32
        # Eight columns per thread: one load of 16 bytes in bfloat16.
        warps = min(8, max(1, block // 256))
        return {"DTYPE": dtype, "BLOCK": block, "ALIGN": align, "STAGES": STAGES, "num_warps": warps}


def row_programs(rows: Rows) -> int:
    """Programs that share a row forward: what the caller said, or else by the vocabulary alone.

    Never by the number of rows: the order of the sums, and so the bits of a row, would depend on its neighbours.
    """
    return rows.row_splits or -(-rows.vocabulary // SPLIT_COLUMNS)


def alignment(rows: Tensor) -> int:
    """The largest power of 2, at most 16, that divides every row's distance from the first, in elements.

    Offsets are read from memory, so the compiler cannot see that it may load 16 bytes at a time.
    """
    strides = (stride for length, stride in zip(rows.shape[:-1], rows.stride()[:-1], strict=True) if length > 1)
    return math.gcd(16, *strides)


def _span(vocabulary: int, programs: int, block: int) -> int:
    """Columns of a program, a multiple of the tile, so that about ``programs`` of them cover a row."""
    tiles = -(-vocabulary // block)
    return -(-tiles // min(programs, tiles)) * block


def wanted_sums(
    stats: frozenset[str], count: int, *, device: torch.device, dtype: torch.dtype
) -> tuple[list[Tensor | None], dict[str, Any]]:
    """Memory for the fields of :class:`RowSums` that the statistics need, and the kernels' flags for the rest."""
    spread = "varentropy" in stats
    mean = spread or "entropy" in stats
    second_log = "sum_p2_log_p" in stats
    second = second_log or "sum_p2" in stats
    wanted = (True, True, True, mean, second, second_log, spread)
    sums = [torch.empty(count, dtype=dtype, device=device) if want else None for want in wanted]
    return sums, {"MEAN": mean, "SECOND": second, "SECOND_LOG": second_log, "SPREAD": spread}


def check_device(device: torch.device, what: str) -> None:
    """Refuse a device that cannot run the kernels; ``what`` asked for them."""
    if not (device.type == "cuda" or INTERPRETED):
        raise ValueError(
            f"{what} expected CUDA tensors, got {device} "
            "(on a CPU only with TRITON_INTERPRET=1 set before the kernels are imported)"
        )


def on_device(device: torch.device) -> contextlib.AbstractContextManager:
    """Make the device current: Triton launches there, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _with_unit_column_stride(rows: Rows) -> Rows:
    return rows if rows.logits.stride(-1) == 1 else replace(rows, logits=rows.logits.contiguous())


def scale_of(temperature: float | Tensor, *, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, int]:
    """``1 / (tau log 2)`` and its stride: with it one multiplication prepares a power of 2."""
    if isinstance(temperature, Tensor):
        return (1 / (temperature * math.log(2.0))).contiguous(), 1
    scale = 1 / (temperature * math.log(2.0))
    return torch.full((1,), scale, dtype=dtype, device=device), 0


def _scales(rows: Rows) -> tuple[Tensor, int]:
    return scale_of(rows.temperature, dtype=rows.compute_dtype, device=rows.logits.device)
