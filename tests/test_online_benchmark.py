"""The benchmark of online steps runs, and writes figures that fit together."""

import csv
import importlib
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Generator[ModuleType, None, None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("online", "measuring"):
        sys.modules.pop(name, None)
    yield importlib.import_module("online")
    for name in ("online", "measuring"):
        sys.modules.pop(name, None)


def run(online: ModuleType, monkeypatch: pytest.MonkeyPatch, target: Path) -> dict[tuple[str, str], dict[str, str]]:
    words = ["--methods", "gd", "frozen", "--backbones", "nlinear", "--rounds", "1", "--csv", str(target)]
    monkeypatch.setattr(sys, "argv", ["online.py", *words])
    online.main()
    with target.open(newline="") as file:
        return {(row["provider"], row["part"]): row for row in csv.DictReader(file)}


# The optimiser imports the compiler, whose own imports warn.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_step_is_timed_beside_a_bare_one(online, monkeypatch, tmp_path):
    rows = run(online, monkeypatch, tmp_path / "online.csv")
    assert set(rows) == {(name, part) for name in ("bare", "gd", "frozen") for part in ("update", "forecast", "step")}
    assert all(float(row["p20_ms"]) <= float(row["ms"]) <= float(row["p80_ms"]) for row in rows.values())
    bare, gd = float(rows["bare", "step"]["ms"]), float(rows["gd", "step"]["ms"])
    assert float(rows["gd", "step"]["ratio"]) == pytest.approx(gd / bare, abs=0.02)
    assert rows["gd", "step"]["target"] == "1.2"
    assert {row["threads"] for row in rows.values()} == {"1"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_method_that_cannot_be_built_is_listed_and_ends_nothing(online, monkeypatch, tmp_path):
    real = online.method_turn

    def refuse(name: str, *rest: object) -> object:
        if name == "gd":
            raise ValueError("does not fit")
        return real(name, *rest)

    monkeypatch.setattr(online, "method_turn", refuse)
    rows = run(online, monkeypatch, tmp_path / "online.csv")
    assert {name: row["note"] for (name, _), row in rows.items() if row["note"]} == {"gd": "ValueError: does not fit"}
    assert rows["gd", "step"]["ms"] == ""
    assert rows["frozen", "step"]["ms"] != ""
