"""Sums and counts of metrics over the parts of a batch, on one process or on several."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class MetricTotals:
    """What is logged of a batch: for each name the sum of a quantity and the count that it is divided by."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._totals: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add to the sum and the count of ``name``."""
        pair = torch.stack([torch.as_tensor(x, device=self.device).detach().double() for x in (total, count)])
        self._totals[name] = self._totals[name] + pair if name in self._totals else pair

    def add_means(self, metrics: Mapping[str, float]) -> None:
        """Add numbers that are means already, each with a count of 1. A NaN counts as no measurement."""
        for name, value in metrics.items():
            self.add(name, *((0.0, 0.0) if math.isnan(value) else (value, 1.0)))

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The mean of each metric, NaN without any count.

        Args:
            reduce: Sums a tensor over the processes, which must all call this with the same names.
        """
        if not self._totals:
            return {}
        names = sorted(self._totals)
        totals = reduce(torch.stack([self._totals[name] for name in names])).tolist()
        return {name: total / count if count else math.nan for name, (total, count) in zip(names, totals, strict=True)}
