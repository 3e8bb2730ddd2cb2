"""The reference backend: eager PyTorch on chunks of rows that stay in the cache.

Most of the time of full-size eager code on a CPU goes into fresh ``(N, V)`` temporaries. Here the temporaries
are a few rows wide and reused, and the gradient is written straight into its place.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from corollary.kernels._rows import Chunk, Coefficients, Rows, RowSums, concatenate

CHUNK_BYTES = 1 << 20
"""Size of one temporary on a CPU. Two or three of them are in use, so that they share the second-level
cache."""

DEVICE_CHUNK_BYTES = 1 << 26
"""Size of one temporary on an accelerator, where a launch is dear and a cache is not the point."""

MIN_ROWS = 8
"""Fewer rows than this per chunk make several threads spin more than they work."""

_EXP_IS_ZERO = -1e4
# exp(-1e4) is 0 in float64 too, so this replaces u = -inf and every other u that far away changes nothing;
# it keeps 0 * u and 0 * u^2 at 0, where -inf would give NaN.


class TorchBackend:
    """Chunked eager forward and analytic backward, on any device and for any floating dtype."""

    name = "torch"
    raises_on_bad_rows = True

    def __init__(self, *, chunk_rows: int | None = None) -> None:
        """Fix the number of rows per chunk; None picks it by the size of a row."""
        self.chunk_rows = chunk_rows

    def forward(self, rows: Rows, stats: frozenset[str], *, keep: bool) -> tuple[RowSums, Sequence[Tensor]]:
        """Sum each row in chunks. A problem of a single chunk keeps its exponentials."""
        size = self._chunk_size(rows)
        single = rows.count <= size
        keep = keep and single
        height = max(2, min(size, rows.count))
        shape = (height, rows.vocabulary)
        shifted, exponential = (_buffer(rows, shape), _buffer(rows, shape))
        # The products may overwrite the shifted logits unless somebody still needs those.
        product = _buffer(rows, shape) if keep or "varentropy" in stats else shifted
        parts = []
        for chunk in rows.chunks(size):
            parts.append(_sum_chunk(rows, chunk, stats, shifted, exponential, product))
        if not parts:
            return _empty_sums(rows, stats), ()
        count = rows.count
        return concatenate(parts), (_top(shifted, count), _top(exponential, count)) if keep else ()

    def backward(
        self,
        rows: Rows,
        sums: RowSums,
        coefficients: Coefficients,
        gradient: Tensor,
        kept: Sequence[Tensor],
    ) -> None:
        """Evaluate the gradient in chunks, in place of the exponentials that each chunk computes again."""
        size = self._chunk_size(rows)
        shape = (min(size, rows.count), rows.vocabulary)
        buffers = () if kept else (_buffer(rows, shape), _buffer(rows, shape))
        second = _buffer(rows, shape) if coefficients.b0 is not None else None
        for chunk in rows.chunks(size):
            _write_gradient(rows, chunk, sums, coefficients, gradient, kept, buffers, second)

    def _chunk_size(self, rows: Rows) -> int:
        if self.chunk_rows is not None:
            return self.chunk_rows
        total = CHUNK_BYTES if rows.logits.device.type == "cpu" else DEVICE_CHUNK_BYTES
        return max(MIN_ROWS, total // (rows.vocabulary * rows.compute_dtype.itemsize))


def _buffer(rows: Rows, shape: tuple[int, int]) -> Tensor:
    return torch.empty(shape, dtype=rows.compute_dtype, device=rows.logits.device)


def _top(buffer: Tensor, count: int) -> Tensor:
    return buffer if buffer.shape[0] == count else buffer[:count]


def _empty_sums(rows: Rows, stats: frozenset[str]) -> RowSums:
    empty = torch.empty(0, dtype=rows.compute_dtype, device=rows.logits.device)
    return RowSums(*(empty for _ in RowSums._fields)) if stats else RowSums(empty, empty, empty)


def _shift(rows: Rows, chunk: Chunk, logits: Tensor, row_max: Tensor, out: Tensor) -> Tensor:
    """Write ``(z - max) / tau``. Dividing the difference, not the logits, keeps large offsets harmless."""
    if logits.dtype == out.dtype:
        torch.sub(logits, row_max, out=out)
    else:
        out.copy_(logits).sub_(row_max)
    temperature = rows.temperature
    if isinstance(temperature, Tensor):
        out.div_(chunk.of(temperature).unsqueeze(-1))
    elif temperature != 1.0:
        out.div_(temperature)
    return out


def _sum_chunk(
    rows: Rows, chunk: Chunk, stats: frozenset[str], shifted: Tensor, exponential: Tensor, product: Tensor
) -> RowSums:
    logits = chunk.logits
    count = logits.shape[0]
    if count == 1:
        # A lone row would be summed by all threads together and get other bits than the same row among
        # others.
        logits = logits.expand(2, -1)
    height = logits.shape[0]
    u, e, product = (_top(buffer, height) for buffer in (shifted, exponential, product))
    row_max = logits.amax(-1, keepdim=True).to(rows.compute_dtype)
    _shift(rows, chunk, logits, row_max, u)
    target_u = _top(u, count).gather(1, chunk.of(rows.targets).unsqueeze(-1))
    if stats - {"log_prob"}:
        u.clamp_(min=_EXP_IS_ZERO)
    torch.exp(u, out=e)
    total = e.sum(-1)
    log_sum = total.log()
    mean = second = second_log = spread = None
    if "entropy" in stats or "varentropy" in stats or "sum_p2_log_p" in stats:
        torch.mul(u, e, out=product)
        if "entropy" in stats or "varentropy" in stats:
            mean = product.sum(-1).div_(total)
    if "sum_p2_log_p" in stats:
        second_log = product.mul_(e).sum(-1)
    if "sum_p2" in stats or "sum_p2_log_p" in stats:
        # `product` may be `u`, which nothing reads any more (varentropy has a buffer of its own).
        square = total * total
        second = torch.mul(e, e, out=product).sum(-1).div_(square)
        if second_log is not None:
            second_log = second_log.div_(square).sub_(log_sum * second)
    if "varentropy" in stats:
        assert mean is not None
        # Around the mean, so that no difference of large squares is taken and the sum cannot be negative.
        torch.sub(u, mean.unsqueeze(-1), out=product)
        spread = product.mul_(product).mul_(e).sum(-1).div_(total)
    sums = RowSums(
        row_max.squeeze(-1),
        log_sum,
        target_u.squeeze(-1) - _top(log_sum, count),
        mean,
        second,
        second_log,
        spread,
    )
    return sums if height == count else sums.map(lambda field: _top(field, count))


def _write_gradient(
    rows: Rows,
    chunk: Chunk,
    sums: RowSums,
    coefficients: Coefficients,
    gradient: Tensor,
    kept: Sequence[Tensor],
    buffers: Sequence[Tensor],
    second: Tensor | None,
) -> None:
    count = chunk.stop - chunk.start
    a0, a1, a2, b0, b1, target = (None if c is None else chunk.of(c).unsqueeze(-1) for c in coefficients)
    assert a0 is not None
    if kept:
        u, e = kept
        work: Tensor | None = None
    else:
        u, e = (_top(buffer, count) for buffer in buffers)
        work = u
        _shift(rows, chunk, chunk.logits, chunk.of(sums.row_max).unsqueeze(-1), u)
        if a1 is not None or b1 is not None:
            u.clamp_(min=_EXP_IS_ZERO)
        torch.exp(u, out=e)
    bracket: Tensor = a0
    inner = None
    if b0 is not None:
        assert second is not None
        inner = _top(second, count)
        if b1 is None:
            torch.mul(e, b0, out=inner)
        else:
            torch.mul(u, b1, out=inner).add_(b0).mul_(e)
    if a1 is not None:
        if a2 is None:
            bracket = torch.mul(u, a1, out=work).add_(a0)
        elif work is None:
            bracket = torch.mul(u, a2).add_(a1).mul_(u).add_(a0)
        else:
            # u * (a1 + a2 u) + a0 needs u twice, and u is also where the result may go.
            bracket = torch.mul(u, a2).add_(a1).mul_(u).add_(a0)
    if inner is not None:
        bracket = inner.add_(bracket)
    place = chunk.into(gradient)
    direct = place is not None and place.dtype == e.dtype
    out = place if direct else e if work is not None else torch.empty_like(e)
    assert out is not None
    torch.mul(e, bracket, out=out)
    if target is not None:
        out.scatter_add_(1, chunk.of(rows.targets).unsqueeze(-1), target)
    if isinstance(chunk.where, Tensor):
        gradient.index_copy_(0, chunk.where, out.to(gradient.dtype))
    elif place is not None and not direct:
        place.copy_(out)
