"""`corollary bench`: usage, one small run from end to end, interruption and failure."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from corollary.benchmarks.online_forecasting import plan as planning
from corollary.cli import main
from corollary.data import DataUnavailable
from corollary.forecasting import SYNTHETIC_SETTING
from corollary.reproduce.workers import Job, Outcome

WORDS = ["bench", "online-forecasting", "--budget", "smoke", "--methods", "gd", "--workers", "2"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty present folder and run store, one epoch of pre-training, and no data set at all."""
    monkeypatch.setenv("COROLLARY_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(
        planning, "SYNTHETIC_SETTING", replace(SYNTHETIC_SETTING, fit=replace(SYNTHETIC_SETTING.fit, epochs=1))
    )

    def unavailable(name: str) -> None:
        raise DataUnavailable(f"{name} is on the moon")

    monkeypatch.setattr(planning, "fetch", unavailable)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("bench", "SUITE"),
        ("bench online-forcasting", "unknown suite 'online-forcasting'; did you mean 'online-forecasting'?"),
        ("bench online-forecasting --methods frozen,gdd", "unknown online method 'gdd'; did you mean 'gd'?"),
        ("bench online-forecasting --baseline nil", "unknown online method 'nil'"),
        ("bench online-forecasting --data ETTh3", "unknown data set 'ETTh3'; did you mean"),
        ("bench online-forecasting --backbones tnc", "unknown backbone 'tnc'; did you mean 'tcn'?"),
        ("bench online-forecasting --tasks digit-sum", "online-forecasting has no --tasks"),
        ("bench online-forecasting --horizons 24,x", "--horizons must be whole numbers from 1 on, got 'x'"),
        ("bench online-forecasting --seeds 0", "--seeds must be a whole number from 1 on, or auto, got '0'"),
        ("bench online-forecasting --budget qick", "unknown budget 'qick'; did you mean 'quick'?"),
        ("bench online-forecasting --workers two", "--workers must be a whole number from 1 on, or auto, got 'two'"),
        ("bench online-forecasting --executor rai", "unknown executor 'rai'; did you mean 'ray'?"),
        ("bench online-forecasting --record --budget smoke", "budget smoke shows that everything is wired up"),
        ("bench online-forecasting --record", "is not inside a checkout of Corollary"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    work: Path, capsys: pytest.CaptureFixture[str], words: str, complaint: str
) -> None:
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.startswith("corollary: ")
    assert captured.err.count("\n") == 1
    assert not list(work.iterdir())


def test_without_ray_the_message_names_the_extra(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*WORDS, "--executor", "ray"]) == 2
    assert "pip install 'corollary[ray]'" in capsys.readouterr().err


def test_a_damaged_file_is_refused_and_a_missing_one_is_not(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from corollary.data import CorruptFileError

    def damaged(name: str) -> None:
        raise CorruptFileError(f"{name}.csv: expected SHA-256 a, got b")

    monkeypatch.setattr(planning, "fetch", damaged)
    assert main([*WORDS, "--data", "ETTh2"]) == 2
    assert capsys.readouterr().err == "corollary: ETTh2.csv: expected SHA-256 a, got b\n"


def test_a_smoke_run_from_end_to_end_and_again_from_the_store(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stand_in: Callable
) -> None:
    def here(job: Job) -> Outcome:
        return Outcome(job=job, value=job.call(*job.arguments))

    with monkeypatch.context() as patched:
        patched.setattr("corollary.cli.bench._pool", lambda executor: stand_in(here))
        assert main([*WORDS, "--data", "ETTh2", "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "switching-levels, linear, H = 12" in out
    assert "ETTh2 not run: ETTh2 is on the moon" in out
    content = json.loads((work / "out" / "online-forecasting.json").read_text())
    (setting,) = content["settings"]
    measured = {row["method"]: row for row in setting["rows"]}
    assert {"persistence", "seasonal-naive", "ridge", "frozen", "gd"} == set(measured)
    assert all(0.1 < row["mse"] < 2.0 for row in measured.values())
    assert measured["gd"]["mse"] < measured["persistence"]["mse"]
    assert measured["persistence"]["difference"]["low"] > 0
    assert content["plots"] == ["switching-levels-linear-12.png"]
    assert (work / "out" / "online-forecasting" / "switching-levels-linear-12.png").stat().st_size > 10_000
    assert "| gd |" in (work / "out" / "online-forecasting.md").read_text()

    assert main([*WORDS, "--out", "again"]) == 0
    assert "runs were already in the store" in capsys.readouterr().out
    again = json.loads((work / "again" / "online-forecasting.json").read_text())
    assert again["settings"] == content["settings"]


def test_ctrl_c_gives_status_130_and_says_that_the_command_goes_on(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stand_in: Callable
) -> None:
    def interrupt(job: Job) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr("corollary.cli.bench._pool", lambda executor: stand_in(interrupt))
    assert main(WORDS) == 130
    error = capsys.readouterr().err
    assert error.startswith("corollary: stopped; 0 of ")
    assert "the same command goes on where this one stopped" in error


def test_a_run_that_fails_gives_status_1_and_is_never_recorded(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stand_in: Callable
) -> None:
    def fail(job: Job) -> Outcome:
        return Outcome(job=job, error="RuntimeError: no luck")

    monkeypatch.setattr("corollary.cli.bench._pool", lambda executor: stand_in(fail))
    assert main([*WORDS, "--out", "out"]) == 1
    assert "gd on switching-levels, linear, H = 12: RuntimeError: no luck" in capsys.readouterr().err
    assert json.loads((work / "out" / "online-forecasting.json").read_text())["plots"] == []
    (work / "pyproject.toml").write_text("[tool.uv.workspace]\nmembers = []\n")
    words = ["quick" if word == "smoke" else word for word in WORDS]
    assert main([*words, "--seeds", "1", "--record"]) == 1
    assert "nothing is recorded, since a run failed: " in capsys.readouterr().err
    assert not list((work / "docs").rglob("*.json"))
