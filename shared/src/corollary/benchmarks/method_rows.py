"""What the rows of all suites have in common: each is of a method that was measured, failed or did not run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from corollary.reproduce.numbers import format_number

Row = Mapping[str, Any]
"""Of a record: ``method``, and either figures with ``per_seed``, or the reason as ``failed`` or ``not_run``."""


def is_measured(row: Row) -> bool:
    """Whether the row has figures."""
    return "per_seed" in row


def state(row: Row) -> str:
    """What a row without figures says in their place."""
    return "failed" if "failed" in row else "not run"


def remarks(rows: Iterable[Row]) -> list[str]:
    """Why methods have no figures, one line each."""
    return [
        f"{row['method']} {state(row)}: {row.get('failed', row.get('not_run'))}" for row in rows if not is_measured(row)
    ]


def options(rows: Iterable[Row]) -> list[str]:
    """Options that differ from a method's defaults, as `gd: rate 0.001`, one per method."""
    return [
        f"{row['method']}: {', '.join(f'{name} {_option(value)}' for name, value in row['options'].items())}"
        for row in rows
        if row.get("options")
    ]


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], console: Console) -> None:
    """A table on the terminal; its first column is text and its others are figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left", overflow="fold", no_wrap=i == 0)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def print_remarks(lines: Iterable[str], console: Console) -> None:
    """What to know beside the table."""
    for line in lines:
        console.print(Text(line, style="yellow"), soft_wrap=True)


def _option(value: object) -> str:
    return format_number(value) if isinstance(value, float) else str(value)
