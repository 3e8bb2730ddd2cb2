"""Adding methods to a record."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from corollary.benchmarks import NotRecorded, Selection, SelectionError, bench, find_suite
from corollary.benchmarks.online_forecasting.joining import check, join
from corollary.benchmarks.online_forecasting.plan import OnlinePlan
from corollary.benchmarks.records import write_record
from corollary.papers import Budget
from corollary.runs import RunStore

SUITE = find_suite("online-forecasting")


@pytest.fixture
def recorded(content: dict) -> dict:
    """A record in which `er` failed and `fsnet` did not run."""
    return content


@pytest.fixture
def later(recorded: dict) -> dict:
    """A later measurement in which `fsnet` has figures."""
    content = copy.deepcopy(recorded)
    content |= {"date": "2026-05-06T00:00:00+00:00", "commit": "fedcba9876543210", "plots": []}
    rows = content["settings"][0]["rows"]
    frozen = next(row for row in rows if row["method"] == "frozen")
    rows[-1] = {**copy.deepcopy(frozen), "method": "fsnet"}
    frozen["step_ms"] = 77.0
    del rows[2]  # er, which failed there as well
    content["methods"]["fsnet"] = "Slow and fast."
    return content


def rows_of(content: dict) -> dict[str, dict]:
    return {row["method"]: row for row in content["settings"][0]["rows"]}


def test_only_the_named_methods_are_taken_and_the_rest_is_untouched(recorded: dict, later: dict) -> None:
    before = copy.deepcopy(recorded)
    joined = join(recorded, later, ["fsnet"])
    assert recorded == before
    assert rows_of(joined)["fsnet"] == rows_of(later)["fsnet"]
    assert {name: row for name, row in rows_of(joined).items() if name != "fsnet"} == {
        name: row for name, row in rows_of(before).items() if name != "fsnet"
    }
    assert list(rows_of(joined)) == list(rows_of(before))
    (entry,) = joined["joined"]
    assert (entry["date"], entry["commit"]) == (later["date"], later["commit"])
    assert entry["rows"] == {"switching-levels, linear, H = 12": ["fsnet"]}
    assert joined["methods"]["fsnet"] == "Slow and fast."
    assert joined["plots"] == before["plots"]
    assert joined["commit"] == before["commit"]
    page = SUITE.page(joined)
    assert (
        "Added later: fsnet in switching-levels, linear, H = 12. Budget full; 2026-05-06; commit `fedcba9876`" in page
    )
    assert "| fsnet | 5.000 (1.414) |" in page


def test_only_methods_with_figures_are_named(recorded: dict, later: dict) -> None:
    later["methods"]["onenet"] = "One net."
    joined = join(recorded, later, ["onenet", "fsnet"])
    assert joined["joined"][0]["rows"] == {"switching-levels, linear, H = 12": ["fsnet"]}
    assert "onenet" not in joined["methods"]


def test_a_method_that_the_record_does_not_know_is_appended(recorded: dict, later: dict) -> None:
    rows_of(later)["fsnet"]["method"] = "mine"
    later["methods"]["mine"] = "Of mine."
    joined = join(recorded, later, ["mine"])
    assert list(rows_of(joined))[-1] == "mine"
    assert rows_of(joined)["fsnet"]["not_run"]


def test_what_the_record_has_figures_of_stays(recorded: dict, later: dict) -> None:
    once = copy.deepcopy(join(recorded, later, ["fsnet"]))
    rows_of(later)["fsnet"]["step_ms"] = 55.0
    with pytest.raises(ValueError, match="fsnet: no figures that the record lacks"):
        join(once, later, ["fsnet"])
    rows_of(later)["fsnet"]["method"] = "mine"
    later["methods"]["mine"] = "Of mine."
    twice = join(once, later, ["fsnet", "frozen", "mine"])
    assert rows_of(twice)["fsnet"] == rows_of(once)["fsnet"]
    assert rows_of(twice)["frozen"] == rows_of(recorded)["frozen"]
    assert [list(entry["rows"].values()) for entry in twice["joined"]] == [[["fsnet"]], [["mine"]]]


@pytest.mark.parametrize("method", ["gd", "frozen"])
def test_rows_join_only_where_the_others_have_their_recorded_errors(recorded: dict, later: dict, method: str) -> None:
    entry = rows_of(later)[method]["per_seed"][1]
    before = entry["mse"]
    entry["mse"] *= 1 + 1e-12
    join(recorded, later, ["fsnet"])
    entry["mse"] = before * (1 + 1e-6)
    with pytest.raises(
        ValueError, match=rf"{method} has MSE {before:g} in the record and {before:g}\.0+\d now \(seed 1\)"
    ):
        join(recorded, later, ["fsnet"])
    entry["mse"] = None
    with pytest.raises(ValueError, match="and not finite now"):
        join(recorded, later, ["fsnet"])
    rows_of(recorded)[method]["per_seed"][1]["mse"] = None
    join(recorded, later, ["fsnet"])


def test_without_the_baseline_nothing_is_compared(recorded: dict, later: dict) -> None:
    del rows_of(later)["gd"]["per_seed"]
    with pytest.raises(ValueError, match="gd has no figures to compare with"):
        join(recorded, later, ["fsnet"])


@pytest.mark.parametrize(
    ("name", "value"), [("seeds", [0]), ("origins", 3), ("block", 1), ("lookback", 9), ("variates", 2)]
)
def test_tables_of_another_shape_are_refused(recorded: dict, later: dict, name: str, value: object) -> None:
    later["settings"][0][name] = value
    with pytest.raises(ValueError, match=f"the record has {name} "):
        join(recorded, later, ["fsnet"])


def test_another_baseline_is_refused(recorded: dict, later: dict) -> None:
    later["baseline"] = "frozen"
    with pytest.raises(ValueError, match="the record's baseline is gd, got frozen"):
        join(recorded, later, ["fsnet"])


def test_what_a_plan_tells_is_refused_before_it_runs(recorded: dict, plan: OnlinePlan) -> None:
    (cell,) = plan.cells
    check(recorded, plan, ["er"])
    with pytest.raises(ValueError, match="the record's baseline is gd, got er"):
        check(recorded, replace(plan, baseline="er"), ["er"])
    with pytest.raises(ValueError, match=r"the record has seeds \[0, 1\], got \[0\]"):
        check(recorded, replace(plan, cells=(replace(cell, seeds=(0,)),)), ["er"])
    with pytest.raises(ValueError, match="frozen, fsnet: no table lacks figures that could be added"):
        check(recorded, plan, ["frozen", "fsnet"])  # one is recorded, the other does not fit
    recorded["settings"][0]["horizon"] = 999
    with pytest.raises(ValueError, match=r"the record has no table 'switching-levels, linear, H = 12'; it has: .*999"):
        check(recorded, plan, ["er"])


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.uv.workspace]\nmembers = []\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def measured_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict], None]:
    """Nothing is planned or trained; the measurement is given."""

    def given(content: dict) -> None:
        monkeypatch.setattr(
            type(SUITE), "plan", lambda self, selection: OnlinePlan(baseline="gd", cells=(), not_run={})
        )
        monkeypatch.setattr(type(SUITE), "check_join", lambda *_: None)
        monkeypatch.setattr(type(SUITE), "measure", lambda self, *_: content)

    return given


def test_the_command_writes_the_joined_record_or_leaves_it_alone(
    checkout: Path, recorded: dict, later: dict, store: RunStore, measured_as: Callable[[dict], None]
) -> None:
    path = checkout / "docs" / "benchmarks" / "online-forecasting.json"
    path.parent.mkdir(parents=True)
    write_record(recorded, path)
    selection = Selection(budget=Budget.FULL, methods=("fsnet",))
    measured_as(later)
    bench(SUITE, selection, store=store, join=True)
    assert list(json.loads(path.read_text())["joined"][0]["rows"].values()) == [["fsnet"]]

    write_record(recorded, path)
    text = path.read_text()
    rows_of(later)["gd"]["per_seed"][0]["mse"] += 1.0
    with pytest.raises(NotRecorded, match=r"the record stays as it is: .*record the whole suite again"):
        bench(SUITE, selection, store=store, join=True)
    assert path.read_text() == text


def test_what_cannot_be_joined_is_refused_before_anything_runs(
    checkout: Path, recorded: dict, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(SUITE), "plan", lambda *_: pytest.fail("planned"))
    full = Selection(budget=Budget.FULL, methods=("fsnet",))
    with pytest.raises(SelectionError, match=r"online-forecasting\.json is no benchmark record"):
        bench(SUITE, full, store=store, join=True)
    path = checkout / "docs" / "benchmarks" / "online-forecasting.json"
    path.parent.mkdir(parents=True)
    damaged = {name: value for name, value in recorded.items() if name != "settings"}
    write_record(damaged, path)
    with pytest.raises(SelectionError, match=r"online-forecasting\.json is no benchmark record: KeyError: 'settings'"):
        bench(SUITE, full, store=store, join=True)
    write_record(recorded, path)
    for selection, suite, record, reason in (
        (Selection(methods=("fsnet",)), SUITE, False, "the record is of budget full, got quick"),
        (Selection(budget=Budget.FULL), SUITE, False, "--join needs --methods"),
        (full, SUITE, True, "give one of --record and --join"),
        (full, find_suite("rlvr"), False, "rlvr is only recorded whole"),
    ):
        with pytest.raises(SelectionError, match=reason):
            bench(suite, selection, store=store, join=True, record=record)


def test_a_plan_that_does_not_fit_is_bad_usage(
    checkout: Path, recorded: dict, plan: OnlinePlan, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkout / "docs" / "benchmarks" / "online-forecasting.json"
    path.parent.mkdir(parents=True)
    write_record(recorded, path)
    monkeypatch.setattr(type(SUITE), "plan", lambda *_: plan)
    with pytest.raises(SelectionError, match="frozen: no table lacks figures that could be added"):
        bench(SUITE, Selection(budget=Budget.FULL, methods=("frozen",)), store=store, join=True)
