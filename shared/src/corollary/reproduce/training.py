"""Training runs as jobs: which ones the store lacks, what a display shows of them, and where they are kept.

Reproductions and benchmarks share this: both ask for runs, train the missing ones in worker processes, and go on where
they were stopped.
"""

import contextlib
import os
import secrets
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from corollary.reproduce.display import Display
from corollary.reproduce.estimate import Estimate
from corollary.reproduce.workers import Job, Outcome, Workers, interrupts_held_back
from corollary.runs import Progress, Run, RunRecord, RunStore

FRESH = "fresh"
"""Folder inside the store where `--fresh` trains until everything is done."""
LOG = "log.txt"
MEASURING = Progress(done=0, total=0, note="measuring")


class OutputError(OSError):
    """Results cannot be written; the message names the file or folder, in one line."""


class Interrupted(KeyboardInterrupt):
    """The work was stopped; the message says what is kept, `status` is the exit status to end with."""

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


class Lines(Protocol):
    """What warnings are shown on."""

    def note(self, text: str) -> None:
        """One line that stays."""


@contextlib.contextmanager
def warnings_as_lines(display: Lines) -> Generator[None, None, None]:
    """Show warnings of this process as one line each, without tearing the display."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        display.note(f"warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # ty: ignore[invalid-assignment]
        yield


@dataclass(kw_only=True)
class Training:
    """Runs on their way into the store, beside other jobs that may wait for them."""

    into: RunStore
    """Where complete runs are kept in the end."""
    fresh: bool
    """Train again what is there; runs replace the stored ones once all jobs are done."""
    workers: int
    display: Display
    pool: Callable[..., Any] = Workers
    """What runs the jobs: called as `Workers` is."""
    records: dict[str, RunRecord] = field(default_factory=dict)
    """Complete runs by key."""
    running: dict[str, Run] = field(default_factory=dict)
    done: int = 0
    total: int = 0
    _runs: dict[str, Run] = field(default_factory=dict)
    _waiting: set[str] = field(default_factory=set)

    @property
    def store(self) -> RunStore:
        """Where the runs are trained."""
        return RunStore(self.into.root / FRESH) if self.fresh else self.into

    def plan(self, runs: Iterable[Run]) -> list[Job]:
        """Jobs for the runs that the store lacks, requirements first; a line says how many.

        Raises:
            OutputError: The store cannot be written.
        """
        jobs: list[Job] = []
        for run in runs:
            self._visit(run, jobs)
        if self._runs:
            have = len(self._runs) - len(jobs)
            known = f"{have} of {len(self._runs)} runs {'was' if have == 1 else 'were'} already "
            known += "trained by an interrupted --fresh" if self.fresh else "in the store"
            plan = f"{len(jobs)} run{'s' * (len(jobs) != 1)} to train, {self.workers} at a time"
            self.display.note("; ".join([known] * bool(have) + [plan] * bool(jobs)))
        if jobs:
            check_writable(self.store.root)
        self.total = len(jobs)
        self._waiting = {job.name for job in jobs}
        return jobs

    def needed(self, runs: Iterable[Run]) -> tuple[str, ...]:
        """Names of the jobs that a job must wait for which reads these runs."""
        return tuple(dict.fromkeys(run.key for run in runs if run.key in self._waiting))

    def execute(self, jobs: Sequence[Job], *, on_other: Callable[[Outcome], None] | None = None) -> dict[str, Outcome]:
        """Run the planned jobs and any others, show how far they are, and keep the runs.

        Args:
            jobs: Those of `plan`, perhaps with others that need them.
            on_other: Called with the outcome of each job that is no run.

        Returns:
            The outcomes by the names of the jobs.

        Raises:
            StorageError: A run could not be written.
        """
        estimate = Estimate(self.workers)
        for key, record in self.records.items():
            estimate.learn(self._runs[key], record.seconds)

        def on_start(job: Job) -> None:
            if job.name in self._runs:
                self.running[job.name] = self._runs[job.name]
                self._waiting.discard(job.name)
                self.display.started(job.label)

        def on_end(outcome: Outcome) -> None:
            name, record = outcome.job.name, outcome.value
            self.running.pop(name, None)
            if name not in self._runs:
                if on_other is not None:
                    on_other(outcome)
                return
            self._waiting.discard(name)
            self.done += 1
            if isinstance(record, RunRecord):
                self.records[name] = record
                estimate.learn(self._runs[name], record.seconds)
            if outcome.started:
                seconds = record.seconds if isinstance(record, RunRecord) else None
                self.display.ended(outcome.job.label, seconds, outcome.error)

        def on_tick(running: Sequence[Job], _: int) -> None:
            self._show(running, estimate)

        pool = self.pool(self.workers, on_start=on_start, on_end=on_end, on_tick=on_tick)
        try:
            with pool:
                outcomes = pool.run(jobs)
        finally:
            for run in self.running.values():  # only after an exception; their processes are gone
                self.store.sweep(run)
        if self.fresh:
            with interrupts_held_back():
                for key, run in self._runs.items():
                    if key in self.records:
                        self.into.adopt(run, self.store)
        return outcomes

    def describe_stop(self) -> str:
        """What a user reads who has stopped the work."""
        if not self.total:
            return "stopped; the same command starts again"
        return (
            f"stopped; {self.done} of {self.total} runs are done and kept, "
            f"and the same command goes on where this one stopped"
        )

    def _visit(self, run: Run, jobs: list[Job]) -> None:
        if run.key in self._runs:
            return
        self._runs[run.key] = run
        record = self.store.find(run)
        if record is not None:  # what it required is not needed again
            self.records[run.key] = record
            return
        required = run.requires()
        for other in required:
            self._visit(other, jobs)
        jobs.append(
            Job(
                name=run.key,
                label=run.label,
                call=_train,
                arguments=(self.store.root, run),
                log=self.store.path(run) / LOG,
                needs=tuple(other.key for other in required if other.key not in self.records),
            )
        )

    def _show(self, running: Sequence[Job], estimate: Estimate) -> None:
        reports = {run: self.store.progress(run) for run in self.running.values()}
        rows = {
            job.label: reports.get(self._runs[job.name]) if job.name in self._runs else MEASURING for job in running
        }
        left_s = estimate.remaining_s(reports, [self._runs[name] for name in self._waiting])
        parts = sum(report.fraction for report in reports.values() if report is not None)
        fraction = (self.done + parts) / self.total if self.total else 0.0
        self.display.tick(rows, self.done, self.total, fraction, left_s)


def _train(root: Path, run: Run) -> RunRecord:
    return RunStore(root).execute(run)
