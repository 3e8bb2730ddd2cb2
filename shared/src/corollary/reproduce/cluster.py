"""Jobs on a Ray cluster, through joblib: the same jobs as those of `corollary.reproduce.workers`."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from corollary.reproduce.workers import (
    ONE_THREAD,
    POLL_S,
    Job,
    Outcome,
    never_to_start,
    one_torch_thread,
    outcome_of,
    work,
)


@dataclass
class JoblibWorkers:
    """Runs jobs through a backend of joblib, in rounds: all that can start, then all that these made possible.

    Stands in for `corollary.reproduce.workers.Workers`. The processes may be on other machines, so they must see the
    folders that the jobs name, first of all that of the run store.

    Args:
        count: how many jobs run at the same time; -1 leaves it to the backend.
        on_start: called with each job when its round begins.
        on_end: called with each outcome, when its round is over.
        on_tick: called several times per second with the jobs of the round and the number of waiting ones.
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
        """Nothing to end here: Ray stops the tasks of a process that ends, and joblib ends idle processes."""

    def run(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        """Run all jobs and return their outcomes by name; a job that raises fails alone, with those that need it.

        Raises:
            StorageError: A job could not write its files.
        """
        waiting = {job.name: job for job in jobs}
        outcomes: dict[str, Outcome] = {}
        while waiting:
            ready = [job for job in waiting.values() if all(name in outcomes for name in job.needs)]
            if not ready:
                raise ValueError(f"{next(iter(waiting.values())).label} needs a job that is not among those given")
            for job in ready:
                del waiting[job.name]
                self.on_start(job)
            news = [outcome_of(job, value) for job, value in zip(ready, self._values(ready, len(waiting)), strict=True)]
            news += never_to_start(waiting, outcomes | {outcome.job.name: outcome for outcome in news})
            for outcome in news:
                waiting.pop(outcome.job.name, None)
                outcomes[outcome.job.name] = outcome
                self.on_end(outcome)
        return outcomes

    def _values(self, jobs: Sequence[Job], waiting: int) -> list[Any]:
        """What `work` returns for each job. The calling thread looks at progress meanwhile, and can be interrupted."""
        from joblib import Parallel, delayed

        answers: list[Any] = []

        def call() -> None:
            try:
                parallel = Parallel(n_jobs=self.count, backend=self.backend, batch_size=1)
                answers.append(parallel(delayed(_alone)(job) for job in jobs))
            except BaseException as error:
                answers.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            self.on_tick(jobs, waiting)
        (answer,) = answers
        if isinstance(answer, BaseException):
            raise answer
        return answer


def ray_pool() -> Callable[..., JoblibWorkers]:
    """What `Training` takes to run its jobs on Ray: a local one, or the cluster that `RAY_ADDRESS` names.

    The workers run in the environment that they have. Ray would otherwise notice a command that was started by
    ``uv run`` and copy the folder it was started in to each worker, which fails unless that is the project's own;
    ``RAY_ENABLE_UV_RUN_RUNTIME_ENV=1`` asks for it.

    Raises:
        ImportError: Ray is not installed; the message names the extra.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # read when Ray is imported
    try:
        import ray  # ty: ignore[import-not-found]
        from ray.util.joblib import register_ray  # ty: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("--executor ray needs Ray: pip install 'corollary[ray]'") from error
    if not ray.is_initialized():
        # Here and not at the first call: a Ray that a thread starts ends with this thread.
        ray.init(log_to_driver=False)
    register_ray()
    return partial(JoblibWorkers, backend="ray")


def _alone(job: Job) -> Any:
    os.environ.update(ONE_THREAD)  # torch reads it when it is imported; a process that has it already is told
    with one_torch_thread() if "torch" in sys.modules else contextlib.nullcontext():
        return work(job)
