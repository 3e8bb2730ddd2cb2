"""The tables of a record as text: one list of rows for the terminal and for the page."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from corollary.benchmarks.method_rows import is_measured, state
from corollary.reproduce.numbers import format_interval, format_number

COLUMNS = ("method", "MSE", "MAE", "MSE minus {baseline}'s [95 %]", "ms per step", "seeds")


def columns(content: Mapping[str, Any]) -> list[str]:
    """The head of every table."""
    return [name.format(baseline=content["baseline"]) for name in COLUMNS]


def title(setting: Mapping[str, Any]) -> str:
    """What a table is about."""
    return f"{setting['data']}, {setting['backbone']}, H = {setting['horizon']}"


def stem(setting: Mapping[str, Any]) -> str:
    """The name of the setting's plot, without ending."""
    return f"{setting['data']}-{setting['backbone']}-{setting['horizon']}".lower()


def rows(setting: Mapping[str, Any], baseline: str) -> list[list[str]]:
    """Measured methods by error, best first; then those that diverged, failed or did not run, without figures."""
    measured = [row for row in setting["rows"] if is_measured(row)]
    measured.sort(key=lambda row: (row["mse"] is None, row["mse"] or 0.0))
    rest = [row for row in setting["rows"] if not is_measured(row)]
    return [_row(row, baseline) for row in measured] + [[row["method"], state(row), "", "", "", ""] for row in rest]


def _row(row: Mapping[str, Any], baseline: str) -> list[str]:
    seeds = row["per_seed"]
    errors = [_spread(entry[name] for entry in seeds) for name in ("mse", "mae")]
    difference = row.get("difference")
    if row["method"] == baseline:
        compared = "baseline"
    elif difference is None:
        compared = ""
    else:
        low, high = (float("nan") if difference[end] is None else difference[end] for end in ("low", "high"))
        compared = format_interval(difference["mean"], low, high)
    return [row["method"], *errors, compared, format_number(row["step_ms"], digits=2), str(len(seeds))]


def _spread(values: Iterable[float | None]) -> str:
    numbers = list(values)
    known = [value for value in numbers if value is not None]
    if len(known) < len(numbers):
        return f"diverged in {len(numbers) - len(known)} of {len(numbers)} seeds"
    mean = f"{statistics.fmean(known):.3f}"
    return f"{mean} ({statistics.stdev(known):.3f})" if len(known) > 1 else mean
