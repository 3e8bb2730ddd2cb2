r"""The fused forward pass of the head: matrix product and row sums in one kernel, without logits in memory.

A program takes some rows of hidden states and a span of the vocabulary. For each tile of its span it multiplies the
rows with the tile's part of the weight, adding into float32; adds the bias, rounds and caps as the head itself would;
and adds the tile to the sums of :mod:`corollary.kernels._triton`, here one number per row. The spans of a row are
merged by the rule that is stated there. Between the two kernels there are seven numbers per row and span.

The sizes of tiles and spans depend on dtype, ``V`` and ``D`` alone, so a row has the same bits whatever rows are
computed with it, which a library's matrix product does not promise. Only the forward pass is fused: the backward pass
needs the gradient of the logits as an operand of two products, and makes it in chunks.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from corollary.kernels._linear_rows import LinearRows
from corollary.kernels._rows import RowSums
from corollary.kernels._triton import (
    FLOOR,
    INTERPRETED,
    check_device,
    finish,
    moved,
    on_device,
    scale_of,
    wanted_sums,
)

SPAN_COLUMNS = 4096
"""Columns of the vocabulary that one program sums: by V alone, so that no bit depends on the number of rows."""

FIELDS = 7
"""Numbers of a part: largest logit, S1, T1, Q1, S2, T2, logit of the taken token."""


@dataclass(frozen=True)
class HeadTile:
    """What one program of the fused forward pass holds at a time. Each size is a power of 2, at least 16."""

    rows: int
    columns: int
    """Of the vocabulary."""
    width: int
    """Of the hidden states."""
    warps: int
    stages: int
    """Tiles on their way from memory at one time."""
    registers: int | None = None
    """Per thread at most, so that two programs fit a multiprocessor; None leaves it to the compiler."""
    flat: bool = False
    """Make one loop of the loops over columns and width, which keeps loads under way between tiles."""

    def shared_bytes(self, itemsize: int) -> int:
        """Shared memory of the operands' tiles, and some for the reductions."""
        return (self.rows + self.columns) * self.width * itemsize * self.stages + 2048


TILES = {
    2: (HeadTile(128, 256, 64, 8, 3), HeadTile(128, 128, 64, 8, 3), HeadTile(64, 64, 64, 4, 2)),
    4: (HeadTile(64, 128, 32, 8, 3), HeadTile(64, 64, 32, 4, 2)),
    8: (HeadTile(32, 64, 16, 4, 2),),
}
"""By the bytes of an operand's element; the first that the device has the shared memory for."""


@triton.jit
def _capped(z, softcap, LOGITS: tl.constexpr):
    """``softcap * tanh(z / softcap)``, rounded where operations on tensors of dtype LOGITS would round."""
    ratio = (z / softcap).to(LOGITS).to(z.dtype)
    # From e^(-2|x|), which cannot overflow.
    e = tl.exp(-2.0 * tl.abs(ratio))
    size = (1.0 - e) / (1.0 + e)
    tanh = tl.where(ratio < 0.0, -size, size).to(LOGITS).to(z.dtype)
    return (tanh * softcap).to(LOGITS).to(z.dtype)


@triton.jit
def _head_kernel(
    hidden, hidden_row, hidden_column,  # (N, D) and its strides, in elements
    weight, weight_row, weight_column,  # (V, D)
    bias,  # (V,), if BIAS
    places,  # (n,) int64: the rows' places in hidden, if PLACES
    targets,  # (n,) int64
    scales, scale_stride,  # (n,) or (1,): 1 / (temperature log 2)
    cap,  # (1,): the softcap, if CAP
    parts,  # (n, programs of a row, FIELDS)
    count, vocabulary, width,
    span,  # columns of a program, a multiple of COLUMNS
    MEAN: tl.constexpr, SECOND: tl.constexpr, SECOND_LOG: tl.constexpr, SPREAD: tl.constexpr,
    BIAS: tl.constexpr, CAP: tl.constexpr, PLACES: tl.constexpr, EVEN: tl.constexpr, WIDEN: tl.constexpr,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
    FLAT: tl.constexpr, PRECISION: tl.constexpr, FIELDS: tl.constexpr,
):  # fmt: skip
    infinity = float("inf")
    LOGITS: tl.constexpr = weight.dtype.element_ty
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    # Rows beyond the last repeat it, so that no load needs a mask; they are not stored.
    known = tl.minimum(rows, count - 1)
    target = tl.load(targets + known)
    scale = tl.load(scales + known * scale_stride)
    if CAP:
        softcap = tl.load(cap)
    lanes = tl.arange(0, COLUMNS)
    depth = tl.arange(0, WIDTH)
    if PLACES:
        of_rows = hidden + tl.load(places + known)[:, None] * hidden_row + depth[None, :] * hidden_column
    else:
        # A scalar of 64 bits and a tile of 32 take fewer registers than a tile of 64.
        start = tl.program_id(0) * ROWS
        of_row = (known - start)[:, None] * hidden_row + depth[None, :] * hidden_column
        of_rows = hidden + start.to(tl.int64) * hidden_row + of_row
    m = tl.full((ROWS,), -infinity, DTYPE)
    taken = tl.full((ROWS,), -infinity, DTYPE)
    s1 = tl.zeros((ROWS,), DTYPE)
    t1 = tl.zeros((ROWS,), DTYPE)
    q1 = tl.zeros((ROWS,), DTYPE)
    s2 = tl.zeros((ROWS,), DTYPE)
    t2 = tl.zeros((ROWS,), DTYPE)
    first = tl.program_id(1) * span
    stop = tl.minimum(first + span, vocabulary)
    for column in tl.range(first, stop, COLUMNS, flatten=FLAT):
        near = tl.minimum(lanes, vocabulary - 1 - column)
        of_column = near[None, :] * weight_row + depth[:, None] * weight_column
        of_columns = weight + tl.cast(column, tl.int64) * weight_row + of_column
        z = tl.zeros((ROWS, COLUMNS), DTYPE)
        for k in tl.range(0, width, WIDTH, num_stages=STAGES):
            # In 64 bits: a transposed weight has columns V apart, and V D may exceed 2^31.
            h_tile = of_rows + tl.cast(k, tl.int64) * hidden_column
            w_tile = of_columns + tl.cast(k, tl.int64) * weight_column
            if EVEN:
                h, w = tl.load(h_tile), tl.load(w_tile)
            else:
                h = tl.load(h_tile, mask=k + depth[None, :] < width, other=0.0)
                w = tl.load(w_tile, mask=k + depth[:, None] < width, other=0.0)
            if WIDEN:
                h, w = h.to(tl.float32), w.to(tl.float32)
            z = tl.dot(h, w, z, input_precision=PRECISION, out_dtype=DTYPE)
        if BIAS:
            z += tl.load(bias + column + near).to(DTYPE)[None, :]
        z = z.to(LOGITS).to(DTYPE)
        if CAP:
            z = _capped(z, softcap, LOGITS)
        if column + COLUMNS > vocabulary:
            # After the cap, which would make -cap of -inf.
            z = tl.where(column + lanes[None, :] < vocabulary, z, -infinity)
        local = target - column
        if tl.max(((local >= 0) & (local < COLUMNS)).to(tl.int32), axis=0) > 0:
            taken = tl.maximum(taken, tl.max(tl.where(lanes[None, :] == local[:, None], z, -infinity), axis=1))
        highest = tl.maximum(m, tl.max(z, axis=1))
        # While only -inf was seen, any finite centre does: all sums are 0, and there is nothing to move.
        centre = tl.where(highest == -infinity, 0.0, highest)
        d = tl.where(m == -infinity, 0.0, tl.maximum((m - centre) * scale, FLOOR))
        s1, t1, q1, s2, t2 = moved(d, s1, t1, q1, s2, t2, MEAN, SECOND, SECOND_LOG, SPREAD)
        m = highest
        u = (z - centre[:, None]) * scale[:, None]
        e = tl.exp2(u)
        s1 += tl.sum(e, axis=1)
        if MEAN or SECOND_LOG:
            u = tl.maximum(u, FLOOR)
        if MEAN:
            ue = u * e
            t1 += tl.sum(ue, axis=1)
            if SPREAD:
                q1 += tl.sum(u * ue, axis=1)
        if SECOND:
            ee = e * e
            s2 += tl.sum(ee, axis=1)
            if SECOND_LOG:
                t2 += tl.sum(u * ee, axis=1)
    part = parts + (rows.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * FIELDS
    inside = rows < count
    tl.store(part, m, mask=inside)
    tl.store(part + 1, s1, mask=inside)
    tl.store(part + 2, t1, mask=inside)
    tl.store(part + 3, q1, mask=inside)
    tl.store(part + 4, s2, mask=inside)
    tl.store(part + 5, t2, mask=inside)
    tl.store(part + 6, taken, mask=inside)


@triton.jit
def _merge_head_kernel(
    scales, scale_stride, parts,
    row_max, log_sum, log_prob, mean_shift, sum_p2, sum_p2_log_p, varentropy,
    count,  # parts of a row
    MEAN: tl.constexpr, SECOND: tl.constexpr, SECOND_LOG: tl.constexpr, SPREAD: tl.constexpr,
    PADDED: tl.constexpr, FIELDS: tl.constexpr,
):  # fmt: skip
    """Move all parts of a row to their largest centre at once, and add them."""
    row = tl.program_id(0).to(tl.int64)
    infinity = float("inf")
    scale = tl.load(scales + row * scale_stride)
    numbers = tl.arange(0, PADDED)
    here = numbers < count
    part = parts + (row * count + numbers) * FIELDS
    highest = tl.load(part, mask=here, other=-infinity)
    m = tl.max(highest, axis=0)
    centre = tl.where(m == -infinity, 0.0, m)
    d = tl.where(highest == -infinity, 0.0, tl.maximum((highest - centre) * scale, FLOOR))
    s1, t1, q1, s2, t2 = moved(
        d,
        tl.load(part + 1, mask=here, other=0.0),
        tl.load(part + 2, mask=here, other=0.0),
        tl.load(part + 3, mask=here, other=0.0),
        tl.load(part + 4, mask=here, other=0.0),
        tl.load(part + 5, mask=here, other=0.0),
        MEAN, SECOND, SECOND_LOG, SPREAD,
    )  # fmt: skip
    taken = tl.max(tl.load(part + 6, mask=here, other=-infinity), axis=0)
    finish(
        row, m, tl.sum(s1, axis=0), tl.sum(t1, axis=0), tl.sum(q1, axis=0), tl.sum(s2, axis=0), tl.sum(t2, axis=0),
        taken, scale, row_max, log_sum, log_prob, mean_shift, sum_p2, sum_p2_log_p, varentropy,
        MEAN, SECOND, SECOND_LOG, SPREAD,
    )  # fmt: skip


def head_tile(itemsize: int, vocabulary: int, width: int, *, shared_bytes: int | None = None) -> HeadTile:
    """The tile of a problem: the first that fits the shared memory (None for no limit), cut to ``V`` and ``D``."""
    tiles = TILES[itemsize]
    fitting = [tile for tile in tiles if shared_bytes is None or tile.shared_bytes(itemsize) <= shared_bytes]
    tile = fitting[0] if fitting else tiles[-1]
    return replace(
        tile,
        columns=min(tile.columns, max(16, triton.next_power_of_2(vocabulary))),
        width=min(tile.width, max(16, triton.next_power_of_2(width))),
    )


def _shared_bytes(device: torch.device) -> int | None:
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin if device.type == "cuda" else None


def _reachable(operand: Tensor, rows: int, width: int) -> Tensor:
    """The operand, or a copy if offsets within a tile of it exceed 32 bits (rows that are far apart)."""
    far = rows * operand.stride(0) + width * operand.stride(1) >= 2**31
    return operand.contiguous() if far else operand


def fused_head_forward(problem: LinearRows, stats: frozenset[str]) -> RowSums:
    """Return the row sums of the head's logits, which are never written to memory.

    Rows without a finite normaliser give NaN.

    Raises:
        ValueError: the tensors are not on a CUDA device (nor the kernels interpreted).
    """
    check_device(problem.weight.device, "forward 'fused'")
    device = problem.weight.device
    dtype = torch.float64 if problem.weight.dtype == torch.float64 else torch.float32
    sums, flags = wanted_sums(stats, problem.count, device=device, dtype=dtype)
    if problem.count == 0:
        return RowSums(*sums)  # ty: ignore[invalid-argument-type]
    vocabulary, width = problem.weight.shape
    tile = head_tile(problem.weight.element_size(), vocabulary, width, shared_bytes=_shared_bytes(device))
    span = -(-min(SPAN_COLUMNS, vocabulary) // tile.columns) * tile.columns
    programs = -(-vocabulary // span)
    parts = torch.empty(problem.count, programs, FIELDS, dtype=dtype, device=device)
    # Under autocast the product's dtype is another than that of the hidden states; a copy of ND elements.
    hidden = _reachable(problem.hidden.to(problem.weight.dtype), tile.rows, tile.width)
    weight = _reachable(problem.weight, tile.columns, tile.width)
    scales = scale_of(problem.temperature, dtype=dtype, device=device)
    # A tensor, since a number would reach the kernel in float32.
    cap = parts if problem.softcap is None else torch.full((1,), problem.softcap, dtype=dtype, device=device)
    inputs: list[Any] = [
        *(hidden, *hidden.stride(), weight, *weight.stride()),
        # A kernel argument must be a tensor: another stands in for what is not read.
        weight if problem.bias is None else problem.bias.contiguous(),
        problem.targets if problem.index is None else problem.index,
        *(problem.targets, *scales, cap, parts, problem.count, vocabulary, width, span),
    ]
    launch: dict[str, Any] = {
        "BIAS": problem.bias is not None,
        "CAP": problem.softcap is not None,
        "PLACES": problem.index is not None,
        "EVEN": width % tile.width == 0,
        # The interpreter multiplies the bits of bfloat16 numbers as if they were integers.
        "WIDEN": INTERPRETED and weight.dtype == torch.bfloat16,
        "DTYPE": tl.float64 if dtype == torch.float64 else tl.float32,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "WIDTH": tile.width,
        "STAGES": tile.stages,
        "FLAT": tile.flat,
        # As torch's own products: tf32 only where the user has allowed it.
        "PRECISION": "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        "FIELDS": FIELDS,
        "num_warps": tile.warps,
    }
    if tile.registers is not None:
        launch["maxnreg"] = tile.registers
    outputs: list[Any] = [sums[0] if field is None else field for field in sums]
    merging: list[Any] = [*scales, parts, *outputs, programs]
    merge: dict[str, Any] = {"PADDED": triton.next_power_of_2(programs), "FIELDS": FIELDS, "num_warps": 1}
    with on_device(device):
        _head_kernel[(-(-problem.count // tile.rows), programs)](*inputs, **flags, **launch)
        _merge_head_kernel[(problem.count,)](*merging, **flags, **merge)
    return RowSums(*sums)  # ty: ignore[invalid-argument-type]
