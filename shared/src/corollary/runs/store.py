"""The store of runs: folders named by key, one lock each, complete when `done.json` is there."""

import contextlib
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from corollary.runs.environment import commit_of, describe_environment
from corollary.runs.files import TEMPORARIES, write_atomically
from corollary.runs.recipe import Run, canonical_config

DONE = "done.json"
PROGRESS = "progress.json"
PROGRESS_INTERVAL_S = 0.5
LOCK_POLL_S = 0.2


class RunError(RuntimeError):
    """A run is not in the store, or cannot be put there."""


def default_root() -> Path:
    """The folder of the store: the variable `COROLLARY_RUNS`, or `corollary/runs` in the user's cache."""
    named = os.environ.get("COROLLARY_RUNS")
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("corollary", appauthor=False)) / "runs"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What the store knows about a complete run."""

    key: str
    recipe: str
    version: int
    config: Mapping[str, object]
    seed: int
    seconds: float
    """Wall time of training, summed over interrupted attempts. Time lost with a killed process is counted up
    to its last progress report."""
    started: str
    finished: str
    environment: Mapping[str, object]

    def to_json(self) -> str:
        """JSON text, one field per line."""
        return json.dumps({item.name: getattr(self, item.name) for item in fields(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """Read a record back.

        Raises:
            ValueError: The text is no JSON object with exactly these fields.
        """
        content = json.loads(text)
        expected = {item.name for item in fields(cls)}
        if not isinstance(content, dict) or set(content) != expected:
            raise ValueError(f"expected the fields {sorted(expected)}")
        if not isinstance(content["key"], str) or not isinstance(content["seconds"], int | float):
            raise ValueError("key must be a string and seconds a number")
        return cls(**content)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, as it reports itself."""

    done: int
    total: int
    note: str = ""
    seconds: float = 0.0
    """Wall time of all attempts up to this report."""
    started: str = ""

    @property
    def fraction(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


@dataclass
class RunDirectory:
    """The folder in which a run works, with its progress report and the store that it came from."""

    path: Path
    store: "RunStore"
    _earlier_s: float = 0.0
    _started: str = ""
    _opened: float = field(default_factory=time.monotonic)
    _reported: float = float("-inf")
    _latest: tuple[int, int, str] = (0, 0, "")

    @property
    def seconds(self) -> float:
        """Wall time of all attempts so far."""
        return self._earlier_s + time.monotonic() - self._opened

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` steps are behind us.

        Cheap enough to call after every step: a report is written at most twice per second, and at the end.

        Args:
            done: Steps behind us, including those of earlier attempts.
            total: Steps of the whole run.
            note: A few words for the display, such as the current reward.
        """
        self._latest = (done, total, note)
        if done >= total or time.monotonic() - self._reported >= PROGRESS_INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        """Write the latest report now."""
        self._reported = time.monotonic()
        done, total, note = self._latest
        content = {
            "done": done,
            "total": total,
            "note": note,
            "seconds": self.seconds,
            "started": self._started,
        }
        write_atomically(self.path / PROGRESS, json.dumps(content), durable=False)


class RunStore:
    """Complete runs by key, in one folder that several processes may use at the same time.

    Args:
        root: The folder; `default_root()` if not given. It is created when the first run is executed.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()

    def __repr__(self) -> str:
        return f"RunStore({str(self.root)!r})"

    def path(self, run: Run) -> Path:
        """The folder of this run, whether it exists or not."""
        return self.root / f"{run.recipe.name}-{run.key[:20]}"

    def is_complete(self, run: Run) -> bool:
        """Whether the run is in the store with a readable record."""
        try:
            return self._read(run) is not None
        except ValueError:
            return False

    def record(self, run: Run) -> RunRecord:
        """The record of a complete run.

        Raises:
            RunError: The run is not complete, or its record cannot be read.
        """
        try:
            record = self._read(run)
        except ValueError as error:
            raise RunError(f"{self.path(run) / DONE} is unreadable: {error}") from error
        if record is None:
            raise RunError(f"{run.label} is not in the store {self.root}")
        return record

    def open(self, run: Run) -> Path:
        """The folder of a complete run.

        Raises:
            RunError: The run is not complete.
        """
        self.record(run)
        return self.path(run)

    def progress(self, run: Run) -> Progress | None:
        """The last report of a run that has begun, or `None`."""
        return _read_progress(self.path(run))

    def find(self, run: Run) -> RunRecord | None:
        """The record of the run if it is complete, otherwise `None`.

        A record that cannot be read is moved aside with a warning, unless another process is at work there.
        """
        try:
            return self._read(run)
        except ValueError:
            pass
        with contextlib.suppress(Timeout), self._lock(self.path(run), timeout_s=0):
            return self._readable(run)
        return None

    def sweep(self, run: Run) -> None:
        """Remove the temporary files of processes that were killed, unless one is at work there now."""
        path = self.path(run)
        if path.is_dir():
            with contextlib.suppress(Timeout), self._lock(path, timeout_s=0):
                _remove_temporaries(path)

    def execute(self, run: Run) -> RunRecord:
        """Complete the run, unless it is complete already, and return its record.

        A lock makes sure that two processes that ask for one run train it once: the second waits and finds it
        complete. The lock belongs to the operating system and ends with its process, however that ends.

        Raises:
            RunError: A required run cannot be completed.
            OSError: The store cannot be written.
        """
        with contextlib.suppress(ValueError):
            record = self._read(run)
            if record is not None:
                return record
        for required in run.requires():
            self.execute(required)
        path = self.path(run)
        path.mkdir(parents=True, exist_ok=True)
        with self._lock(path):
            record = self._readable(run)
            if record is not None:  # another process completed it while this one waited
                return record
            return self._train(run, path)

    def adopt(self, run: Run, other: "RunStore") -> None:
        """Move a complete run from another store on the same disk into this one, in place of an older one.

        Raises:
            RunError: The run is not complete in `other`.
        """
        source, target = other.open(run), self.path(run)
        self.root.mkdir(parents=True, exist_ok=True)
        with self._lock(target):
            replaced = target.with_name(f"{target.name}.replaced")
            shutil.rmtree(replaced, ignore_errors=True)
            if target.exists():
                os.replace(target, replaced)
            os.replace(source, target)
            shutil.rmtree(replaced, ignore_errors=True)

    def _train(self, run: Run, path: Path) -> RunRecord:
        _remove_temporaries(path)
        earlier = _read_progress(path)
        started = earlier.started if earlier is not None and earlier.started else _now()
        directory = RunDirectory(path, self, earlier.seconds if earlier is not None else 0.0, started)
        # Says at once that this attempt has begun, and keeps what the last one had reached.
        directory.progress(earlier.done if earlier else 0, earlier.total if earlier else 0)
        try:
            run.recipe.execute(run.seed, directory)
        except BaseException:
            with contextlib.suppress(OSError):  # the reason for stopping may be a full disk
                directory.flush()
            raise
        record = RunRecord(
            key=run.key,
            recipe=run.recipe.name,
            version=run.recipe.version,
            config=canonical_config(run.recipe),
            seed=run.seed,
            seconds=round(directory.seconds, 3),
            started=started,
            finished=_now(),
            environment={**describe_environment(), "commit": _commit(run)},
        )
        write_atomically(path / DONE, record.to_json())
        return record

    def _read(self, run: Run) -> RunRecord | None:
        try:
            text = (self.path(run) / DONE).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        record = RunRecord.from_json(text)
        if record.key != run.key:
            raise ValueError(f"expected the key {run.key}, got {record.key}")
        return record

    def _readable(self, run: Run) -> RunRecord | None:
        """The record; one that cannot be read is moved aside, so that the run is executed again."""
        try:
            return self._read(run)
        except ValueError as error:
            damaged = self.path(run) / DONE
            aside = _unused(damaged.with_name(f"{DONE}.unreadable"))
            os.replace(damaged, aside)
            warnings.warn(
                f"{damaged} is unreadable ({error}): moved to {aside.name}; {run.label} is executed again",
                RuntimeWarning,
                stacklevel=3,
            )
            return None

    def _lock(self, path: Path, *, timeout_s: float = -1) -> FileLock:
        # Beside the folder, not in it: the folder may be replaced while the lock is held.
        return FileLock(f"{path}.lock", timeout=timeout_s, poll_interval=LOCK_POLL_S)


def _read_progress(path: Path) -> Progress | None:
    try:
        content = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
        return Progress(
            done=int(content["done"]),
            total=int(content["total"]),
            note=str(content["note"]),
            seconds=float(content["seconds"]),
            started=str(content["started"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a progress file is a courtesy: nothing depends on it


def _commit(run: Run) -> str | None:
    """The commit of the checkout that the recipe's code came from."""
    source = getattr(sys.modules.get(type(run.recipe).__module__), "__file__", None)
    return commit_of(Path(source).parent) if source else None


def _remove_temporaries(path: Path) -> None:
    for temporary in path.rglob(TEMPORARIES):
        temporary.unlink(missing_ok=True)


def _unused(path: Path) -> Path:
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
