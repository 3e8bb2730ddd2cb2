"""The benchmark of the trainers runs, each trainer does the same work, and the figures fit together."""

import csv
import importlib
import importlib.util
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MODULES = ("trainer", "trainer_loops", "measuring")


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Generator[ModuleType, None, None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in MODULES:
        sys.modules.pop(name, None)
    yield importlib.import_module("trainer")
    for name in MODULES:
        sys.modules.pop(name, None)


def tiny(trainer: ModuleType):
    model = replace(trainer.PROBLEMS["small"].model, hidden_size=16, layers=1, heads=2, intermediate_size=24)
    return replace(trainer.PROBLEMS["small"], model=model, prompts=2, group=4, updates=2, warm=1, timed=2)


# The optimiser imports the compiler, whose own imports warn.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ours_are_timed_beside_a_bare_loop_and_what_is_missing_is_said(trainer, monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else found(name, *rest))
    monkeypatch.setitem(trainer.PROBLEMS, "small", tiny(trainer))
    monkeypatch.setattr(trainer, "BASE", "bare loop")
    monkeypatch.setattr(trainer, "DEFAULTS", "corollary")
    # What is compiled takes a minute to begin with, and is tested with the trainer.
    names = [name for name in trainer.TRAINERS if name != "corollary, all shortcuts"]
    records = trainer.measure(trainer.PROBLEMS["small"], names, 3, trainer.run)
    rows = {record["trainer"]: record for record in records}
    assert {name: row["note"] for name, row in rows.items() if row["note"]} == dict.fromkeys(
        ("trl", "trl, its defaults"), "trl is not installed"
    )
    assert rows["trl"]["steps_per_s"] == ""
    for name in names[2:]:
        row = {key: float(value) for key, value in rows[name].items() if key in trainer.FIGURES}
        assert row["steps_per_s_min"] <= row["steps_per_s"] <= row["steps_per_s_max"]
        base = float(rows["bare loop"]["steps_per_s"])
        assert row["ratio"] == pytest.approx(row["steps_per_s"] / base, rel=2e-3, abs=6e-3)
        assert row["ratio_min"] <= row["ratio_max"]
        comes = float(rows["corollary"]["steps_per_s"])
        assert row["ratio_to_defaults"] == pytest.approx(row["steps_per_s"] / comes, rel=2e-3, abs=6e-3)
    assert rows["corollary, two shortcuts"]["target"] == 4.0
    ours = rows["corollary"]
    phases = sum(float(ours[f"{phase}_ms"]) for phase in trainer.PHASES)
    assert 0 < phases < 1.05e3 / float(ours["steps_per_s_min"]) * 2, "two optimiser steps a rollout batch"
    assert (ours["target"], rows["bare loop"]["target"]) == (4.0, "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trainer_that_does_other_work_is_refused(trainer, monkeypatch):
    problem = tiny(trainer)
    half = lambda problem: trainer.TRAINERS["bare loop"](replace(problem, timed=1))  # noqa: E731
    monkeypatch.setitem(trainer.TRAINERS, "corollary", half)
    with pytest.raises(RuntimeError, match="took 2 optimiser steps and sampled 48 tokens, expected 4 and 96"):
        trainer.run("corollary", problem)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_processes_are_apart_and_the_csv_names_the_machine(trainer, monkeypatch, tmp_path):
    monkeypatch.setitem(trainer.PROBLEMS, "small", tiny(trainer))
    words = ["--problems", "small", "--trainers", "bare loop", "--runs", "1", "--csv", str(tmp_path / "t.csv")]
    monkeypatch.setattr(sys, "argv", ["trainer.py", *words])
    trainer.main()
    with (tmp_path / "t.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["trainer"], row["threads"], row["ratio"]) == ("bare loop", "1", "")
    assert row["hardware"]
    assert row["transformers"]


@pytest.mark.filterwarnings("ignore")
def test_trl_does_the_same_work(trainer):
    pytest.importorskip("trl")
    timing = trainer.run("trl", tiny(trainer))
    assert (timing.optimiser_steps, timing.completion_tokens) == (4, 2 * 8 * 6)
