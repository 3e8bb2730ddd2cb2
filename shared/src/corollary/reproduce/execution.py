"""One reproduction from start to end: exact claims, training runs, measurements, result files, plots."""

import contextlib
import os
import secrets
import tempfile
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corollary.papers import Budget, Claim, Level, Measurement, Paper, PlotInputs
from corollary.reproduce.display import Display
from corollary.reproduce.estimate import Estimate
from corollary.reproduce.measuring import Measured, Provenance, find_provenance, judge, measure_seed, not_run
from corollary.reproduce.results import ClaimResult, write_result
from corollary.reproduce.workers import (
    Job,
    Outcome,
    Workers,
    interrupts_held_back,
    one_line,
    one_torch_thread,
)
from corollary.runs import Progress, Run, RunRecord, RunStore

FRESH = "fresh"
"""Folder inside the store where `--fresh` trains until everything is done."""
LOG = "log.txt"


class OutputError(OSError):
    """Results cannot be written; the message names the file or folder, in one line."""


class Interrupted(KeyboardInterrupt):
    """A reproduction was stopped; the message says what is kept, `status` is the exit status to end with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def check_writable(folder: Path) -> None:
    """Create the folder and see whether a file can be written there, before anything is trained.

    Raises:
        OutputError: It cannot.
    """
    probe = folder / f".writable-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write to the folder {folder}: {error.strerror or error}") from error


@dataclass(kw_only=True)
class Reproduction:
    """The state of one reproduction; `corollary.reproduce.reproduce` is its front."""

    paper: Paper
    claims: tuple[Claim, ...]
    budget: Budget
    workers: int
    folder: Path
    """Where results and plots go."""
    store: RunStore
    fresh: bool
    keep_recorded: bool
    """Whether a claim that cannot be measured leaves an older result in place."""
    display: Display
    results: dict[str, ClaimResult] = field(default_factory=dict)
    runs: dict[str, dict[int, dict[str, Run]]] = field(default_factory=dict)
    """Runs by claim id, seed and name, as the claims ask for them."""
    records: dict[str, RunRecord] = field(default_factory=dict)
    """Complete runs by key."""
    running: dict[str, Run] = field(default_factory=dict)
    done: int = 0
    total: int = 0

    def execute(self) -> tuple[list[ClaimResult], list[Path], str | None]:
        """Do everything.

        Returns:
            The results in the paper's order, the plots, and why the plots failed if they did.
        """
        number = f"{len(self.claims)} claim{'s' * (len(self.claims) != 1)}"
        self.display.note(f"{self.paper.slug}: {number}, budget {self.budget}")
        try:
            with self.display, _warnings_as_lines(self.display):
                provenance = find_provenance(self.paper)
                for claim in self.claims:
                    if claim.measure is not None and claim.level is Level.EXACT:
                        self._measure_exact(claim, provenance)
                self._train_and_measure(provenance)
                for claim in self.claims:
                    if claim.measure is None:
                        self._finish(not_run(self.paper, claim, self.budget))
            results = [self.results[claim.id] for claim in self.claims]
            return results, *self._plot()
        except KeyboardInterrupt as interrupt:
            raise Interrupted(self._stopped(), 128 + getattr(interrupt, "number", 2)) from None

    def _measure_exact(self, claim: Claim, provenance: Provenance) -> None:
        self.display.tick({claim.id: Progress(done=0, total=0, note=claim.statement)}, 0, 0, 0.0, None)
        measured = {}
        try:
            with one_torch_thread():
                for seed in claim.seeds_for(self.budget):
                    inputs = Measurement(seed=seed, budget=self.budget, runs={})
                    measured[seed] = measure_seed(claim, inputs)
        except Exception as error:  # one claim that cannot be measured must not stop the others
            self._finish(not_run(self.paper, claim, self.budget, error=one_line(error)))
        else:
            self._finish(judge(self.paper, claim, self.budget, measured, {}, provenance))

    def _train_and_measure(self, provenance: Provenance) -> None:
        claims = [claim for claim in self.claims if claim.measure is not None and claim.level is not Level.EXACT]
        store = RunStore(self.store.root / FRESH) if self.fresh else self.store
        claims = [claim for claim in claims if self._ask_for_runs(claim)]
        jobs, runs = self._training_jobs(claims, store)
        if jobs:
            check_writable(store.root)
        estimate = Estimate(self.workers)
        by_key = {run.key: run for run in runs}
        for run in runs:
            if run.key in self.records:
                estimate.learn(run, self.records[run.key].seconds)
        self.total = len(jobs)
        waiting = {job.name for job in jobs}
        seeds: dict[str, tuple[Claim, int]] = {}
        for claim in claims:
            for seed, named in self.runs[claim.id].items():
                job = self._measuring_job(claim, seed, named, store, waiting)
                seeds[job.name] = claim, seed
                jobs.append(job)
        gathered: dict[str, dict[int, Outcome]] = {claim.id: {} for claim in claims}

        def on_start(job: Job) -> None:
            if job.name in by_key:
                self.running[job.name] = by_key[job.name]
                waiting.discard(job.name)
                self.display.started(job.label)

        def on_end(outcome: Outcome) -> None:
            name, record = outcome.job.name, outcome.value
            self.running.pop(name, None)
            if name in by_key:
                waiting.discard(name)
                self.done += 1
                if isinstance(record, RunRecord):
                    self.records[name] = record
                    estimate.learn(by_key[name], record.seconds)
                if outcome.started:
                    seconds = record.seconds if isinstance(record, RunRecord) else None
                    self.display.ended(outcome.job.label, seconds, outcome.error)
                return
            claim, seed = seeds[name]
            gathered[claim.id][seed] = outcome
            if len(gathered[claim.id]) == len(self.runs[claim.id]):
                self._conclude(claim, gathered[claim.id], store, provenance)

        def on_tick(running: Sequence[Job], _: int) -> None:
            training = {run: store.progress(run) for run in self.running.values()}
            rows = {job.label: training.get(by_key[job.name]) if job.name in by_key else MEASURING for job in running}
            left_s = estimate.remaining_s(training, [by_key[name] for name in waiting])
            parts = sum(report.fraction for report in training.values() if report is not None)
            fraction = (self.done + parts) / self.total if self.total else 0.0
            self.display.tick(rows, self.done, self.total, fraction, left_s)

        pool = Workers(self.workers, on_start=on_start, on_end=on_end, on_tick=on_tick)
        try:
            with pool:
                pool.run(jobs)
        finally:
            for run in self.running.values():  # only after an exception; their processes are gone
                store.sweep(run)
        if self.fresh:
            with interrupts_held_back():
                for run in runs:
                    if run.key in self.records:
                        self.store.adopt(run, store)

    def _ask_for_runs(self, claim: Claim) -> bool:
        """Let the claim name its runs; one that fails at it is not run, and the others go on."""
        try:
            self.runs[claim.id] = {
                seed: dict(claim.runs_for(self.budget, seed)) for seed in claim.seeds_for(self.budget)
            }
        except Exception as error:
            self._finish(not_run(self.paper, claim, self.budget, error=one_line(error)))
            return False
        return True

    def _training_jobs(self, claims: Sequence[Claim], store: RunStore) -> tuple[list[Job], list[Run]]:
        """Jobs for the runs that the store lacks, requirements first, and all runs that were looked at."""
        jobs: list[Job] = []
        seen: dict[str, Run] = {}

        def visit(run: Run) -> None:
            if run.key in seen:
                return
            seen[run.key] = run
            record = store.find(run)
            if record is not None:  # what it required is not needed again
                self.records[run.key] = record
                return
            required = run.requires()
            for other in required:
                visit(other)
            jobs.append(
                Job(
                    name=run.key,
                    label=run.label,
                    call=_train,
                    arguments=(store.root, run),
                    log=store.path(run) / LOG,
                    needs=tuple(other.key for other in required if other.key not in self.records),
                )
            )

        for claim in claims:
            for named in self.runs[claim.id].values():
                for run in named.values():
                    visit(run)
        if seen:
            have = len(seen) - len(jobs)
            known = f"{have} of {len(seen)} runs {'was' if have == 1 else 'were'} already "
            known += "trained by an interrupted --fresh" if self.fresh else "in the store"
            plan = f"{len(jobs)} run{'s' * (len(jobs) != 1)} to train, {self.workers} at a time"
            self.display.note("; ".join([known] * bool(have) + [plan] * bool(jobs)))
        return jobs, list(seen.values())

    def _measuring_job(self, claim: Claim, seed: int, named: dict[str, Run], store: RunStore, waiting: set[str]) -> Job:
        folders = {name: store.path(run) for name, run in named.items()}
        return Job(
            name=f"{claim.id}, seed {seed}",
            label=f"measure {claim.id}, seed {seed}",
            call=measure_seed,
            arguments=(claim, Measurement(seed=seed, budget=self.budget, runs=folders)),
            needs=tuple(dict.fromkeys(run.key for run in named.values() if run.key in waiting)),
            urgent=True,
        )

    def _conclude(self, claim: Claim, outcomes: dict[int, Outcome], store: RunStore, provenance: Provenance) -> None:
        """All seeds of a claim are measured, or have failed."""
        errors = [outcomes[seed].error for seed in sorted(outcomes) if outcomes[seed].error is not None]
        if errors:
            self._finish(not_run(self.paper, claim, self.budget, error=errors[0]))
            return
        measured: dict[int, Measured] = {seed: outcomes[seed].value for seed in self.runs[claim.id]}
        records = {
            seed: {name: self.records[run.key] for name, run in named.items()}
            for seed, named in self.runs[claim.id].items()
        }
        required = {
            other.key: record
            for named in self.runs[claim.id].values()
            for run in named.values()
            for other in run.requires()
            if (record := self.records.get(other.key) or store.find(other)) is not None
        }
        self._finish(judge(self.paper, claim, self.budget, measured, records, provenance, required=required))

    def _finish(self, result: ClaimResult) -> None:
        self.results[result.claim] = result
        if result.findings or not self.keep_recorded:
            try:
                write_result(result, self.folder)
            except OSError as error:
                file = self.folder / f"{result.claim}.json"
                raise OutputError(f"cannot write {file}: {error.strerror or error}") from error
        self.display.claim(result)

    def _plot(self) -> tuple[list[Path], str | None]:
        if self.paper.plots is None:
            return [], None
        os.environ.setdefault("MPLBACKEND", "Agg")  # no window, and no need for a display
        measured = {identifier: result for identifier, result in self.results.items() if result.findings}
        folders = {
            identifier: {
                seed: {name: self.store.path(run) for name, run in named.items()} for seed, named in seeds.items()
            }
            for identifier, seeds in self.runs.items()
            if identifier in measured
        }
        try:
            # Drawn beside the results and then moved: a plot that fails or is interrupted leaves no half image.
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".plots-") as drawing:
                inputs = PlotInputs(budget=self.budget, out=Path(drawing), results=measured, runs=folders)
                drawn = sorted(Path(path) for path in self.paper.plots(inputs))
                for path in drawn:
                    os.replace(path, self.folder / path.name)
            return [self.folder / path.name for path in drawn], None
        except Exception as error:  # the numbers are safe, and a plot is no reason to lose them
            return [], one_line(error)

    def _stopped(self) -> str:
        if not self.total:
            return "stopped; the same command starts again"
        return (
            f"stopped; {self.done} of {self.total} runs are done and kept, "
            f"and the same command goes on where this one stopped"
        )


MEASURING = Progress(done=0, total=0, note="measuring")


def _train(root: Path, run: Run) -> RunRecord:
    return RunStore(root).execute(run)


@contextlib.contextmanager
def _warnings_as_lines(display: Display) -> Generator[None, None, None]:
    """Show warnings of this process as one line each, without tearing the display."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        display.note(f"warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # ty: ignore[invalid-assignment]
        yield
