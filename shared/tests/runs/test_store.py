import errno
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from corollary.runs import Recipe, Run, RunDirectory, RunError, RunStore, commit_of, write_atomically


@dataclass(frozen=True)
class Counting(Recipe):
    """Counts to `steps` with a checkpoint after each; dies once at `crash_at` when the marker is there."""

    name: ClassVar[str] = "counting"
    version: ClassVar[int] = 1
    steps: int = 6

    def execute(self, seed: int, directory: RunDirectory) -> None:
        checkpoint = directory.path / "checkpoint.json"
        history = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
        attempts = directory.path / "attempts"
        attempts.write_text(attempts.read_text() + "x" if attempts.exists() else "x")
        while len(history) < self.steps:
            history.append((history[-1] if history else seed) * 31 % 101 + 1)
            write_atomically(checkpoint, json.dumps(history))
            directory.progress(len(history), self.steps)
            if len(history) == 3 and (directory.store.root / "crash").exists():
                (directory.store.root / "crash").unlink()
                raise KeyboardInterrupt
        write_atomically(directory.path / "result.json", json.dumps(history))


@dataclass(frozen=True)
class AfterCounting(Counting):
    name: ClassVar[str] = "after-counting"

    def requires(self, seed: int) -> tuple[Run, ...]:
        return (Run(Counting(), seed),)


def attempts(store: RunStore, run: Run) -> int:
    return len((store.path(run) / "attempts").read_text())


def test_complete_run_is_not_executed_again(tmp_path: Path) -> None:
    store, run = RunStore(tmp_path), Run(Counting(), 0)
    first = store.execute(run)
    assert store.execute(run) == first
    assert attempts(store, run) == 1
    assert store.open(run) == store.path(run)
    assert (first.key, first.recipe, first.seed, first.config) == (run.key, "counting", 0, {"steps": 6})


def test_required_run_is_executed_first(tmp_path: Path) -> None:
    store, run = RunStore(tmp_path), Run(AfterCounting(), 4)
    store.execute(run)
    assert store.is_complete(Run(Counting(), 4))


def test_interrupted_run_resumes_with_the_same_result(tmp_path: Path) -> None:
    whole, broken = RunStore(tmp_path / "whole"), RunStore(tmp_path / "broken")
    run = Run(Counting(), 7)
    whole.execute(run)
    broken.root.mkdir()
    (broken.root / "crash").touch()
    with pytest.raises(KeyboardInterrupt):
        broken.execute(run)
    assert not broken.is_complete(run)
    reached = broken.progress(run)
    assert reached is not None
    assert (reached.done, reached.total) == (3, 6)
    report = broken.path(run) / "progress.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "seconds": 1000.0}))
    assert 1000.0 <= broken.execute(run).seconds < 1100.0
    result = "result.json"
    assert (broken.path(run) / result).read_bytes() == (whole.path(run) / result).read_bytes()
    assert attempts(broken, run) == 2


@pytest.mark.parametrize("damage", ["", '{"key": "x"}', "[]", '{"key', "wrong key"])
def test_corrupt_record_is_moved_aside_and_the_run_executed_again(tmp_path: Path, damage: str) -> None:
    store, run = RunStore(tmp_path), Run(Counting(), 0)
    store.execute(run)
    done = store.path(run) / "done.json"
    if damage == "wrong key":
        damage = done.read_text().replace(run.key, "0" * 64)
    done.write_text(damage)
    assert not store.is_complete(run)
    with pytest.raises(RunError, match=r"done\.json is unreadable"):
        store.open(run)
    with pytest.warns(RuntimeWarning, match="counting, seed 0 is executed again"):
        store.execute(run)
    assert (store.path(run) / "done.json.unreadable").read_text() == damage
    assert attempts(store, run) == 2


def test_missing_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="counting, seed 0 is not in the store"):
        RunStore(tmp_path).open(Run(Counting(), 0))


def test_two_callers_train_one_run_once(tmp_path: Path) -> None:
    run = Run(Counting(steps=200), 0)
    stores = [RunStore(tmp_path) for _ in range(4)]
    threads = [threading.Thread(target=store.execute, args=(run,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert attempts(stores[0], run) == 1


def test_files_of_a_killed_process_are_swept_up(tmp_path: Path) -> None:
    store, run = RunStore(tmp_path), Run(Counting(), 0)
    store.execute(run)
    (store.path(run) / ".half.json.123-abc.tmp").touch()
    store.sweep(run)
    assert not list(store.path(run).glob(".*"))
    assert store.is_complete(run)


def test_lock_file_left_behind_does_not_block(tmp_path: Path) -> None:
    store, run = RunStore(tmp_path), Run(Counting(), 0)
    Path(f"{store.path(run)}.lock").write_text("12345")
    store.execute(run)
    assert store.is_complete(run)


def test_adopted_run_replaces_the_older_one(tmp_path: Path) -> None:
    store, fresh, run = RunStore(tmp_path), RunStore(tmp_path / "fresh"), Run(Counting(), 0)
    store.execute(run)
    (store.path(run) / "old").touch()
    with pytest.raises(RunError):
        store.adopt(run, fresh)
    assert (store.path(run) / "old").exists()
    fresh.execute(run)
    store.adopt(run, fresh)
    assert store.is_complete(run)
    assert not (store.path(run) / "old").exists()
    assert not fresh.is_complete(run)


def test_progress_is_throttled_and_ends_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[Path] = []
    monkeypatch.setattr(
        "corollary.runs.store.write_atomically", lambda path, content, durable=True: writes.append(path)
    )
    directory = RunDirectory(tmp_path, RunStore(tmp_path))
    for step in range(1, 10001):
        directory.progress(step, 10000)
    assert 2 <= len(writes) < 20


def test_store_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COROLLARY_RUNS", str(tmp_path / "here"))
    assert RunStore().root == tmp_path / "here"
    monkeypatch.delenv("COROLLARY_RUNS")
    assert RunStore().root.parts[-2:] == ("corollary", "runs")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    write_atomically(path, "old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_commit_is_none_outside_a_checkout(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
