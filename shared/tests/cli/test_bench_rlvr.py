"""`corollary bench rlvr`: usage, one small run from end to end, and a method that fails."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from corollary.cli import main
from corollary.reproduce.workers import Job, Outcome

WORDS = ["bench", "rlvr", "--budget", "smoke", "--workers", "2"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty present folder and run store."""
    monkeypatch.setenv("COROLLARY_RUNS", str(tmp_path / "runs"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def here(job: Job) -> Outcome:
    return Outcome(job=job, value=job.call(*job.arguments))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--methods grpo,clip-hihger", "unknown method 'clip-hihger'; did you mean 'clip-higher'?"),
        ("--baseline gpro", "unknown method 'gpro'; did you mean 'grpo'?"),
        ("--tasks digitsum", "unknown task 'digitsum'; did you mean 'digit-sum'"),
        ("--data ETTh1", "rlvr has no --data; beside methods and seeds it has --tasks"),
        ("--backbones tcn", "rlvr has no --backbones"),
        ("--horizons 24", "rlvr has no --horizons"),
        ("--seeds 0", "--seeds must be a whole number from 1 on, or auto, got '0'"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    work: Path, capsys: pytest.CaptureFixture[str], words: str, complaint: str
) -> None:
    assert main(["bench", "rlvr", *words.split()]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.startswith("corollary: ")
    assert error.count("\n") == 1
    assert not list(work.iterdir())


def test_a_smoke_run_from_end_to_end_and_again_from_the_store(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stand_in: Callable
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("corollary.cli.bench._pool", lambda executor: stand_in(here))
        assert main([*WORDS, "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "digit-sum  (2 steps, seed 0, 11 held-out prompts)" in out
    assert "Minus grpo's at equal seed" in out
    content = json.loads((work / "out" / "rlvr.json").read_text())
    (task,) = content["tasks"]
    rows = {row["method"]: row for row in task["rows"]}
    assert list(rows) == ["warm start", "grpo", "clip-higher"]
    # All methods start from one policy with the same samples, so their first batches are one.
    first = {row["per_seed"][0]["entropy 0%"] for name, row in rows.items() if name != "warm start"}
    assert len(first) == 1
    assert 0 < first.pop() < 2.64  # ln 14, the entropy of a uniform choice among the tokens
    assert all(0 <= row["mean"]["pass@1"]["mean"] <= row["mean"]["pass@4"]["mean"] <= 1 for row in rows.values())
    assert (work / "out" / "rlvr" / "digit-sum.png").stat().st_size > 10_000
    assert "| clip-higher |" in (work / "out" / "rlvr.md").read_text()

    assert main([*WORDS, "--out", "again"]) == 0
    assert "runs were already in the store" in capsys.readouterr().out
    assert json.loads((work / "again" / "rlvr.json").read_text())["tasks"] == content["tasks"]


def test_a_run_that_fails_is_named_and_its_method_has_no_figures(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stand_in: Callable
) -> None:
    def fail(job: Job) -> Outcome:
        return Outcome(job=job, error="TrainingError: no luck") if "clip-higher" in job.label else here(job)

    monkeypatch.setattr("corollary.cli.bench._pool", lambda executor: stand_in(fail))
    assert main([*WORDS, "--out", "out"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "corollary: clip-higher on digit-sum: seed 0: TrainingError: no luck\n"
    assert "clip-higher failed: seed 0: TrainingError: no luck" in captured.out
    rows = json.loads((work / "out" / "rlvr.json").read_text())["tasks"][0]["rows"]
    assert [("failed" in row, "mean" in row) for row in rows] == [(False, True), (False, True), (True, False)]


@pytest.mark.filterwarnings("default")  # Ray's own
def test_on_ray_the_figures_are_the_same(
    work: Path, monkeypatch: pytest.MonkeyPatch, stand_in: Callable, tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    try:
        assert main([*WORDS, "--executor", "ray", "--out", "far"]) == 0
    finally:
        ray.shutdown()
    monkeypatch.setenv("COROLLARY_RUNS", str(tmp_path / "other-runs"))
    monkeypatch.setattr("corollary.cli.bench._pool", lambda executor: stand_in(here))
    assert main([*WORDS, "--out", "near"]) == 0
    far, near = (json.loads((work / out / "rlvr.json").read_text())["tasks"][0]["rows"] for out in ("far", "near"))
    for one, other in zip(far, near, strict=True):
        for name in ("pass@1", "pass@4", "distinct"):
            assert one["mean"][name] == other["mean"][name]
