"""`corollary reproduce`: measure the claims of papers."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from corollary.cli.choices import choose, split, whole_number
from corollary.cli.errors import UsageError, as_usage_error

if TYPE_CHECKING:
    from corollary.papers import Budget, Level, Paper


@dataclass(frozen=True)
class Reproduce:
    """Measure the claims of papers and compute a verdict for each.

    Exact claims come first, within seconds. Then the training runs that the other claims share are trained in
    parallel, each once, and kept: a stopped command goes on where it stopped, and a run is never trained twice.
    At the end stands the table of claims; results and plots are files.
    """

    slugs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SLUG...", help_behavior_hint="")]
    """Papers to reproduce, as `corollary list` names them."""
    claim: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="ID")] = ()
    """Only this claim, such as C3. Several: give the option again, or join them with commas."""
    level: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="{exact,scaled,paper}")] = ()
    """Only claims of this level. Several: as for claims."""
    budget: Annotated[str, tyro.conf.arg(metavar="{smoke,quick,full}")] = "quick"
    """How much work: smoke = is everything wired up, never a verdict; quick = a first look in minutes;
    full = verdicts, with five seeds or more."""
    workers: Annotated[str, tyro.conf.arg(metavar="N")] = "auto"
    """Runs to train at the same time; auto = one per usable core. The numbers do not depend on it."""
    out: Path = Path("reproductions")
    """Folder for results and plots; each paper gets a folder of its own inside."""
    record: bool = False
    """Write into the package's own results folder instead, from which README and docs are generated. Works when the
    package is installed from a checkout, and not with budget smoke."""
    fresh: bool = False
    """Train again what the run store already has. A stored run is replaced when its successor is complete."""

    def run(self) -> int:
        """Reproduce one paper after the other; the worst exit status counts."""
        from corollary.papers import Budget, Level, PaperLoadError, paper
        from corollary.reproduce.engine import recorded_folder, select_claims

        if not self.slugs:
            raise UsageError("reproduce needs a paper; `corollary list` names them")
        workers = whole_number("--workers", self.workers)
        budget = choose(Budget, self.budget)
        levels = [choose(Level, word) for word in split(self.level)]
        claims = split(self.claim)
        with as_usage_error(ValueError, PaperLoadError):
            papers = [paper(slug) for slug in split(self.slugs)]
            # All is checked before anything runs, so that a typing error in the last word costs no hour.
            for chosen in papers:
                select_claims(chosen, claim_ids=claims, levels=levels)
                if self.record:
                    recorded_folder(chosen, budget)
        return max(self._reproduce(chosen, budget, levels, claims, workers) for chosen in papers)

    def _reproduce(
        self, paper: "Paper", budget: "Budget", levels: "list[Level]", claims: list[str], workers: int | None
    ) -> int:
        from rich.console import Console

        from corollary.reproduce import OutputError, PlotError, StorageError, exit_status, reproduce
        from corollary.reproduce.summary import wide_enough

        try:
            with as_usage_error(OutputError, StorageError):
                results = reproduce(
                    paper,
                    claim_ids=claims,
                    levels=levels,
                    budget=budget,
                    workers=workers,
                    out=self.out,
                    record=self.record,
                    fresh=self.fresh,
                    console=wide_enough(Console()),
                )
        except PlotError as error:
            print(f"corollary: {error}", file=sys.stderr)
            return 1
        return exit_status(results)
