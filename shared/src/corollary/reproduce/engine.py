"""Reproducing a paper, from Python: what the command `corollary reproduce` calls."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from corollary.papers import Budget, Claim, Level, Paper, Verdict, paper_source
from corollary.reproduce.display import make_display
from corollary.reproduce.execution import Reproduction
from corollary.reproduce.results import ClaimResult
from corollary.reproduce.summary import print_summary
from corollary.reproduce.training import check_writable
from corollary.reproduce.workers import signals_as_interrupts
from corollary.runs import RunStore, usable_cores

DEFAULT_OUT = Path("reproductions")


class PlotError(RuntimeError):
    """The plots failed; all results are written and in `results`. The message says why, in one line."""

    def __init__(self, message: str, results: list[ClaimResult]) -> None:
        super().__init__(message)
        self.results = results


def reproduce(
    paper: Paper,
    *,
    claim_ids: Sequence[str] = (),
    levels: Sequence[Level] = (),
    budget: Budget = Budget.QUICK,
    workers: int | None = None,
    out: Path = DEFAULT_OUT,
    store: RunStore | None = None,
    fresh: bool = False,
    record: bool = False,
    console: Console | None = None,
) -> list[ClaimResult]:
    """Measure a paper's claims, judge them, and write results and plots.

    Claims of level exact are measured first, in this process. The training runs of the others, each once,
    and then the measurements run in worker processes with one torch thread each, so that the numbers do not
    depend on how many workers there are. A run that fails takes only the claims with it that need it.

    Args:
        paper: What to reproduce.
        claim_ids: Only these claims, by id; all if empty.
        levels: Only claims of these levels; all if empty.
        budget: How much work to do.
        workers: Worker processes; the usable cores if not given.
        out: Results and plots go to `<out>/<slug>`.
        store: Where complete runs are kept.
        fresh: Train again, also what the store has. A run replaces the stored one once all are done; an
            interrupted call goes on where it stopped when it is repeated.
        record: Write into the `results` folder of the package's own checkout instead of `out`. Claims that
            could not be measured leave the recorded result as it is.
        console: Where the display goes; standard output if not given.

    Returns:
        One result per claim, in the paper's order.

    Raises:
        ValueError: Unknown claim, no claim left, bad number of workers, or nothing to record.
        OutputError: The folder of results cannot be written.
        StorageError: The run store cannot be written.
        PlotError: The plots failed; the results are written.
        Interrupted: Stopped by Ctrl-C or a signal; all workers have ended.
    """
    claims = select_claims(paper, claim_ids=claim_ids, levels=levels)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    folder = recorded_folder(paper, budget) if record else out / paper.slug
    check_writable(folder)
    console = console if console is not None else Console()
    task = Reproduction(
        paper=paper,
        claims=claims,
        budget=budget,
        workers=workers if workers is not None else usable_cores(),
        folder=folder,
        store=store if store is not None else RunStore(),
        fresh=fresh,
        keep_recorded=record,
        display=make_display(console, width=max(len(claim.id) for claim in claims)),
    )
    with signals_as_interrupts():
        results, plots, plot_error = task.execute()
    print_summary(results, console)
    console.print(describe_files(folder, plots), highlight=False, markup=False, soft_wrap=True)
    if plot_error is not None:
        raise PlotError(f"the plots of {paper.slug} failed: {plot_error}", results)
    return results


def exit_status(results: Sequence[ClaimResult]) -> int:
    """0 when every exact claim holds and everything could be measured, otherwise 1."""
    failed = any(result.level is Level.EXACT and result.verdict is Verdict.NOT_REPRODUCED for result in results)
    return int(failed or any(result.error is not None for result in results))


def describe_files(folder: Path, plots: Sequence[Path]) -> str:
    """One line that says where results and plots are."""
    names = ", ".join(path.name for path in plots)
    return f"Results{' and plots' if plots else ''} are in {folder}{os.sep}{f' ({names})' if plots else ''}"


def select_claims(paper: Paper, *, claim_ids: Sequence[str] = (), levels: Sequence[Level] = ()) -> tuple[Claim, ...]:
    """The claims with these ids and levels, in the paper's order.

    Raises:
        ValueError: An id is unknown, or no claim is left.
    """
    wanted = {paper.claim(identifier).id for identifier in claim_ids}
    chosen = tuple(
        claim for claim in paper.claims if (not wanted or claim.id in wanted) and (not levels or claim.level in levels)
    )
    if not chosen:
        raise ValueError(f"{paper.slug} has no such claim of level {' or '.join(levels)}")
    return chosen


def recorded_folder(paper: Paper, budget: Budget) -> Path:
    """The `results` folder of the checkout that the paper's package is installed from.

    Raises:
        ValueError: Budget smoke, whose numbers mean nothing, or the package is not installed from a checkout.
    """
    if budget is Budget.SMOKE:
        raise ValueError("budget smoke gives no verdict and cannot be recorded")
    source = paper_source(paper.slug)
    if source.checkout is None:
        raise ValueError(f"{source.distribution} is not installed from a checkout, so there is nowhere to record to")
    return source.results
