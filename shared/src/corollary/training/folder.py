"""The folder of a run: which run it holds, and what may be written into it."""

import contextlib
import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corollary.reproduce.training import check_writable
from corollary.rl import Shortcuts
from corollary.runs import describe_environment, write_atomically
from corollary.runs.files import TEMPORARIES
from corollary.training.evaluation import Evaluation
from corollary.training.settings import MAY_GROW, Settings

if TYPE_CHECKING:
    from corollary.training.language_model import LanguageModel

SETTINGS = "run.json"
CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"
RESULT = "result.json"
MODEL = "model"


class RunFolder:
    """Files of one run.

    Args:
        path: The folder.
        settings: Of the run.
        found: What the settings led to and could change behind them: revision of the model, digests of the questions.
    """

    def __init__(self, path: Path, settings: Settings, found: Mapping[str, str]) -> None:
        self.path = path
        self.settings = settings
        self.identity = _flat(settings) | dict(found)

    def check(self) -> None:
        """See that the folder can be written and holds this run or none.

        Raises:
            OutputError: it cannot be written.
            ValueError: it holds another run, or files that say so are damaged or missing.
        """
        check_writable(self.path)
        for name in (METRICS, EVALUATIONS, "timings.jsonl", CHECKPOINT):
            if (self.path / name).is_dir():
                raise ValueError(f"{self.path / name} is a folder, where a file of the run must go")
        if not (self.path / SETTINGS).exists():
            if (self.path / CHECKPOINT).exists() or (self.path / METRICS).exists():
                raise ValueError(f"{self.path} holds a run without {SETTINGS}; choose another --out")
            return
        try:
            theirs = json.loads((self.path / SETTINGS).read_text(encoding="utf-8"))["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path / SETTINGS} cannot be read ({error}); choose another --out") from error
        theirs = dataclasses.asdict(Shortcuts()) | theirs  # a run from before there were any took none
        ours = json.loads(json.dumps(self.identity))
        different = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        different = [name for name in different if name not in MAY_GROW]
        if different:
            changes = "; ".join(f"{name} {theirs.get(name)} there, {ours.get(name)} here" for name in different[:3])
            raise ValueError(f"{self.path} holds another run ({changes}); choose another --out")

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Keep other processes out of the folder.

        Raises:
            ValueError: one is in it.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(f"another process is training in {self.path}") from None
        try:
            yield
        finally:
            lock.release()

    def begin(self) -> None:
        """Write what the run is, and remove what a killed process left half written."""
        for left in self.path.glob(TEMPORARIES):
            left.unlink(missing_ok=True)
        content = {"settings": self.identity, "environment": describe_environment()}
        write_atomically(self.path / SETTINGS, json.dumps(content, indent=2) + "\n")

    def evaluations(self, *, until: int) -> list[Evaluation]:
        """The evaluations at steps up to this one, in order.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.path / EVALUATIONS
        if not path.exists():
            return []
        try:
            found = [Evaluation(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error}); choose another --out") from error
        return [row for row in found if row.step <= until]

    def write_evaluations(self, rows: list[Evaluation]) -> None:
        """Replace them all in one step."""
        text = "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
        write_atomically(self.path / EVALUATIONS, text)

    def write_csv(self) -> None:
        """`metrics.csv` from `metrics.jsonl`; a value that is not finite is empty."""
        rows = [json.loads(line) for line in (self.path / METRICS).read_text(encoding="utf-8").splitlines()]
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["step", *names])
        for step, row in enumerate(rows, 1):
            writer.writerow([step, *("" if row.get(name) is None else row[name] for name in names)])
        write_atomically(self.path / "metrics.csv", text.getvalue())

    def save_model(self, trained: "LanguageModel") -> Path:
        """Write the model, and its tokenizer if it has one, so that `transformers` loads them from the folder."""
        partial, complete = self.path / f".{MODEL}.partial", self.path / MODEL
        shutil.rmtree(partial, ignore_errors=True)
        trained.model.save_pretrained(partial)
        if trained.tokenizer is not None:
            trained.tokenizer.save_pretrained(partial)
        # A folder cannot be replaced in one step; the checkpoint beside it has the weights if this is cut in two.
        shutil.rmtree(complete, ignore_errors=True)
        partial.rename(complete)
        return complete

    def write_result(self, result: Mapping[str, Any]) -> None:
        """The last file of a complete run."""
        write_atomically(self.path / RESULT, json.dumps(result, indent=2) + "\n")

    def finished_steps(self) -> int | None:
        """The steps of the run that was completed here; None if none was."""
        try:
            return int(json.loads((self.path / RESULT).read_text(encoding="utf-8"))["steps"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _flat(settings: Settings) -> dict[str, Any]:
    """All settings by name, those of training and the shortcuts among them."""
    found = dataclasses.asdict(settings)
    train, shortcuts = found.pop("train"), found.pop("shortcuts")
    return found | train | shortcuts
