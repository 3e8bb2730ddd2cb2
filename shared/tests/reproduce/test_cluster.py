"""Jobs through a backend of joblib: here its own processes, and Ray where it is installed."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from joblib.externals.loky import get_reusable_executor

from corollary.reproduce.cluster import JoblibWorkers, ray_pool
from corollary.reproduce.workers import Job, Outcome, StorageError


def run(pool: Callable[..., Any], jobs: list[Job]) -> tuple[dict[str, Outcome], list[str]]:
    ended: list[str] = []
    with pool(
        2,
        on_start=lambda job: ended.append(f"start {job.name}"),
        on_end=lambda outcome: ended.append(f"end {outcome.job.name}"),
        on_tick=lambda running, waiting: None,
    ) as workers:
        return workers.run(jobs), ended


@pytest.fixture(autouse=True)
def no_process_is_left() -> Generator[None, None, None]:
    yield
    get_reusable_executor().shutdown(wait=True)  # joblib keeps its processes for the next call


def local(*arguments: Any, **callbacks: Any) -> JoblibWorkers:
    return JoblibWorkers(*arguments, **callbacks, backend="loky")


def job(name: str, call: Callable[..., Any], *arguments: Any, needs: tuple[str, ...] = ()) -> Job:
    return Job(name=name, label=f"job {name}", call=call, arguments=arguments, needs=needs)


def check_order_and_failures(pool: Callable[..., Any], folder: Path) -> None:
    first, second, never = (folder / name for name in ("first", "second", "never"))
    jobs = [
        job("second", shutil.copy, first, second, needs=("first",)),
        job("first", Path.write_text, first, "text"),
        job("bad", json.loads, "not JSON"),
        job("after bad", Path.touch, never, needs=("bad",)),
        job("process", os.getpid),
    ]
    outcomes, ended = run(pool, jobs)
    assert outcomes["first"].value == 4
    assert second.read_text() == "text"
    assert ended.index("end first") < ended.index("start second")
    assert outcomes["bad"].error == "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    assert outcomes["after bad"].error == f"job bad: {outcomes['bad'].error}"
    assert not outcomes["after bad"].started
    assert "start after bad" not in ended
    assert not never.exists()
    assert outcomes["process"].value != os.getpid()
    assert len(outcomes) == len(jobs)


def test_jobs_run_after_what_they_need_and_fail_alone(tmp_path: Path) -> None:
    check_order_and_failures(local, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_full_disk_ends_everything() -> None:
    with pytest.raises(StorageError, match="job full: OSError: No space left on device"):
        run(local, [job("full", Path.write_text, Path("/dev/full"), "text")])


def test_a_job_that_needs_nothing_known_is_refused() -> None:
    with pytest.raises(ValueError, match="job a needs a job that is not among those given"):
        run(local, [job("a", os.getpid, needs=("b",))])


@pytest.mark.filterwarnings("default")  # Ray's own
def test_ray_runs_the_same_jobs(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    try:
        check_order_and_failures(ray_pool(), tmp_path)
    finally:
        ray.shutdown()


@pytest.mark.parametrize(("asked", "seen"), [(None, "0"), ("1", "1")])
def test_ray_leaves_the_workers_their_environment_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, seen: str
) -> None:
    at_start: list[str | None] = []
    ray, joblib_hook = ModuleType("ray"), ModuleType("ray.util.joblib")
    ray.is_initialized = lambda: False
    ray.init = lambda **_: at_start.append(os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV"))
    joblib_hook.register_ray = lambda: None
    for name, module in {"ray": ray, "ray.util": ModuleType("ray.util"), "ray.util.joblib": joblib_hook}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", asked or "")
    if asked is None:
        monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV")
    ray_pool()
    assert at_start == [seen]
