"""What stands in for worker processes where a test decides what becomes of each job."""

from collections.abc import Callable, Sequence

import pytest

from corollary.reproduce.workers import Job, Outcome


class StandIn:
    """Takes the place of the worker processes, and does with each job what the test says."""

    def __init__(self, on_job: Callable[[Job], Outcome]) -> None:
        self.on_job = on_job

    def __call__(self, count: int, *, on_start: Callable, on_end: Callable, on_tick: Callable) -> "StandIn":
        self.on_start, self.on_end = on_start, on_end
        return self

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        outcomes = {}
        for job in jobs:
            self.on_start(job)
            outcomes[job.name] = self.on_job(job)
            self.on_end(outcomes[job.name])
        return outcomes


@pytest.fixture
def stand_in() -> type[StandIn]:
    return StandIn
