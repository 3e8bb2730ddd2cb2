"""TensorBoard and Weights & Biases as onlookers: the run's own files stay the truth, and nothing is read back."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from corollary.papers.matching import unknown
from corollary.runs import write_atomically

TRACKERS = ("tensorboard", "wandb")


class Tracker(Protocol):
    """Shown what the run's files hold."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of a step."""

    def close(self) -> None:
        """The run is over, or stopped."""


def make_tracker(name: str, folder: Path, settings: Mapping[str, Any], *, steps_done: int) -> Tracker:
    """The tracker of this name.

    Args:
        name: One of `TRACKERS`.
        folder: Of the run.
        settings: Shown beside the metrics.
        steps_done: Where the run goes on; later steps that a killed run has shown are dropped, if the tracker can.

    Raises:
        ValueError: there is no such tracker.
        ImportError: its extra is not installed.
    """
    if name not in TRACKERS:
        raise ValueError(unknown("tracker", name, TRACKERS))
    return TensorBoard(folder, steps_done) if name == "tensorboard" else WandB(folder, settings)


class TensorBoard:
    """Event files in the folder ``tensorboard`` of the run."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError('the tracker needs tensorboard: pip install "corollary[tensorboard]"') from error
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=steps_done + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar a metric."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


class WandB:
    """A run of the project ``corollary``, the same one when training goes on.

    Its server keeps what it was told first of a step that is trained again after a kill; the values are the same.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            import wandb  # ty: ignore[import-not-found]
        except ImportError as error:
            raise ImportError('the tracker needs wandb: pip install "corollary[wandb]"') from error
        kept = folder / "wandb-id.txt"
        if not kept.exists():
            write_atomically(kept, secrets.token_hex(8))
        self._run = wandb.init(
            project="corollary",
            name=folder.resolve().name,
            id=kept.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(folder),
            config=dict(settings),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One entry a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Send what is pending."""
        self._run.finish()
