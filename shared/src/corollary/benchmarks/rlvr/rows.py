"""The tables of a record as text: the same for the terminal and for the page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from corollary.benchmarks.method_rows import Row, is_measured, state
from corollary.benchmarks.rlvr.budgets import START
from corollary.benchmarks.rlvr.quantities import AT_EQUAL_REWARD, TRAJECTORY, entropy_at, pass_at
from corollary.reproduce.numbers import format_interval, format_number

SHOWN_ATTEMPTS = (1, 4, 16, 64)
"""The k of pass@k in the tables; the record has all powers of two."""


class Table(NamedTuple):
    """A title, a head and rows of text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(task: Mapping[str, Any], baseline: str) -> list[Table]:
    """What the trained policies can do, how that differs from the baseline, and how they got there."""
    return [scores(task), differences(task, baseline), training(task)]


def scores(task: Mapping[str, Any]) -> Table:
    """Held-out prompts: pass@k and distinct correct answers. All methods, also those without figures."""
    ks = [k for k in SHOWN_ATTEMPTS if k in task["attempts"]]
    names = [*map(pass_at, ks), "distinct"]
    head = ["method", *map(pass_at, ks), "distinct correct", "seeds"]
    rows = [
        [row["method"], *(_interval(row["mean"], name) for name in names), str(len(row["per_seed"]))]
        for row in _by_score(task)
    ]
    rest = [row for row in task["rows"] if not is_measured(row)]
    rows += [[row["method"], state(row), *[""] * (len(head) - 2)] for row in rest]
    return Table("Held-out prompts", head, rows)


def differences(task: Mapping[str, Any], baseline: str) -> Table:
    """The same minus the baseline's at equal seed, and the entropy that goes with it."""
    widest = pass_at(max(task["attempts"]))
    names = [pass_at(1), widest, "distinct", entropy_at(1), AT_EQUAL_REWARD, "steps"]
    head = ["method", pass_at(1), widest, "distinct correct", "final entropy", AT_EQUAL_REWARD, _steps_head(task)]
    rows = [
        [row["method"], *(_interval(row["difference"], name) for name in names)]
        for row in _by_score(task)
        if "difference" in row
    ]
    return Table(f"Minus {baseline}'s at equal seed", head, rows)


def training(task: Mapping[str, Any]) -> Table:
    """Entropy along the run, final reward, steps to the target, and time."""
    first, *others = TRAJECTORY
    shares = [entropy_at(first), *(f"{share:.0%}" for share in others)]
    head = ["method", *shares, "final reward", _steps_head(task), "s per step"]
    rows = [
        [
            row["method"],
            *(_mean(row["mean"], entropy_at(share)) for share in TRAJECTORY),
            _interval(row["mean"], "reward"),
            _reached(row["per_seed"]),
            _mean(row["mean"], "step_s", digits=2),
        ]
        for row in _by_score(task)
        if row["method"] != START
    ]
    return Table("Training", head, rows)


def idle(task: Mapping[str, Any], baseline: str) -> list[str]:
    """A line on the methods that trained exactly as the baseline did, if there are any: their rule changed nothing."""
    trained = {row["method"]: _results(row) for row in task["rows"] if is_measured(row)}
    same = [name for name, found in trained.items() if name != baseline and found == trained.get(baseline)]
    return [f"the same as {baseline} at every seed, since the rule changed nothing: {', '.join(same)}"] if same else []


def seeds(task: Mapping[str, Any]) -> str:
    """The seeds of a task in words."""
    first, last = task["seeds"][0], task["seeds"][-1]
    return f"seed {first}" if first == last else f"seeds {first} to {last}"


def _results(row: Row) -> list[dict[str, Any]]:
    """What the seeds of a method gave, without their names and times."""
    others = ("run", "run_s", "step_s")
    return [{name: value for name, value in entry.items() if name not in others} for entry in row["per_seed"]]


def _by_score(task: Mapping[str, Any]) -> list[Row]:
    """Measured methods, the most accurate first."""
    return sorted((row for row in task["rows"] if is_measured(row)), key=lambda row: -row["mean"][pass_at(1)]["mean"])


def _steps_head(task: Mapping[str, Any]) -> str:
    return f"steps to reward {format_number(task['target'])}"


def _reached(per_seed: Sequence[Mapping[str, Any]]) -> str:
    """Mean number of steps over seeds; where a seed never got there, how many did."""
    known = [entry["steps"] for entry in per_seed if entry["steps"] is not None]
    if len(known) < len(per_seed):
        return f"{len(known)} of {len(per_seed)} seeds"
    return format_number(sum(known) / len(known))


def _interval(quantities: Mapping[str, Any], name: str) -> str:
    value = quantities.get(name)
    if value is None:
        return ""
    low, high = (float("nan") if value[end] is None else value[end] for end in ("low", "high"))
    return format_interval(value["mean"], low, high)


def _mean(quantities: Mapping[str, Any], name: str, *, digits: int = 3) -> str:
    value = quantities.get(name)
    return "" if value is None else format_number(value["mean"], digits=digits)
