"""What a user sees while a reproduction works: live bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from corollary.papers import Verdict
from corollary.reproduce.numbers import format_bound, format_duration, format_measured, format_seconds
from corollary.reproduce.results import ClaimResult
from corollary.runs import Progress

PLAIN_INTERVAL_S = 15.0
BAR_WIDTH = 28
NOTE_WIDTH = 30

STYLES = {
    Verdict.REPRODUCED: "green",
    Verdict.DIRECTION_ONLY: "yellow",
    Verdict.NOT_REPRODUCED: "red",
    Verdict.NO_VERDICT: "cyan",
    Verdict.NOT_RUN: "dim",
}
MARKS = {
    Verdict.REPRODUCED: "+",
    Verdict.DIRECTION_ONLY: "~",
    Verdict.NOT_REPRODUCED: "x",
    Verdict.NO_VERDICT: "?",
    Verdict.NOT_RUN: "-",
}


class Display(Protocol):
    """Shows the state of a reproduction; used as a context around all work."""

    def __enter__(self) -> "Display": ...

    def __exit__(self, *_: object) -> None: ...

    def note(self, text: str) -> None:
        """One line that stays."""

    def claim(self, result: ClaimResult) -> None:
        """A claim has its verdict."""

    def started(self, label: str) -> None:
        """A run or measurement begins."""

    def ended(self, label: str, seconds: float | None, error: str | None) -> None:
        """A run or measurement is over."""

    def tick(
        self,
        running: Mapping[str, Progress | None],
        done: int,
        total: int,
        fraction: float,
        left_s: float | None,
    ) -> None:
        """The present state; called several times per second."""


def make_display(console: Console, *, width: int = 4) -> Display:
    """Live on a terminal; plain otherwise, so that logs and pipes stay readable.

    Args:
        console: Where it is shown.
        width: Length of the longest claim id.
    """
    live = console.is_terminal and not console.is_dumb_terminal
    return LiveDisplay(console, width) if live else PlainDisplay(console, width)


class PlainDisplay:
    """One line when something starts or ends, and one about the whole every fifteen seconds."""

    def __init__(self, console: Console, width: int = 4) -> None:
        self._console = console
        self._width = width
        self._said = time.monotonic()

    def __enter__(self) -> "PlainDisplay":
        self._said = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def claim(self, result: ClaimResult) -> None:
        """A claim has its verdict."""
        self._console.print(claim_line(result, self._width), soft_wrap=True)

    def started(self, label: str) -> None:
        """A run or measurement begins."""
        self.note(f"  start  {label}")

    def ended(self, label: str, seconds: float | None, error: str | None) -> None:
        """A run or measurement is over."""
        if error is not None:
            self.note(f"  failed {label}: {error}")
        else:
            self.note(f"  done   {label}" + (f"  ({format_duration(seconds)})" if seconds is not None else ""))

    def tick(
        self,
        running: Mapping[str, Progress | None],
        done: int,
        total: int,
        fraction: float,
        left_s: float | None,
    ) -> None:
        """The present state; a line every fifteen seconds."""
        if total == 0 or time.monotonic() - self._said < PLAIN_INTERVAL_S:
            return
        self._said = time.monotonic()
        self.note(f"  {done} of {total} runs done, {fraction:.0%} of the work{_left(left_s)}")


class LiveDisplay:
    """One bar per running run, and a last line about the whole; what is finished moves up and stays."""

    def __init__(self, console: Console, width: int = 4) -> None:
        self._console = console
        self._width = width
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._spinner = Spinner("dots", style="dim")

    def __enter__(self) -> "LiveDisplay":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(Text(""))
        self._live.stop()

    def note(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, highlight=False, markup=False)

    def claim(self, result: ClaimResult) -> None:
        """A claim has its verdict."""
        # Cut at the edge: only the label stands there, and the table at the end has it in full.
        self._console.print(claim_line(result, self._width), no_wrap=True, overflow="ellipsis", crop=True)

    def started(self, label: str) -> None:
        """A run or measurement begins; its bar appears with the next tick."""

    def ended(self, label: str, seconds: float | None, error: str | None) -> None:
        """A run or measurement is over; only a failure leaves a line."""
        if error is not None:
            self._console.print(f"[red]  failed[/red] {escape(label)}: {escape(error)}", highlight=False)

    def tick(
        self,
        running: Mapping[str, Progress | None],
        done: int,
        total: int,
        fraction: float,
        left_s: float | None,
    ) -> None:
        """The present state."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True, overflow="ellipsis", max_width=34)
        grid.add_column(no_wrap=True, width=BAR_WIDTH)
        grid.add_column(no_wrap=True, justify="right", min_width=9)
        grid.add_column(no_wrap=True, overflow="ellipsis", max_width=NOTE_WIDTH)
        for label, report in running.items():
            grid.add_row(*self._row(label, report))
        if total:
            grid.add_row(
                Text("all runs", style="bold"),
                ProgressBar(total=1.0, completed=fraction, width=BAR_WIDTH, complete_style="blue"),
                f"{done}/{total}",
                Text(_left(left_s).removeprefix(", "), style="bold"),
            )
        self._live.update(Group(Text(""), grid))

    def _row(self, label: str, report: Progress | None) -> tuple[RenderableType, RenderableType, str, Text]:
        if report is None or report.total <= 0:
            return (
                Text(label),
                self._spinner,
                "",
                Text("starting" if report is None else report.note, style="dim"),
            )
        bar = ProgressBar(total=report.total, completed=report.done, width=BAR_WIDTH, complete_style="green")
        return Text(label), bar, f"{report.done}/{report.total}", Text(report.note, style="dim")


def claim_line(result: ClaimResult, width: int = 4) -> Text:
    """A claim in one line, as it appears when its verdict is known; the id is padded to this width."""
    verdict = result.verdict
    text = Text("  ")
    text.append(f"{MARKS[verdict]} {result.claim:<{width}}", style=f"bold {STYLES[verdict]}")
    text.append(f"  {verdict.value:<14}", style=STYLES[verdict])
    if not result.findings:
        text.append(f"  {result.error or f'needs {result.needs}'}")
        return text
    # The gate that decides: of several, the first that has the claim's own verdict.
    first = next((item for item in result.findings if item.verdict is verdict), result.findings[0])
    bound = format_bound(first, result.level)
    text.append(f"{format_seconds(result.seconds):>6} s", style="dim")
    text.append(f"  {format_measured(first, result.level)}")
    text.append(f" ({bound})" if bound else "")
    text.append(f"  {first.label}", style="dim")
    if len(result.findings) > 1:
        text.append(f", and {len(result.findings) - 1} more", style="dim")
    return text


def _left(left_s: float | None) -> str:
    return "" if left_s is None else f", about {format_duration(left_s)} left"
