"""Past pairs that resemble the present: the history that they come from, and the rule that chooses them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which past pairs resemble the present: those of a similar phase, and of these the nearest.

    Raises:
        ValueError: a size that is not positive, or a tolerance outside [0, 1].
    """

    candidates: int = 500
    """N_c, the freshest pairs that are considered."""
    samples: int = 5
    """n, how many are chosen."""
    period: int = 1
    """p, rows of a season."""
    tolerance: float = 0.1
    """Share of the period by which the phases may differ."""
    one_sided: bool = False
    """Only candidates whose phase is not later than the present one, as in the official code: it compares the
    difference modulo the period, which is never negative, with both ends of the interval."""

    def __post_init__(self) -> None:
        for name in ("candidates", "samples", "period"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.tolerance <= 1:
            raise ValueError(f"tolerance must be in [0, 1], got {self.tolerance}")

    def ages(self, delay: int) -> list[int]:
        r"""Candidates of a similar phase, newest first, as steps since their label was released.

        The candidate of age a lies :math:`g = d + a` rows before the present, with d the delay of labels, so no clock
        or calendar is needed: it is in phase if :math:`\min(g \bmod p,\ p - g \bmod p) \le 0.1 p`.
        """
        limit = self.tolerance * self.period
        kept = []
        for age in range(self.candidates):
            difference = (delay + age) % self.period
            if difference <= limit or (not self.one_sided and self.period - difference <= limit):
                kept.append(age)
        return kept


class Rows:
    """The last rows of a growing table, at least ``capacity`` of them, always contiguous in memory.

    Rows are written one after another into twice the space; when that is full the last ones move to its beginning.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._space: Tensor | None = None
        self._end = 0

    @property
    def last(self) -> Tensor:
        """The last ``capacity`` rows, or all if there are fewer; a view."""
        if self._space is None:
            raise ValueError("there are no rows yet")
        return self._space[max(self._end - self.capacity, 0) : self._end]

    def append(self, rows: Tensor) -> None:
        """Add rows (k, columns), k at most the capacity."""
        if self._space is None:
            self._space = rows.new_empty(2 * self.capacity, rows.shape[1])
        if self._end + len(rows) > len(self._space):
            kept = self.last.clone()
            self._space[: len(kept)] = kept
            self._end = len(kept)
        self._space[self._end : self._end + len(rows)] = rows
        self._end += len(rows)


class History:
    """The freshest pairs, newest last, of consecutive origins: kept as rows, since their windows overlap.

    Args:
        size: pairs kept at most.
        lookback: L.
        horizon: H.
        variates: N.
    """

    def __init__(self, size: int, *, lookback: int, horizon: int, variates: int) -> None:
        self.size, self.lookback, self.horizon, self.variates = size, lookback, horizon, variates
        self.count = 0
        self._inputs = Rows(size + lookback - 1)
        self._series = Rows(size + lookback + horizon - 1)

    def store(self, x: Tensor, y: Tensor) -> None:
        """Add the pair (L, N + C), (H, N) of the next origin.

        Raises:
            ValueError: it does not continue the pair before.
        """
        if not self.count:
            self._inputs.append(x)
            self._series.append(torch.cat([x[:, : self.variates], y]))
        else:
            before = y[-2] if self.horizon > 1 else x[-1, : self.variates]
            if not torch.equal(before, self._series.last[-1]):
                raise ValueError("pairs must be of consecutive origins, got one that does not continue the last")
            self._inputs.append(x[-1:])
            self._series.append(y[-1:])
        self.count = min(self.count + 1, self.size)

    def distances(self, x: Tensor, ages: Tensor) -> Tensor:
        """Euclidean distances between a window (L, N + C), without covariates, and those of the pairs of these ages."""
        width = self.lookback * self.variates
        windows = self._series.last.flatten().unfold(0, width, self.variates)  # overlapping views, one an origin
        present = x[:, : self.variates].reshape(width)
        return torch.linalg.vector_norm(windows[self.count - 1 - ages] - present, dim=1)

    def pairs(self, ages: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (n, L, N + C) and labels (n, H, N) of the pairs of these ages."""
        places = (self.count - 1 - ages)[:, None]
        labels = places + torch.arange(self.lookback, self.lookback + self.horizon)
        return self._inputs.last[places + torch.arange(self.lookback)], self._series.last[labels]

    def state_dict(self) -> dict[str, Any]:
        """All rows."""
        if not self.count:
            return {"count": 0}
        return {"count": self.count, "inputs": self._inputs.last.clone(), "series": self._series.last.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.count = int(state["count"])
        self._inputs, self._series = Rows(self._inputs.capacity), Rows(self._series.capacity)
        if self.count:
            self._inputs.append(state["inputs"])
            self._series.append(state["series"])
