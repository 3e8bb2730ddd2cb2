"""Checkpoints and metric files that survive a kill at any moment."""

import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from corollary.runs import write_atomically


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` so that ``path`` holds either all of it or what was there before."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote.

    Raises:
        ValueError: the file is no checkpoint of ours.
    """
    try:
        # The generator's state must stay on the CPU; the model's tensors go where the model is.
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); delete it to start over"
        ) from error


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
