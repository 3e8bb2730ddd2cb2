"""What a user sees of a run: a bar on a terminal, a line every fifteen seconds elsewhere."""

import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from corollary.reproduce.display import PLAIN_INTERVAL_S
from corollary.reproduce.numbers import format_duration
from corollary.training.evaluation import Evaluation


class Display(Protocol):
    """Shows the state of a run; used as a context around all work."""

    def __enter__(self) -> "Display": ...

    def __exit__(self, *_: object) -> None: ...

    def note(self, text: str) -> None:
        """One line that stays."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is done."""


def make_display(console: Console, *, done: int, total: int) -> Display:
    """Live on a terminal, plain otherwise."""
    live = console.is_terminal and not console.is_dumb_terminal
    return LiveDisplay(console, done, total) if live else PlainDisplay(console, done, total)


def step_text(metrics: Mapping[str, float]) -> str:
    """A step in short."""
    return (
        f"reward {metrics['reward/mean']:.3f}, mixed groups {metrics['reward/mixed_groups']:.0%}, "
        f"entropy {metrics['policy/entropy']:.2f}, length {metrics['completion/length']:.0f}"
    )


def evaluation_text(row: Evaluation) -> str:
    """An evaluation in one line."""
    interval = "" if row.low is None or row.high is None else f" [{row.low:.3f}, {row.high:.3f}]"
    more = f", pass@{row.samples} {row.pass_at_k:.3f}" if row.samples > 1 else ""
    return (
        f"step {row.step}: pass@1 {row.pass_at_1:.3f}{interval}{more} on {row.prompts} held-out prompts, "
        f"{row.cut_off:.0%} cut off, {row.length:.0f} tokens on average"
    )


class PlainDisplay:
    """Lines: the first step, one every fifteen seconds, and the last."""

    def __init__(self, console: Console, done: int, total: int) -> None:
        self._console = console
        self._first, self._total = done, total
        self._began = self._said = time.monotonic()

    def __enter__(self) -> "PlainDisplay":
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is done."""
        now = time.monotonic()
        if step not in (self._first + 1, self._total) and now - self._said < PLAIN_INTERVAL_S:
            return
        self._said = now
        left = (now - self._began) / (step - self._first) * (self._total - step)
        rest = f", about {format_duration(left)} left" if step < self._total else ""
        self.note(f"  step {step} of {self._total}: {step_text(metrics)}{rest}")


class LiveDisplay:
    """A bar with the last step's metrics beside it."""

    def __init__(self, console: Console, done: int, total: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.description}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=total, completed=done)

    def __enter__(self) -> "LiveDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, highlight=False, markup=False)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step is done."""
        self._progress.update(self._task, completed=step, description=step_text(metrics))
