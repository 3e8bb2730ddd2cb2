"""What every backend works on: the valid rows of a batch of logits, and the sums that describe one row."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Chunk(NamedTuple):
    """Some consecutive valid rows, as handed to one call of a chunk kernel."""

    start: int
    """First of the rows, counted among the valid rows."""
    stop: int
    """One past the last of the rows."""
    logits: Tensor
    """The rows' logits, shape ``(stop - start, V)``; a view of the caller's tensor where that is possible."""
    where: slice | Tensor
    """The rows' places among all ``N`` flattened rows."""

    def of(self, column: Tensor) -> Tensor:
        """Return the chunk's part of a tensor with one entry per valid row."""
        # On small problems, which are one chunk, an indexing operation costs as much as a sum.
        whole = self.start == 0 and self.stop == column.shape[0]
        return column if whole else column[self.start : self.stop]

    def into(self, column: Tensor) -> Tensor | None:
        """Return the view of a tensor of all ``N`` rows that the chunk covers, if its places are a run."""
        if not isinstance(self.where, slice):
            return None
        whole = self.where.start == 0 and self.where.stop == column.shape[0]
        return column if whole else column[self.where]


def compute_dtype(logits: Tensor) -> torch.dtype:
    """Return float64 for float64 logits, else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def row_offsets(shape: Sequence[int], strides: Sequence[int], device: torch.device) -> Tensor:
    """Distance of every row from the first element, in elements, int64: it exceeds 2^31 for large problems."""
    offsets = torch.zeros((), dtype=torch.int64, device=device)
    for length, stride in zip(shape, strides, strict=True):
        offsets = offsets.unsqueeze(-1) + torch.arange(length, dtype=torch.int64, device=device) * stride
    return offsets.reshape(-1)


@dataclass(frozen=True, slots=True)
class Rows:
    """The valid rows of a problem: ``n`` rows out of ``N``, in their order."""

    logits: Tensor
    """Logits of all rows, shape ``(..., V)``, any strides, cut from autograd."""
    flat: Tensor | None
    """The same memory as ``(N, V)``; None when the strides do not allow such a view."""
    targets: Tensor
    """Taken tokens of the valid rows, shape ``(n,)``, int64, within range."""
    temperature: float | Tensor
    """One temperature for all, or one per valid row, shape ``(n,)``, in the compute dtype."""
    index: Tensor | None
    """Places of the valid rows, shape ``(n,)``, ascending int64; None when all rows are valid."""
    compute_dtype: torch.dtype
    """float64 for float64 logits, else float32."""
    row_splits: int | None = None
    """Programs that share a row where a backend has programs; None leaves it to the backend."""

    @classmethod
    def of(
        cls,
        logits: Tensor,
        targets: Tensor,
        temperature: float | Tensor,
        index: Tensor | None,
        row_splits: int | None = None,
    ) -> "Rows":
        """Describe checked input; the fields' docs say what each argument is."""
        logits = logits.detach()
        try:
            flat = logits.view(math.prod(logits.shape[:-1]), logits.shape[-1])
        except RuntimeError:
            flat = None
        return cls(logits, flat, targets, temperature, index, compute_dtype(logits), row_splits)

    @property
    def count(self) -> int:
        """Number ``n`` of valid rows."""
        return self.targets.shape[0]

    @property
    def total(self) -> int:
        """Number ``N`` of all rows, masked ones included."""
        return math.prod(self.logits.shape[:-1])

    @property
    def leading(self) -> tuple[int, ...]:
        """The shape of the targets."""
        return self.logits.shape[:-1]

    @property
    def vocabulary(self) -> int:
        """Number ``V`` of columns."""
        return self.logits.shape[-1]

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield the valid rows, ``size`` at a time; only rows that cannot be viewed are copied."""
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            where = self._places(start, stop)
            yield Chunk(start, stop, self._gather(where), where)

    def offsets(self) -> Tensor:
        """Distance of each valid row from the first element of ``logits``, in elements, shape ``(n,)``."""
        offsets = row_offsets(self.logits.shape[:-1], self.logits.stride()[:-1], self.logits.device)
        return offsets if self.index is None else offsets[self.index]

    def _places(self, start: int, stop: int) -> slice | Tensor:
        if self.index is None:
            return slice(start, stop)
        places = self.index if start == 0 and stop == self.count else self.index[start:stop]
        first, last = int(places[0]), int(places[-1])
        # Padding leaves long runs of valid rows; a run is a view, without a copy.
        return slice(first, last + 1) if last - first == stop - start - 1 else places

    def _gather(self, where: slice | Tensor) -> Tensor:
        if self.flat is not None:
            if not isinstance(where, slice):
                return self.flat.index_select(0, where)
            whole = where.start == 0 and where.stop == self.flat.shape[0]
            return self.flat if whole else self.flat[where]
        if isinstance(where, slice):
            where = torch.arange(where.start, where.stop, device=self.logits.device)
        return self.logits[torch.unravel_index(where, self.logits.shape[:-1])]


class RowSums(NamedTuple):
    r"""What one pass over a row leaves behind, each of shape ``(n,)``; None where it was not asked for.

    With :math:`u_j = (z_j - \max_i z_i)/\tau` and :math:`S = \sum_j e^{u_j}`:
    """

    row_max: Tensor
    r""":math:`\max_i z_i`, in the units of the raw logits."""
    log_sum: Tensor
    r""":math:`\log S \ge 0`."""
    log_prob: Tensor
    r""":math:`u_y - \log S \le 0`."""
    mean_shift: Tensor | None = None
    r""":math:`\mu = \sum_j p_j u_j \le 0`; the entropy is :math:`\log S - \mu`."""
    sum_p2: Tensor | None = None
    r""":math:`G = \sum_j p_j^2`."""
    sum_p2_log_p: Tensor | None = None
    r""":math:`F = \sum_j p_j^2 \log p_j`."""
    varentropy: Tensor | None = None
    r""":math:`W = \sum_j p_j (u_j - \mu)^2`."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "RowSums":
        """Apply ``function`` to every field that is present."""
        return RowSums(*(None if field is None else function(field) for field in self))  # ty: ignore


def concatenate(parts: list[RowSums]) -> RowSums:
    """Join the sums of consecutive chunks."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*parts, strict=True)
    return RowSums(*(None if column[0] is None else torch.cat(column) for column in columns))  # ty: ignore


class Coefficients(NamedTuple):
    r"""The gradient of a row as a polynomial, each of shape ``(n,)``; None stands for 0.

    .. math:: \frac{\partial L}{\partial z_j} = e^{u_j}\,\bigl[a_0 + a_1 u_j + a_2 u_j^2
        + e^{u_j} (b_0 + b_1 u_j)\bigr] + t\,\mathbf 1[j = y]
    """

    a0: Tensor
    a1: Tensor | None
    a2: Tensor | None
    b0: Tensor | None
    b1: Tensor | None
    target: Tensor | None
    """``t``, the extra gradient of the taken token's logit."""
