"""The tables of a record as text: one list of rows for the terminal and for the page."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

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
    measured = [row for row in setting["rows"] if "per_seed" in row]
    measured.sort(key=lambda row: (row["mse"] is None, row["mse"] or 0.0))
    rest = [row for row in setting["rows"] if "per_seed" not in row]
    return [_row(row, baseline) for row in measured] + [
        [row["method"], "failed" if "failed" in row else "not run", "", "", "", ""] for row in rest
    ]


def remarks(setting: Mapping[str, Any]) -> list[str]:
    """Why methods of a table have no figures, one line each."""
    return [
        f"{row['method']} {'failed' if 'failed' in row else 'not run'}: {row.get('failed', row.get('not_run'))}"
        for row in setting["rows"]
        if "per_seed" not in row
    ]


def options(setting: Mapping[str, Any]) -> list[str]:
    """Options that differ from a method's defaults, as `gd: rate 0.001`, one per method."""
    return [
        f"{row['method']}: {', '.join(f'{name} {_option(value)}' for name, value in row['options'].items())}"
        for row in setting["rows"]
        if row.get("options")
    ]


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


def _option(value: object) -> str:
    return format_number(value) if isinstance(value, float) else str(value)
