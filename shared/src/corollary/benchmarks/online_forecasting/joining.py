"""Adding methods to a record, for those that take longer than everything else in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from corollary.benchmarks.method_rows import is_measured
from corollary.benchmarks.online_forecasting import rows

SAME = ("data", "backbone", "horizon", "lookback", "variates", "origins", "block", "seeds")
"""What two tables must agree in for a row of one to belong in the other."""

TOLERANCE = 1e-9
"""Relative difference of the baseline's errors up to which both measured the same thing."""


def join(recorded: Mapping[str, Any], content: Mapping[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    """The record with the rows that the methods have in a later measurement.

    The baseline runs in both. Its errors must be the recorded ones, seed by seed: then data, protocol and arithmetic
    are those of the record, and differences to the baseline mean the same in every row.

    Args:
        recorded: The record. Tables that the measurement lacks stay as they are.
        content: The measurement.
        methods: Whose rows to take.

    Returns:
        The record, with an entry in ``joined`` that says where the rows come from. Plots are those of the record.

    Raises:
        ValueError: Baseline or seeds differ, the baseline's errors do, or the methods have no figures to add.
    """
    if content["baseline"] != recorded["baseline"]:
        raise ValueError(f"the record's baseline is {recorded['baseline']}, got {content['baseline']}")
    measured = {rows.title(setting): setting for setting in content["settings"]}
    settings, tables = [], []
    for setting in recorded["settings"]:
        title = rows.title(setting)
        new = [row for row in _rows(measured.get(title)) if row["method"] in methods and is_measured(row)]
        if not new:
            settings.append(setting)
            continue
        _check_same(setting, measured[title], content["baseline"])
        added = {row["method"]: row for row in new}
        kept = [added.pop(row["method"], row) for row in setting["rows"]]
        settings.append({**setting, "rows": [*kept, *added.values()]})
        tables.append(title)
    if not tables:
        raise ValueError(f"{', '.join(methods)}: no figures for any table of the record")
    origin = ("date", "machine", "workers", "commit", "run_commits", "run_cpus", "versions", "budget")
    entry = {"methods": list(methods), "tables": tables, **{name: content[name] for name in origin}}
    about = {name: text for name, text in content["methods"].items() if name in methods}
    return {
        **recorded,
        "methods": {**recorded["methods"], **about},
        "settings": settings,
        "joined": [*recorded.get("joined", []), entry],
    }


def _rows(setting: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return setting["rows"] if setting is not None else ()


def _check_same(recorded: Mapping[str, Any], measured: Mapping[str, Any], baseline: str) -> None:
    title = rows.title(recorded)
    for name in SAME:
        if recorded[name] != measured[name]:
            raise ValueError(f"{title}: the record has {name} {recorded[name]}, got {measured[name]}")
    before, now = _errors(recorded, baseline), _errors(measured, baseline)
    if before is None or now is None:
        raise ValueError(f"{title}: {baseline} has no figures to compare with")
    for seed, error in before.items():
        if not abs(now[seed] - error) <= TOLERANCE * error:
            raise ValueError(
                f"{title}: {baseline} has MSE {error:.9g} in the record and {now[seed]:.9g} now (seed {seed}); rows "
                "of both would not be comparable, so record the whole suite again"
            )


def _errors(setting: Mapping[str, Any], baseline: str) -> dict[int, float] | None:
    """The baseline's error by seed; None without figures, or if they are not finite."""
    for row in setting["rows"]:
        if row["method"] == baseline and is_measured(row):
            errors = {entry["seed"]: entry["mse"] for entry in row["per_seed"]}
            return None if None in errors.values() else errors
    return None
