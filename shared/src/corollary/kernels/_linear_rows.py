"""The head's problem: hidden states whose logits are made a chunk of rows at a time, in one reused buffer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from corollary.kernels._rows import Rows


class LogitsChunk(NamedTuple):
    """The logits of some consecutive valid rows; they are overwritten by the next chunk."""

    start: int
    """First of the rows, counted among the valid rows."""
    stop: int
    """One past the last of the rows."""
    hidden: Tensor
    """Their hidden states, shape ``(stop - start, D)``, in the dtype of the product."""
    rows: Rows
    """Their logits, softcap applied, with targets and temperatures."""

    def of(self, column: Tensor) -> Tensor:
        """Return the chunk's part of a tensor with one entry per valid row."""
        return column[self.start : self.stop]


@dataclass(frozen=True, slots=True)
class LinearRows:
    """The valid rows of a problem whose logits are ``hidden @ weight.T + bias``: ``n`` rows out of ``N``."""

    hidden: Tensor
    """Hidden states of all rows, shape ``(N, D)``, cut from autograd."""
    weight: Tensor
    """Shape ``(V, D)``, in the dtype of the product, cut from autograd."""
    bias: Tensor | None
    """Shape ``(V,)``, likewise."""
    softcap: float | None
    """Logits are ``softcap * tanh(z / softcap)``; None for no cap."""
    targets: Tensor
    """Taken tokens of the valid rows, shape ``(n,)``, int64, within range."""
    temperature: float | Tensor
    """One temperature for all, or one per valid row, shape ``(n,)``, in the compute dtype."""
    index: Tensor | None
    """Places of the valid rows, shape ``(n,)``, ascending int64; None when all rows are valid."""
    leading: tuple[int, ...]
    """The shape of the targets."""
    chunk_rows: int
    """Rows whose logits exist at one time."""

    @property
    def count(self) -> int:
        """Number ``n`` of valid rows."""
        return self.targets.shape[0]

    def buffer(self) -> Tensor:
        """Memory for the logits of one chunk, or for their gradient."""
        height = min(self.chunk_rows, self.count)
        return torch.empty(height, self.weight.shape[0], dtype=self.weight.dtype, device=self.weight.device)

    def logits_into(self, out: Tensor, hidden: Tensor, columns: slice = slice(None)) -> Tensor:
        """Write the capped logits of some rows and columns; the hidden states are in the dtype of the product."""
        weight = self.weight[columns].t()
        if self.bias is None:
            torch.mm(hidden, weight, out=out)
        else:
            torch.addmm(self.bias[columns], hidden, weight, out=out)
        if self.softcap is not None:
            out.div_(self.softcap).tanh_().mul_(self.softcap)
        return out

    def through_cap(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Turn the gradient of capped logits into that of the product, in its place; the logits are lost."""
        if self.softcap is not None:
            torch.ops.aten.tanh_backward.grad_input(gradient, logits.div_(self.softcap), grad_input=gradient)
        return gradient

    def chunks(self) -> Iterator[LogitsChunk]:
        """Yield the valid rows with their logits. The same problem gives the same chunks, hence the same bits."""
        buffer = self.buffer()
        for start in range(0, self.count, self.chunk_rows):
            stop = min(start + self.chunk_rows, self.count)
            places = None if self.index is None else self.index[start:stop]
            hidden = self.hidden[start:stop] if places is None else self.hidden.index_select(0, places)
            hidden = hidden.to(self.weight.dtype)
            logits = self.logits_into(buffer[: stop - start], hidden)
            temperature = self.temperature
            if isinstance(temperature, Tensor):
                temperature = temperature[start:stop]
            yield LogitsChunk(start, stop, hidden, Rows.of(logits, self.targets[start:stop], temperature, None))
