"""How long the runs will still take, from those that are done and those that report progress."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from corollary.runs import Progress, Run

MIN_FRACTION = 0.05
"""A run that is not this far yet says nothing about its length."""


@dataclass
class Estimate:
    """Collects the seconds of complete runs by recipe and extrapolates the rest."""

    workers: int
    _known: dict[str, list[float]] = field(default_factory=dict)

    def learn(self, run: Run, seconds: float) -> None:
        """A run of this recipe took so long."""
        self._known.setdefault(run.recipe.label, []).append(seconds)

    def remaining_s(self, running: Mapping[Run, Progress | None], waiting: Sequence[Run]) -> float | None:
        """Seconds until all is done, or `None` while nothing is known.

        The work that is left, spread over the workers, and never less than the longest single run.
        """
        live = {run.recipe.label: whole for run, report in running.items() if (whole := _whole(report))}
        lengths = [self._length(run, live) for run in (*running, *waiting)]
        if any(length is None for length in lengths):
            return None
        left = [
            length * (1 - (report.fraction if report is not None else 0.0))
            for length, report in zip(
                (length for length in lengths if length is not None),
                (*running.values(), *(None for _ in waiting)),
                strict=True,
            )
        ]
        return max(math.fsum(left) / self.workers, max(left, default=0.0))

    def _length(self, run: Run, live: Mapping[str, float]) -> float | None:
        own = self._known.get(run.recipe.label)
        if own:
            return _mean(own)
        if run.recipe.label in live:
            return live[run.recipe.label]
        others = [_mean(seconds) for seconds in self._known.values()] + list(live.values())
        return _mean(others) if others else None


def _whole(report: Progress | None) -> float | None:
    if report is None or report.fraction < MIN_FRACTION:
        return None
    return report.seconds / report.fraction


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)
