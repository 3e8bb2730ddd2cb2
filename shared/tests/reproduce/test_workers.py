import math
import multiprocessing
import operator
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from corollary.reproduce.workers import Job, Outcome, StorageError, Workers, one_line


def job(name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Job:
    return Job(name=name, label=f"job {name}", call=call, arguments=arguments, **options)


class Watched:
    """Workers with a record of what they told."""

    def __init__(self, count: int = 2) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.most = 0
        self.pool = Workers(count, on_start=self.start, on_end=self.end, on_tick=self.tick)

    def start(self, job: Job) -> None:
        self.started.append(job.name)

    def end(self, outcome: Outcome) -> None:
        self.ended.append(outcome.job.name)

    def tick(self, running: Sequence[Job], waiting: int) -> None:
        self.most = max(self.most, len(running))


def test_jobs_wait_for_what_they_need_and_fail_alone(tmp_path: Path) -> None:
    watched = Watched()
    jobs = [
        job("last", math.sqrt, 16.0, needs=("root", "first")),
        job("root", math.sqrt, 4.0),
        job("first", math.sqrt, 9.0),
        job("wrong", operator.truediv, 1, 0, log=tmp_path / "log.txt"),
        job("doomed", math.sqrt, 1.0, needs=("wrong",)),
        job("doomed too", math.sqrt, 1.0, needs=("doomed",)),
        job("threads", torch.get_num_threads),
        job("loud", print, "noise on the display", log=tmp_path / "loud.txt"),
    ]
    with watched.pool as pool:
        outcomes = pool.run(jobs)
    assert {name: outcome.value for name, outcome in outcomes.items() if outcome.error is None} == {
        "last": 4.0,
        "root": 2.0,
        "first": 3.0,
        "threads": 1,
        "loud": None,
    }
    assert outcomes["wrong"].error == "ZeroDivisionError: division by zero"
    assert outcomes["doomed too"].error == "job wrong: ZeroDivisionError: division by zero"
    assert not outcomes["doomed too"].started
    assert watched.started.index("last") > max(watched.started.index("root"), watched.started.index("first"))
    assert set(watched.ended) == set(outcomes)
    assert watched.most <= 2
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "loud.txt").read_text() == "noise on the display\n"
    assert not multiprocessing.active_children()


def test_dying_worker_takes_no_other_job_with_it() -> None:
    watched = Watched()
    with watched.pool as pool:
        outcomes = pool.run([job("slow", time.sleep, 0.5), job("deadly", os._exit, 9), job("next", math.sqrt, 4.0)])
    assert outcomes["deadly"].error == "its worker process died (out of memory?)"
    assert outcomes["slow"].error is None
    assert outcomes["next"].value == 2.0
    assert not multiprocessing.active_children()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_ends_everything() -> None:
    with Watched().pool as pool, pytest.raises(StorageError, match="job full: OSError: No space left on device"):
        pool.run([job("full", Path.write_text, Path("/dev/full"), "x"), job("slow", time.sleep, 60.0)])
    assert not multiprocessing.active_children()


def test_job_that_needs_a_stranger_is_refused() -> None:
    with Watched().pool as pool, pytest.raises(ValueError, match="job a needs a job that is not among the 1 given"):
        pool.run([job("a", math.sqrt, 1.0, needs=("b",))])


def test_error_becomes_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert one_line(FileNotFoundError(2, "No such file", "x.json")) == "FileNotFoundError: No such file: x.json"
