import errno
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from corollary.papers import Budget, Claim, Gate, Level, Paper, PlotInputs, Verdict, paper
from corollary.reproduce import (
    ClaimResult,
    Interrupted,
    OutputError,
    PlotError,
    exit_status,
    read_results,
    reproduce,
    write_result,
)
from corollary.runs import RunStore

Measure = Callable[[Any], dict[str, Any]]


class Reproducing:
    """Calls `reproduce` on the toy paper, or a changed one, and keeps what it prints."""

    def __init__(self, toy: Path) -> None:
        self.store = RunStore(toy.parent / "runs")
        self.out = toy / "reproductions"
        self.paper: Paper = paper("toy-paper")
        self.printed = ""

    def __call__(self, *claims: str, **options: Any) -> dict[str, ClaimResult]:
        stream = io.StringIO()
        options = {"store": self.store, "workers": 2, "console": Console(file=stream, width=100), **options}
        try:
            return {result.claim: result for result in reproduce(self.paper, claim_ids=claims, **options)}
        finally:
            self.printed = stream.getvalue()

    def with_measure(self, measure: Measure, **changes: Any) -> None:
        self.paper = replace(self.paper, claims=(replace(self.paper.claim("C1"), measure=measure, **changes),))


@pytest.fixture
def run(toy: Path) -> Reproducing:
    return Reproducing(toy)


def attempts(store: RunStore) -> int:
    return sum(len(file.read_text().split()) for file in store.root.glob("toy-count-*/attempts"))


def without_times(result: ClaimResult) -> dict[str, Any]:
    content = json.loads(result.to_json())
    return {name: value for name, value in content.items() if name not in ("date", "seconds")}


def test_whole_paper_and_again_from_the_store(run: Reproducing) -> None:
    first = run(budget=Budget.FULL)
    verdicts = {name: result.verdict for name, result in first.items()}
    assert verdicts == {**dict.fromkeys(["C1", "C2", "C3", "C4"], Verdict.REPRODUCED), "C5": Verdict.NOT_RUN}
    assert list(first) == ["C1", "C2", "C3", "C4", "C5"]
    assert exit_status(list(first.values())) == 0
    assert attempts(run.store) == 10  # two recipes on five seeds; C3 and C4 share half of them
    assert "15 runs to train, 2 at a time" in run.printed
    assert first["C4"].seconds >= sum(
        json.loads(file.read_text())["seconds"] for file in run.store.root.glob("toy-base-*/done.json")
    )
    folder = run.out / "toy-paper"
    assert {name: result.to_json() for name, result in read_results(folder, paper="toy-paper").items()} == {
        name: result.to_json() for name, result in first.items()
    }
    assert (folder / "counts.png").read_bytes() == b"PNG C1,C2,C3,C4"
    assert not list(folder.glob(".*"))

    second = run(budget=Budget.FULL, workers=1)
    assert attempts(run.store) == 10
    assert "10 of 10 runs were already in the store" in run.printed
    assert {name: without_times(result) for name, result in second.items()} == {
        name: without_times(result) for name, result in first.items()
    }


def test_result_names_no_host_user_or_folder(run: Reproducing) -> None:
    text = run("C1")["C1"].to_json()
    assert str(run.out) not in text
    assert os.uname().nodename not in text
    assert "/" not in json.dumps(json.loads(text)["machine"])


def test_failing_run_leaves_the_other_claims(run: Reproducing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_FAIL", "5")
    results = run("C3", "C4", budget=Budget.SMOKE)
    assert results["C3"].verdict is Verdict.NOT_RUN
    assert results["C3"].error == "count by 5, seed 0: RuntimeError: cannot count by 5 at all"
    assert results["C4"].verdict is Verdict.NO_VERDICT
    assert exit_status(list(results.values())) == 1
    assert "Traceback" not in run.printed
    assert "noise of a worker" not in run.printed


def test_fresh_trains_again_and_replaces(run: Reproducing) -> None:
    first = run("C4", budget=Budget.SMOKE)
    (marked,) = (path for path in run.store.root.glob("toy-count-*") if path.is_dir())
    (marked / "mark").touch()
    again = run("C4", budget=Budget.SMOKE, fresh=True)
    assert without_times(again["C4"]) == without_times(first["C4"])
    assert not (marked / "mark").exists()
    assert (marked / "done.json").exists()
    assert not list((run.store.root / "fresh").glob("*/done.json"))


@pytest.mark.parametrize(
    ("measure", "error"),
    [
        (lambda m: {}, "ValueError: measure must return error, got nothing"),
        (lambda m: {"eror": 1.0}, "ValueError: measure must return error, got eror"),
        (lambda m: {"error": "low"}, "TypeError: error must be a number, got str"),
        (lambda m: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_claim_that_cannot_be_measured_is_not_run(run: Reproducing, measure: Measure, error: str) -> None:
    run.with_measure(measure)
    results = run()
    assert results["C1"].verdict is Verdict.NOT_RUN
    assert results["C1"].error == error
    assert exit_status(list(results.values())) == 1


def test_flipped_gate_turns_the_claim_red(run: Reproducing) -> None:
    run.with_measure(lambda m: {"error": 1e-15})
    assert run()["C1"].verdict is Verdict.REPRODUCED
    run.with_measure(lambda m: {"error": 1e-15}, gates=(Gate("error", "largest error", above=1e-12),))
    results = run()
    assert results["C1"].verdict is Verdict.NOT_REPRODUCED
    assert exit_status(list(results.values())) == 1


def test_exact_claim_that_fails_decides_the_exit_status(run: Reproducing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_EXACT", "wrong")
    results = run("C1")
    assert exit_status(list(results.values())) == 1


def test_scaled_claim_that_fails_does_not(run: Reproducing) -> None:
    result = replace(run("C1")["C1"], level=Level.SCALED, verdict=Verdict.NOT_REPRODUCED)
    assert exit_status([result]) == 0


def test_smoke_gives_no_verdict(run: Reproducing) -> None:
    assert {result.verdict for result in run("C1", "C2", budget=Budget.SMOKE).values()} == {Verdict.NO_VERDICT}


def test_claim_whose_runs_cannot_be_named_is_not_run(run: Reproducing) -> None:
    def runs(budget: Budget, seed: int) -> Any:
        raise LookupError("no such model")

    run.paper = replace(run.paper, claims=(replace(run.paper.claim("C3"), runs=runs), run.paper.claim("C1")))
    results = run()
    assert results["C3"].error == "LookupError: no such model"
    assert results["C1"].verdict is Verdict.REPRODUCED


def test_failing_plots_lose_no_results(run: Reproducing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_PLOTS", "raise")
    with pytest.raises(PlotError, match=r"^the plots of toy-paper failed: RuntimeError: no ink$") as caught:
        run("C1")
    assert [result.claim for result in caught.value.results] == ["C1"]
    assert read_results(run.out / "toy-paper", paper="toy-paper")["C1"].verdict is Verdict.REPRODUCED
    assert "1 claim: 1 reproduced" in run.printed


def test_folder_that_cannot_be_written_is_refused_before_anything_runs(run: Reproducing) -> None:
    run.with_measure(lambda m: pytest.fail("measured"))
    run.out.write_text("a file in place of the folder")
    with pytest.raises(OutputError, match=r"cannot write to the folder reproductions/toy-paper: "):
        run()
    with pytest.raises(OutputError, match=r"cannot write to the folder /proc/none/toy-paper: "):
        run(out=Path("/proc/none"))


def test_full_disk_names_the_file_and_keeps_the_runs(run: Reproducing, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(result: ClaimResult, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("corollary.reproduce.execution.write_result", full)
    with pytest.raises(OutputError, match=r"cannot write reproductions/toy-paper/C4\.json: No space left on device"):
        run("C4", budget=Budget.SMOKE)
    assert len(list(run.store.root.glob("toy-count-*/done.json"))) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"claim_ids": ("C9",)}, "unknown claim of toy-paper 'C9'"),
        ({"claim_ids": ("C1",), "levels": (Level.SCALED,)}, "toy-paper has no such claim of level scaled"),
        ({"workers": 0}, "workers must be 1 or more, got 0"),
        ({"record": True, "budget": Budget.SMOKE}, "budget smoke gives no verdict and cannot be recorded"),
    ],
)
def test_bad_request_is_refused(run: Reproducing, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reproduce(run.paper, store=run.store, **options)


def test_recording_goes_to_the_checkout_and_keeps_the_rest(run: Reproducing, toy_checkout: Path) -> None:
    folder = toy_checkout / "packages" / "toy-paper" / "results"
    older = replace(run("C2")["C2"], date="2020-01-01T00:00:00+00:00")
    folder.mkdir()
    write_result(older, folder)
    run("C1", record=True)
    recorded = read_results(folder, paper="toy-paper")
    assert set(recorded) == {"C1", "C2"}
    assert recorded["C2"].date == older.date
    before = recorded["C1"].to_json()
    run.with_measure(lambda m: {})
    run("C1", record=True)
    assert read_results(folder, paper="toy-paper")["C1"].to_json() == before


def test_recording_needs_a_checkout(run: Reproducing, toy_checkout: Path) -> None:
    (toy_checkout / "packages" / "toy-paper" / "pyproject.toml").unlink()
    with pytest.raises(ValueError, match="corollary-toy is not installed from a checkout"):
        run("C1", record=True)


def test_levels_select_claims(run: Reproducing) -> None:
    assert set(run(levels=(Level.EXACT,))) == {"C1", "C2"}


def test_paper_that_is_not_installed_can_be_reproduced(run: Reproducing) -> None:
    exact: Claim = run.paper.claim("C1")
    run.paper = replace(run.paper, slug="nowhere", claims=(exact,), plots=None)
    assert run()["C1"].verdict is Verdict.REPRODUCED


@pytest.mark.filterwarnings("always::RuntimeWarning")
def test_damaged_record_is_one_warning_line_and_a_new_run(run: Reproducing) -> None:
    first = run("C4", budget=Budget.SMOKE)
    (done,) = run.store.root.glob("toy-count-*/done.json")
    done.write_text("{")
    again = run("C4", budget=Budget.SMOKE)
    warned = [line for line in run.printed.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1
    assert "done.json is unreadable" in warned[0]
    assert without_times(again["C4"]) == without_times(first["C4"])


def test_store_that_cannot_be_written_is_refused(run: Reproducing) -> None:
    run.store.root.write_text("a file in place of the folder")
    with pytest.raises(OutputError, match=r"cannot write to the folder .*runs: "):
        run("C4", budget=Budget.SMOKE)


def test_interrupted_plots_leave_no_half_image(run: Reproducing) -> None:
    def stop_half_way(inputs: PlotInputs) -> list[Path]:
        (inputs.out / "half.png").write_bytes(b"PN")
        raise KeyboardInterrupt

    run.paper = replace(run.paper, plots=stop_half_way)
    with pytest.raises(Interrupted) as stopped:
        run("C1")
    assert stopped.value.status == 130
    assert [path.name for path in (run.out / "toy-paper").iterdir()] == ["C1.json"]
