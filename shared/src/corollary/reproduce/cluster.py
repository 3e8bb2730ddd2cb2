"""Jobs on a Ray cluster, through joblib: the same jobs as `corollary.reproduce.workers`, without live bars."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from corollary.reproduce.workers import ONE_THREAD, Job, Outcome, never_to_start, one_torch_thread, outcome_of, work


@dataclass
class JoblibWorkers:
    """Runs jobs through a backend of joblib, in rounds: all that can start, then all that these made possible.

    Stands in for `corollary.reproduce.workers.Workers`. The processes may be on other machines, so they must see the
    folders that the jobs name, first of all that of the run store.

    Args:
        count: how many jobs run at the same time; -1 leaves it to the backend.
        on_start: called with each job when its round begins.
        on_end: called with each outcome.
        on_tick: called with the running jobs and the number of waiting ones whenever a job ends.
        backend: a name that joblib knows.
    """

    count: int
    on_start: Callable[[Job], None]
    on_end: Callable[[Outcome], None]
    on_tick: Callable[[Sequence[Job], int], None]
    backend: str = field(kw_only=True)

    def __enter__(self) -> "JoblibWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left: joblib ends its calls when its results are no longer read."""

    def run(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        """Run all jobs and return their outcomes by name; a job that raises fails alone, with those that need it.

        Raises:
            StorageError: A job could not write its files.
        """
        from joblib import Parallel, delayed

        waiting = {job.name: job for job in jobs}
        outcomes: dict[str, Outcome] = {}
        while waiting:
            ready = [job for job in waiting.values() if all(name in outcomes for name in job.needs)]
            if not ready:
                raise ValueError(f"{next(iter(waiting.values())).label} needs a job that is not among those given")
            running = {job.name: job for job in ready}
            for job in ready:
                del waiting[job.name]
                self.on_start(job)
            parallel = Parallel(n_jobs=self.count, backend=self.backend, return_as="generator_unordered")
            for name, value in parallel(delayed(_named)(job) for job in ready):
                news = [outcome_of(running.pop(name), value)]
                news += never_to_start(waiting, outcomes | {name: news[0]})
                for outcome in news:
                    waiting.pop(outcome.job.name, None)
                    outcomes[outcome.job.name] = outcome
                    self.on_end(outcome)
                self.on_tick(list(running.values()), len(waiting))
        return outcomes


def ray_pool() -> Callable[..., JoblibWorkers]:
    """What `Training` takes to run its jobs on Ray: a local one, or the cluster that `RAY_ADDRESS` names.

    Raises:
        ImportError: Ray is not installed; the message names the extra.
    """
    try:
        from ray.util.joblib import register_ray  # ty: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("--executor ray needs Ray: pip install 'corollary[ray]'") from error
    register_ray()
    return partial(JoblibWorkers, backend="ray")


def _named(job: Job) -> tuple[str, Any]:
    os.environ.update(ONE_THREAD)  # torch reads it when it is imported; a process that has it already is told
    with one_torch_thread() if "torch" in sys.modules else contextlib.nullcontext():
        return job.name, work(job)
