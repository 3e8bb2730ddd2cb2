"""Products of low-precision matrices whose sums are taken, and kept or rounded once, in float32."""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

WIDEN_BYTES = 1 << 26
"""Size of float32 copies or products of some columns, where a product cannot add into float32."""


def add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add ``gradient.T @ hidden`` to ``total`` without rounding the product to a lower precision first."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.t(), hidden)
        return
    if adds_into_wide(gradient.dtype, gradient.device):
        torch.ops.aten.addmm.dtype_out(total, gradient.t(), hidden, total.dtype, out=total)
        return
    for columns, product in _wide_products(gradient, hidden, total.dtype):
        total[columns] += product


def write_product(out: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Write ``gradient.T @ hidden`` into ``out``, summed in float32 and rounded once."""
    for columns, product in _wide_products(gradient, hidden, torch.float32):
        out[columns].copy_(product)


def _wide_products(gradient: Tensor, hidden: Tensor, wide: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of ``gradient.T @ hidden`` in a wide dtype, some at a time."""
    width = max(1, WIDEN_BYTES // (max(gradient.shape[0], hidden.shape[1]) * wide.itemsize))
    wide_hidden = hidden if gradient.is_cuda else hidden.to(wide)
    for first in range(0, gradient.shape[1], width):
        columns = slice(first, first + width)
        part = gradient[:, columns].t()
        if gradient.is_cuda:
            yield columns, torch.mm(part, hidden, out_dtype=wide)
        else:
            yield columns, part.to(wide) @ wide_hidden


@cache
def adds_into_wide(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a product of a low-precision dtype can add into float32 here: some devices and versions cannot."""
    low, wide = (torch.zeros(16, 16, dtype=kind, device=device) for kind in (dtype, torch.float32))
    try:
        torch.ops.aten.addmm.dtype_out(wide, low, low, torch.float32, out=wide)
    except RuntimeError:
        return False
    return True
