"""Adding methods to a record, for those that take longer than everything else in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from corollary.benchmarks.method_rows import is_measured
from corollary.benchmarks.online_forecasting import rows
from corollary.benchmarks.online_forecasting.plan import OnlinePlan

SAME = ("lookback", "variates", "origins", "block", "seeds")
"""What two tables of one title must agree in for a row of one to belong in the other."""

TOLERANCE = 1e-9
"""Relative difference of errors up to which two runs computed the same thing."""

Record = Mapping[str, Any]


def check(recorded: Record, plan: OnlinePlan, methods: Sequence[str]) -> None:
    """Refuse what can be told before anything runs.

    Raises:
        ValueError: another baseline, a table that the record lacks or has with other seeds, or nothing to add.
    """
    if plan.baseline != recorded["baseline"]:
        raise ValueError(f"the record's baseline is {recorded['baseline']}, got {plan.baseline}")
    tables = {rows.title(setting): setting for setting in recorded["settings"]}
    wanted = False
    for cell in plan.cells:
        setting = cell.setting
        title = rows.title({"data": setting.data, "backbone": setting.backbone, "horizon": setting.horizon})
        if title not in tables:
            raise ValueError(f"the record has no table {title!r}; it has: {'; '.join(tables)}")
        if tables[title]["seeds"] != list(cell.seeds):
            raise ValueError(f"{title}: the record has seeds {tables[title]['seeds']}, got {list(cell.seeds)}")
        wanted |= bool(set(methods) & set(cell.recipes) - _measured(tables[title]))
    if not wanted:
        raise ValueError(f"{', '.join(methods)}: no table lacks figures that could be added")


def join(recorded: Record, content: Record, methods: Sequence[str]) -> dict[str, Any]:
    """The record with the rows that it lacks of these methods, from a later measurement.

    All other methods that both have measured must have the recorded errors, seed by seed, the baseline among them: then
    data, protocol and arithmetic of the two agree, and differences to the baseline mean the same in every row.

    Args:
        recorded: The record. What it has figures of stays as it is.
        content: The measurement.
        methods: Whose rows to add.

    Returns:
        The record, with an entry in ``joined`` that says which rows were added to which table, and where they come
        from. Plots are those of the record.

    Raises:
        ValueError: Baseline, seeds, sizes or errors differ, or there is nothing to add.
    """
    if content["baseline"] != recorded["baseline"]:
        raise ValueError(f"the record's baseline is {recorded['baseline']}, got {content['baseline']}")
    measured = {rows.title(setting): setting for setting in content["settings"]}
    settings: list[Record] = []
    added: dict[str, list[str]] = {}
    for setting in recorded["settings"]:
        title = rows.title(setting)
        new = {
            row["method"]: row
            for row in (measured[title]["rows"] if title in measured else ())
            if row["method"] in methods and is_measured(row) and row["method"] not in _measured(setting)
        }
        if not new:
            settings.append(setting)
            continue
        _check_same(setting, measured[title], recorded["baseline"], methods)
        added[title] = list(new)
        kept = [new.pop(row["method"], row) for row in setting["rows"]]
        settings.append({**setting, "rows": [*kept, *new.values()]})
    if not added:
        raise ValueError(f"{', '.join(methods)}: no figures that the record lacks")
    origin = ("date", "machine", "workers", "commit", "run_commits", "run_cpus", "versions", "budget")
    names = {name for of_table in added.values() for name in of_table}
    return {
        **recorded,
        "methods": {**recorded["methods"], **{name: content["methods"][name] for name in methods if name in names}},
        "settings": settings,
        "joined": [*recorded.get("joined", []), {"rows": added, **{name: content[name] for name in origin}}],
    }


def _measured(setting: Record) -> set[str]:
    return {row["method"] for row in setting["rows"] if is_measured(row)}


def _check_same(recorded: Record, measured: Record, baseline: str, methods: Sequence[str]) -> None:
    title = rows.title(recorded)
    for name in SAME:
        if recorded[name] != measured[name]:
            raise ValueError(f"{title}: the record has {name} {recorded[name]}, got {measured[name]}")
    before, now = _errors(recorded), _errors(measured)
    if baseline not in before or baseline not in now:
        raise ValueError(f"{title}: {baseline} has no figures to compare with")
    for method in before:
        if method in methods or method not in now:
            continue
        for seed, error in before[method].items():
            other = now[method][seed]
            if error != other and (error is None or other is None or abs(other - error) > TOLERANCE * error):
                raise ValueError(
                    f"{title}: {method} has MSE {_shown(error)} in the record and {_shown(other)} now (seed {seed}); "
                    "rows of both would not be comparable, so record the whole suite again"
                )


def _errors(setting: Record) -> dict[str, dict[int, float | None]]:
    """Errors by method and seed; None for one that is not finite."""
    return {
        row["method"]: {entry["seed"]: entry["mse"] for entry in row["per_seed"]}
        for row in setting["rows"]
        if is_measured(row)
    }


def _shown(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.9g}"
