"""Gates and verdicts: from the values of a quantity, one per seed, to a word that nobody typed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

MIN_SEEDS = 5
"""Fewer seeds than this give no verdict on a claim that depends on seeds."""


class Level(StrEnum):
    """How a claim is checked. Levels are never mixed in one table."""

    EXACT = "exact"
    """An identity, closed form or code-parity case: deterministic, float64, seconds."""
    SCALED = "scaled"
    """The claim on a problem of CPU size, minutes."""
    PAPER = "paper"
    """The paper's own setting, on real models and data."""


class Budget(StrEnum):
    """How much work a reproduction may do."""

    SMOKE = "smoke"
    """Whether everything is wired up, in seconds; never a verdict."""
    QUICK = "quick"
    """A first look in minutes."""
    FULL = "full"
    """Verdicts, with at least `MIN_SEEDS` seeds."""


class Verdict(StrEnum):
    """What the numbers say about a claim."""

    REPRODUCED = "reproduced"
    DIRECTION_ONLY = "direction only"
    """The mean lies on the claimed side of the threshold, the interval reaches across it."""
    NOT_REPRODUCED = "not reproduced"
    NO_VERDICT = "no verdict"
    """Budget smoke, or fewer than `MIN_SEEDS` seeds on a claim that depends on seeds."""
    NOT_RUN = "not run"


_WORST_FIRST = (
    Verdict.NOT_RUN,
    Verdict.NOT_REPRODUCED,
    Verdict.NO_VERDICT,
    Verdict.DIRECTION_ONLY,
    Verdict.REPRODUCED,
)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of several verdicts: a claim holds as far as its weakest gate.

    Order: not run < not reproduced < no verdict < direction only < reproduced. Of none: no verdict.
    """
    return min(verdicts, key=_WORST_FIRST.index, default=Verdict.NO_VERDICT)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A gate with the values that were measured for it.

    `mean`, `low` and `high` are NaN where they are not defined: a value that is not finite, or an interval
    from a single seed or of an exact claim.
    """

    quantity: str
    label: str
    unit: str
    above: float | None
    below: float | None
    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    verdict: Verdict | None
    """`None` for a quantity that is reported and not gated."""

    @property
    def threshold(self) -> float | None:
        """The bound, whichever side it is on."""
        return self.above if self.above is not None else self.below

    @property
    def extreme(self) -> float:
        """The value nearest to violating the bound: the smallest over an `above`, otherwise the largest."""
        if any(math.isnan(value) for value in self.values):
            return math.nan
        return min(self.values) if self.above is not None else max(self.values)


@dataclass(frozen=True)
class Gate:
    """A bound on one measured quantity, fixed before the verdict run.

    With neither `above` nor `below` the quantity is reported and not gated.

    Raises:
        ValueError: Both bounds are given, a bound is not finite, or a name is empty.
    """

    quantity: str
    """Key of the value in what the claim's `measure` returns."""
    label: str
    """What the table calls it."""
    above: float | None = field(default=None, kw_only=True)
    """The claim says that the quantity is above this."""
    below: float | None = field(default=None, kw_only=True)
    """The claim says that the quantity is below this."""
    unit: str = field(default="", kw_only=True)
    """Shown after the numbers, for example `"nats"`."""

    def __post_init__(self) -> None:
        if not self.quantity or not self.label:
            raise ValueError(f"a gate needs a quantity and a label, got {self.quantity!r} and {self.label!r}")
        if self.above is not None and self.below is not None:
            raise ValueError(f"gate {self.quantity!r} takes above or below, got both: {self.above}, {self.below}")
        for bound in (self.above, self.below):
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"gate {self.quantity!r} needs a finite bound, got {bound}")

    def evaluate(self, values: Sequence[float], level: Level, *, budget: Budget = Budget.FULL) -> Finding:
        """Judge the values of this quantity, one per seed.

        Level `exact`: every value must satisfy the bound (equality does); there is no interval. The other
        levels: the 95 % Student-t interval of the mean over seeds lies strictly on the claimed side:
        reproduced; strictly on the other side: not reproduced; across the bound: direction only when the mean
        is strictly on the claimed side, otherwise not reproduced. Budget `smoke` never gives a
        verdict. Otherwise a value that is not finite is not reproduced, whatever the rest, and fewer than `MIN_SEEDS`
        values above level `exact` give no verdict.

        Raises:
            ValueError: There is no value.
        """
        numbers = tuple(float(value) for value in values)
        if not numbers:
            raise ValueError(f"gate {self.quantity!r} needs at least one value, got none")
        finite = all(math.isfinite(value) for value in numbers)
        mean, low, high = math.nan, math.nan, math.nan
        if finite:
            mean = math.fsum(numbers) / len(numbers)
        if finite and level is not Level.EXACT and len(numbers) > 1:
            from corollary.evaluation import mean_interval

            mean, low, high = (float(number) for number in mean_interval(numbers)[:3])
        return Finding(
            quantity=self.quantity,
            label=self.label,
            unit=self.unit,
            above=self.above,
            below=self.below,
            values=numbers,
            mean=mean,
            low=low,
            high=high,
            verdict=self._verdict(numbers, mean, low, high, level=level, budget=budget),
        )

    def _verdict(
        self, values: tuple[float, ...], mean: float, low: float, high: float, *, level: Level, budget: Budget
    ) -> Verdict | None:
        if self.above is None and self.below is None:
            return None
        if budget is Budget.SMOKE:
            return Verdict.NO_VERDICT
        if not math.isfinite(mean):
            return Verdict.NOT_REPRODUCED
        if level is Level.EXACT:
            held = all(self._margin(value) >= 0 for value in values)
            return Verdict.REPRODUCED if held else Verdict.NOT_REPRODUCED
        if len(values) < MIN_SEEDS:
            return Verdict.NO_VERDICT
        if min(self._margin(low), self._margin(high)) > 0:
            return Verdict.REPRODUCED
        return Verdict.DIRECTION_ONLY if self._margin(mean) > 0 else Verdict.NOT_REPRODUCED

    def _margin(self, value: float) -> float:
        """How far a value is on the claimed side of the bound; negative on the other side."""
        if self.above is not None:
            return value - self.above
        if self.below is not None:
            return self.below - value
        raise ValueError(f"gate {self.quantity!r} has no bound")
