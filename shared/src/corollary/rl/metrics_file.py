"""The file of metrics, which survives a kill at any moment."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from corollary.runs import write_atomically


class MetricsFile:
    """One JSON object a line, one line a step.

    Opening it keeps the first ``keep`` lines, those that the checkpoint knows of, and drops later ones, which a killed
    run wrote after its last checkpoint. With ``directory`` None nothing is written.
    """

    def __init__(self, directory: Path | None, name: str, *, keep: int) -> None:
        self._file = None
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / name
        lines = path.read_text().splitlines(keepends=True)[:keep] if path.exists() else []
        if len(lines) < keep:
            raise ValueError(f"{path} has {len(lines)} lines, but the checkpoint beside it is at step {keep}")
        write_atomically(path, "".join(lines))
        self._file = path.open("a")

    def append(self, row: Mapping[str, float]) -> None:
        """Add one step. JSON has no NaN or infinity: they become null, which `pandas` reads as NaN."""
        if self._file:
            finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Wait until the lines are on the disk; called before a checkpoint that counts on them."""
        if self._file:
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
