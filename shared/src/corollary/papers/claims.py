"""Claims and papers: what a paper says, how it is measured, and what decides."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from corollary.papers.matching import unknown
from corollary.papers.verdicts import MIN_SEEDS, Budget, Gate, Level

if TYPE_CHECKING:
    from corollary.reproduce import ClaimResult
    from corollary.runs import Run

_ID = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a claim's `measure` gets: one seed, with the complete runs that the claim asked for."""

    seed: int
    budget: Budget
    runs: Mapping[str, Path]
    """Folders of the complete runs, under the names that the claim's `runs` gave them. Read only."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement of a paper with the function that measures it and the gates that judge it.

    Raises:
        ValueError: Something is missing or contradictory; the message starts with the claim's id.
    """

    id: str
    statement: str
    """The claim in words, as in the paper."""
    source: str
    """Where the paper says it: table, figure, theorem."""
    level: Level
    gates: tuple[Gate, ...] = ()
    """What is reported and judged; the claim's verdict is that of its weakest gate."""
    measure: Callable[[Measurement], Mapping[str, float]] | None = None
    """Measures one seed and returns a value for every gate. It runs in a worker process (claims of level
    `exact`: in the main one) with one torch thread, so it must be importable by name. `None`: not run
    here."""
    paper: str = ""
    """The paper's own figure in words, for the table."""
    seeds: Mapping[Budget, tuple[int, ...]] = field(default_factory=dict)
    """Seeds per budget. Level `exact` needs none and has seed 0. A claim of level `paper` may leave out a budget that
    cannot carry it, and is not run there."""
    runs: Callable[[Budget, int], Mapping[str, "Run"]] | None = None
    """The training runs that a measurement needs, by name."""
    data: tuple[str, ...] = ()
    """Registered data sets (`corollary.data`) that must be at hand; without one of them the claim is not run."""
    needs: str = ""
    """What it takes to run a claim whose `measure` is `None`, for example hardware and data."""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"a claim's id must be letters, digits and hyphens, got {self.id!r}")
        if not self.statement:
            raise ValueError(f"{self.id}: the statement is empty")
        names = [gate.quantity for gate in self.gates]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.id}: every gate needs a quantity of its own, got {names}")
        if self.measure is None:
            if not self.needs:
                raise ValueError(f"{self.id}: a claim without measure must say what it needs")
            return
        if not self.gates:
            raise ValueError(f"{self.id}: a claim with measure needs at least one gate")
        if self.level is Level.EXACT:
            if self.runs is not None:
                raise ValueError(f"{self.id}: a claim of level exact trains nothing, got runs")
            return
        for budget in Budget:
            seeds = self.seeds.get(budget, ())
            if not seeds and self.level is Level.PAPER and budget is not Budget.FULL:
                continue
            if not seeds or len(set(seeds)) != len(seeds):
                raise ValueError(f"{self.id}: budget {budget} needs distinct seeds, got {seeds}")
        if self.level is Level.SCALED and len(self.seeds[Budget.FULL]) < MIN_SEEDS:
            raise ValueError(f"{self.id}: budget full needs at least {MIN_SEEDS} seeds, got {self.seeds[Budget.FULL]}")

    def seeds_for(self, budget: Budget) -> tuple[int, ...]:
        """The seeds that this claim is measured on; none where the budget cannot carry it."""
        return tuple(self.seeds.get(budget, (0,) if self.level is Level.EXACT else ()))

    def runs_for(self, budget: Budget, seed: int) -> Mapping[str, "Run"]:
        """The runs that the measurement of one seed needs, by name."""
        return dict(self.runs(budget, seed)) if self.runs is not None and self.measure is not None else {}


@dataclass(frozen=True, kw_only=True)
class PlotInputs:
    """What a paper's `plots` gets after its claims were measured."""

    budget: Budget
    out: Path
    """Where the images go, as PNG. They are moved to the results when all are drawn."""
    results: "Mapping[str, ClaimResult]"
    """Results by claim id; only claims that were part of this reproduction."""
    runs: Mapping[str, Mapping[int, Mapping[str, Path]]]
    """Folders of complete runs: claim id, then seed, then name."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper: citation, claims and plots. Each package has one, named by its entry point `corollary.papers`.

    Raises:
        ValueError: The slug is malformed, or two claims share an id.
    """

    slug: str
    title: str
    authors: tuple[str, ...]
    arxiv: str
    """arXiv identifier, such as `2602.03392`."""
    year: int
    url_code: str
    """The official code, or empty."""
    bibtex: str
    claims: tuple[Claim, ...]
    plots: Callable[[PlotInputs], Sequence[Path]] | None = None
    summary: str = ""

    def __post_init__(self) -> None:
        if not _SLUG.fullmatch(self.slug):
            raise ValueError(f"a slug must be lower-case words joined by hyphens, got {self.slug!r}")
        ids = [claim.id.casefold() for claim in self.claims]
        if not ids or len(set(ids)) != len(ids):
            raise ValueError(f"{self.slug}: claims need distinct ids, got {[claim.id for claim in self.claims]}")

    def claim(self, identifier: str) -> Claim:
        """The claim with this id, whose case does not matter.

        Raises:
            ValueError: There is none; the message names near matches.
        """
        for claim in self.claims:
            if claim.id.casefold() == identifier.casefold():
                return claim
        raise ValueError(unknown(f"claim of {self.slug}", identifier, [claim.id for claim in self.claims]))
