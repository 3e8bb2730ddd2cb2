"""The benchmark of online steps runs, and writes figures that fit together."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "online.py"


def test_a_step_is_timed_beside_a_bare_one(tmp_path):
    target = tmp_path / "online.csv"
    command = [sys.executable, str(SCRIPT), "--methods", "gd", "frozen", "--backbones", "nlinear"]
    done = subprocess.run(
        [*command, "--rounds", "1", "--csv", str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with target.open(newline="") as file:
        rows = {(row["provider"], row["part"]): row for row in csv.DictReader(file)}
    assert set(rows) == {(name, part) for name in ("bare", "gd", "frozen") for part in ("update", "forecast", "step")}
    assert all(float(row["p20_ms"]) <= float(row["ms"]) <= float(row["p80_ms"]) for row in rows.values())
    bare, gd = float(rows["bare", "step"]["ms"]), float(rows["gd", "step"]["ms"])
    assert float(rows["gd", "step"]["ratio"]) == pytest.approx(gd / bare, abs=0.02)
    assert rows["gd", "step"]["target"] == "1.2"
    assert {row["threads"] for row in rows.values()} == {"1"}


def test_a_method_that_cannot_be_built_is_listed_and_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    for name in ("online", "measuring"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import online
    from measuring import Clock

    def refuse(*_: object) -> None:
        raise ValueError("does not fit")

    monkeypatch.setattr(online, "method_turn", refuse)
    records = online.measure("nlinear", ["gd"], 1, Clock("cpu"))
    assert {row["provider"]: row["note"] for row in records} == {"bare": "", "gd": "ValueError: does not fit"}
    assert not any(row["ms"] for row in records if row["provider"] == "gd")
    for name in ("online", "measuring"):
        sys.modules.pop(name, None)
