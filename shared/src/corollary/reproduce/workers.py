"""Worker processes: jobs that wait for each other, on loky processes that end with their parent."""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

POLL_S = 0.25
PARENT_POLL_S = 0.5
# In the environment of the workers before they import torch, which then computes with one thread.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class StorageError(OSError):
    """A worker could not write: the disk is full or read-only, so no other job would fare better."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end by a signal other than Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(frozen=True, kw_only=True)
class Job:
    """A call for a worker process, made when the jobs that it needs have succeeded."""

    name: str
    """Unique, for example a run's key."""
    label: str
    """For messages."""
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    log: Path | None = None
    """Where the call's output and errors go; nowhere if not given."""
    needs: tuple[str, ...] = ()
    urgent: bool = False
    """Whether it goes before other jobs that could start."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a job: a value, or an error in one line."""

    job: Job
    value: Any = None
    error: str | None = None
    started: bool = True
    """False for a job that never started, since one that it needs has failed."""


@dataclass(frozen=True)
class _Failure:
    line: str
    trace: str
    fatal: bool


def one_line(error: BaseException) -> str:
    """An exception as one line without folders: `ValueError: expected 3, got 4`."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    else:
        text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def one_torch_thread() -> Generator[None, None, None]:
    """Compute with one thread, so that numbers do not depend on how many cores or workers there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def signals_as_interrupts() -> Generator[None, None, None]:
    """Turn SIGTERM and SIGHUP into an exception, so that they end the workers as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupts_held_back() -> Generator[None, None, None]:
    """Deliver Ctrl-C after the block. Processes that are started inside never get it at all."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass
class Workers:
    """Runs jobs on a number of processes; used as a context, at whose end no process is left.

    Args:
        count: How many jobs run at the same time.
        on_start: Called with each job that starts.
        on_end: Called with each outcome, including those of jobs that never start since one they need failed.
        on_tick: Called several times per second with the running jobs and the number of waiting ones.
    """

    count: int
    on_start: Callable[[Job], None]
    on_end: Callable[[Outcome], None]
    on_tick: Callable[[Sequence[Job], int], None]
    _executor: Any = None
    _suspects: set[str] = field(default_factory=set)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def run(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        """Run all jobs and return their outcomes by name.

        A job that raises fails alone, with those that need it. A worker that dies takes the jobs with it that
        were running; each is tried once more on its own, which shows whose fault it was.

        Raises:
            StorageError: A job could not write its files.
        """
        waiting = {job.name: job for job in jobs}
        for job in jobs:
            if any(name not in waiting for name in job.needs):
                raise ValueError(f"{job.label} needs a job that is not among the {len(jobs)} given")
        outcomes: dict[str, Outcome] = {}
        running: dict[Future[Any], Job] = {}
        while waiting or running:
            for job in self._startable(waiting, outcomes, running):
                del waiting[job.name]
                running[self._submit(job)] = job
                self.on_start(job)
            ended, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
            broken = {future for future in ended if isinstance(future.exception(), BrokenProcessPool)}
            news = [_outcome(running.pop(future), future) for future in ended - broken]
            if broken:
                news += self._after_crash(running, waiting)
            news += never_to_start(waiting, outcomes | {outcome.job.name: outcome for outcome in news})
            for outcome in news:
                self._suspects.discard(outcome.job.name)
                waiting.pop(outcome.job.name, None)
                outcomes[outcome.job.name] = outcome
                self.on_end(outcome)
            self.on_tick(list(running.values()), len(waiting))
        return outcomes

    def stop(self) -> None:
        """End all worker processes now, with whatever they are doing."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        with interrupts_held_back(), warnings.catch_warnings():
            # loky asks pgrep for grandchildren and warns where there is no pgrep; our jobs have none.
            warnings.simplefilter("ignore")
            executor.shutdown(wait=True, kill_workers=True)

    def _startable(
        self, waiting: dict[str, Job], outcomes: dict[str, Outcome], running: dict[Future[Any], Job]
    ) -> list[Job]:
        ready = [
            job
            for job in waiting.values()
            if all(name in outcomes and outcomes[name].error is None for name in job.needs)
        ]
        suspects = [job for job in ready if job.name in self._suspects]
        if suspects or any(job.name in self._suspects for job in running.values()):
            return suspects[:1] if not running else []
        ready.sort(key=lambda job: not job.urgent)
        return ready[: self.count - len(running)]

    def _submit(self, job: Job) -> "Future[Any]":
        with interrupts_held_back():
            if self._executor is None:
                from joblib.externals.loky import ProcessPoolExecutor

                self._executor = ProcessPoolExecutor(
                    max_workers=self.count, initializer=_begin, initargs=(os.getpid(),), env=ONE_THREAD
                )
            return self._executor.submit(work, job)

    def _after_crash(self, running: dict[Future[Any], Job], waiting: dict[str, Job]) -> list[Outcome]:
        """Put the jobs of a dead pool back, on their own this time; one that was on its own has failed."""
        self.stop()
        failed = []
        for job in running.values():
            if job.name in self._suspects:
                self._suspects.discard(job.name)
                failed.append(Outcome(job=job, error="its worker process died (out of memory?)"))
            else:
                self._suspects.add(job.name)
                waiting[job.name] = job
        running.clear()
        return failed


def never_to_start(waiting: Mapping[str, Job], outcomes: Mapping[str, Outcome]) -> list[Outcome]:
    """Outcomes of the waiting jobs that will never start, since something they need has failed."""
    doomed: list[Outcome] = []
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.error is not None}
    for job in waiting.values():  # in order, so that what a doomed job would have fed is doomed as well
        causes = [failed[name] for name in job.needs if name in failed]
        if causes:
            cause = causes[0]
            passed_on = cause.error if not cause.started else f"{cause.job.label}: {cause.error}"
            failed[job.name] = Outcome(job=job, error=passed_on, started=False)
            doomed.append(failed[job.name])
    return doomed


def _outcome(job: Job, future: "Future[Any]") -> Outcome:
    error = future.exception()
    if error is not None:  # the job's arguments or its value cannot be sent between processes
        return Outcome(job=job, error=one_line(error))
    return outcome_of(job, future.result())


def outcome_of(job: Job, value: Any) -> Outcome:
    """The outcome of a job from what `work` returned.

    Raises:
        StorageError: The job could not write its files.
    """
    if isinstance(value, _Failure):
        if value.fatal:
            raise StorageError(f"{job.label}: {value.line}")
        return Outcome(job=job, error=value.line)
    return Outcome(job=job, value=value)


def _begin(parent: int) -> None:
    """First call in a worker process: Ctrl-C is the parent's business, and no worker outlives its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(1)  # nothing to tell anybody; files are written in one step, locks end with the process


def work(job: Job) -> Any:
    """Make a job's call in this process: its value, or a description of its failure, for `outcome_of`."""
    with _output_to(job.log):
        try:
            return job.call(*job.arguments)
        except Exception as error:
            trace = traceback.format_exc()
            print(trace, file=sys.stderr, flush=True)
            fatal = isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT, EROFS)
            return _Failure(one_line(error), trace, fatal)


@contextlib.contextmanager
def _output_to(log: Path | None) -> Generator[None, None, None]:
    """Send everything that is printed, by Python or below it, to a file, and keep the display clean."""
    target = os.devnull
    if log is not None:
        with contextlib.suppress(OSError):  # without a log rather than without the run
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
            target = str(log)
    saved = [os.dup(1), os.dup(2)]
    descriptor = os.open(target, os.O_WRONLY | os.O_APPEND)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(descriptor)
