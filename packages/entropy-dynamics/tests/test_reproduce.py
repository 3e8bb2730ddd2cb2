"""The whole paper at budget smoke: every claim is measured and every figure is drawn."""

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread
from rich.console import Console

from corollary.papers import Budget, Level, Measurement, PlotInputs, Verdict
from corollary.reproduce import ClaimResult, read_results, reproduce, write_result
from corollary.reproduce.measuring import Provenance, judge, measure_seed
from corollary.runs import Run, RunStore
from corollary_entropy_dynamics.claims import PAPER
from corollary_entropy_dynamics.plots import draw

FIGURES = {"predicted-and-measured", "masking", "methods", "doses"}
MEASURED = [claim.id for claim in PAPER.claims if claim.level is not Level.PAPER]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the one reproduction of this module wrote."""
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture(scope="module")
def store(folder):
    return RunStore(folder / "runs")


@pytest.fixture(scope="module")
def results(folder, store):
    console = Console(file=io.StringIO(), width=120)
    found = reproduce(PAPER, budget=Budget.SMOKE, workers=2, out=folder, store=store, console=console)
    return {result.claim: result for result in found}


def gated(result):
    return [finding for finding in result.findings if finding.verdict is not None]


@pytest.mark.parametrize("identifier", MEASURED)
def test_a_claim_is_measured_and_gets_no_verdict(results, identifier):
    result = results[identifier]
    assert result.error is None
    assert [finding.quantity for finding in result.findings] == [
        gate.quantity for gate in PAPER.claim(identifier).gates
    ]
    assert {finding.verdict for finding in gated(result)} == {Verdict.NO_VERDICT}


def test_only_what_two_steps_cannot_have_is_not_a_number(results):
    """Two steps are fewer than a window, have one change of entropy and may clip nothing."""
    absent = {
        (result.claim, finding.quantity)
        for result in results.values()
        for finding in result.findings
        if not all(map(math.isfinite, finding.values))
    }
    clipping = {("C7", name) for name in ("probability_gap", "negative_deviation", "old_probability")}
    too_short = {("C8-entropy", f"{name}: entropy at equal reward") for name in ("clip-b", "clip-v")}
    assert absent - clipping == too_short | {("C3-network", "training_correlation")}


def test_a_run_that_clips_nothing_is_no_error(tmp_path, results, store):
    """The log of a run whose ratios stay at 1, read by C7 and judged."""
    claim = PAPER.claim("C7")
    (run,) = claim.runs_for(Budget.SMOKE, 0).values()
    still = Run(replace(run.recipe, train=replace(run.recipe.train, steps=1, learning_rate=1e-12)), 0)
    record = store.execute(still)
    measured = measure_seed(claim, Measurement(seed=0, budget=Budget.SMOKE, runs={"grpo": store.path(still)}))
    assert {name for name, value in measured.values.items() if math.isfinite(value)} == {"share"}
    assert measured.values["share"] == 0
    nowhere = Provenance(commit=None, versions={}, machine={})
    result = judge(PAPER, claim, Budget.QUICK, {0: measured}, {0: {"grpo": record}}, nowhere)
    assert (result.error, result.verdict) == (None, Verdict.NOT_REPRODUCED)
    write_result(result, tmp_path)
    assert read_results(tmp_path, paper=PAPER.slug)["C7"].to_json() == ClaimResult.from_json(result.to_json()).to_json()


def test_the_claims_of_the_papers_scale_are_not_run(results):
    for claim in PAPER.claims:
        if claim.level is Level.PAPER:
            assert (results[claim.id].verdict, results[claim.id].error) == (Verdict.NOT_RUN, None)


def test_every_claim_is_written(folder, results):
    written = read_results(folder / PAPER.slug, paper=PAPER.slug)
    assert {name: result.to_json() for name, result in written.items()} == {
        name: ClaimResult.from_json(result.to_json()).to_json() for name, result in results.items()
    }


def check_image(path: Path) -> None:
    """A PNG with something drawn on it."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.01


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_every_figure_is_drawn(folder, results, name):
    assert {path.stem for path in (folder / PAPER.slug).glob("*.png")} == FIGURES
    check_image(folder / PAPER.slug / f"{name}.png")


DRAWN = {
    "C3": {"predicted-and-measured"},
    "C3-network": {"predicted-and-measured"},
    "C6": {"masking"},
    "C8-entropy": {"methods"},
    "C8-accuracy": {"methods"},
    "C9-training": {"doses"},
    "C10": {"methods"},
}


@pytest.mark.parametrize("identifier", MEASURED)
def test_one_claim_alone_draws_its_own_figures(tmp_path, results, store, identifier):
    runs = {
        seed: {name: store.path(run) for name, run in PAPER.claim(identifier).runs_for(Budget.SMOKE, seed).items()}
        for seed in PAPER.claim(identifier).seeds_for(Budget.SMOKE)
    }
    inputs = PlotInputs(
        budget=Budget.SMOKE,
        out=tmp_path,
        results={identifier: results[identifier]},
        runs={} if PAPER.claim(identifier).level is Level.EXACT else {identifier: runs},
    )
    paths = draw(inputs)
    assert {path.stem for path in paths} == DRAWN.get(identifier, set())
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path in paths:
        check_image(path)
