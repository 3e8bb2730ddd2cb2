"""The whole paper at budget smoke: every claim is measured and every figure is drawn."""

import io
import math

import pytest
from matplotlib.image import imread
from rich.console import Console

from corollary.papers import Budget, Level, PlotInputs, Verdict
from corollary.reproduce import ClaimResult, read_results, reproduce
from corollary.runs import RunStore
from corollary_steer.claims import PAPER
from corollary_steer.plots import draw

FIGURES = {"predicted-and-measured", "tail", "doses", "extreme", "methods"}
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
    found = reproduce(PAPER, budget=Budget.SMOKE, workers=1, out=folder, store=store, console=console)
    return {result.claim: result for result in found}


@pytest.mark.parametrize("identifier", MEASURED)
def test_a_claim_is_measured_and_gets_no_verdict(results, identifier):
    result, claim = results[identifier], PAPER.claim(identifier)
    assert result.error is None
    assert [finding.quantity for finding in result.findings] == [gate.quantity for gate in claim.gates]
    assert {finding.verdict for finding in result.findings} <= {Verdict.NO_VERDICT, None}


def test_only_what_two_steps_cannot_have_is_not_a_number(results):
    """Two steps are fewer than a window, and have one change of entropy, hence no spread of changes."""
    absent = {
        (result.claim, finding.quantity)
        for result in results.values()
        for finding in result.findings
        if not all(map(math.isfinite, finding.values))
    }
    assert {quantity.split(": ")[-1].split(" ")[0] for _, quantity in absent} <= {
        "entropy",
        "roughness",
        "lambda=0.7",
        "lambda=0.3",
        "lambda=0.1",
    }
    assert {claim for claim, _ in absent} == {"C7", "C7-reward", "C8", "C11"}


def test_the_claims_of_the_papers_scale_are_not_run(results):
    for claim in PAPER.claims:
        if claim.level is Level.PAPER:
            assert (results[claim.id].verdict, results[claim.id].error) == (Verdict.NOT_RUN, None)


def test_every_claim_is_written(folder, results):
    written = read_results(folder / PAPER.slug, paper=PAPER.slug)
    assert {name: result.to_json() for name, result in written.items()} == {
        name: ClaimResult.from_json(result.to_json()).to_json() for name, result in results.items()
    }


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_every_figure_is_drawn(folder, results, name):
    assert {path.stem for path in (folder / PAPER.slug).glob("*.png")} == FIGURES
    pixels = imread(folder / PAPER.slug / f"{name}.png")
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.01


@pytest.mark.parametrize(
    ("identifier", "drawn"),
    [("C7", {"doses"}), ("C7-reward", {"doses"}), ("C8", {"extreme"}), ("C9", {"methods"}), ("C10", set())],
)
def test_one_claim_alone_draws_its_own_figure(tmp_path, results, store, identifier, drawn):
    claim = PAPER.claim(identifier)
    runs = {
        seed: {name: store.path(run) for name, run in claim.runs_for(Budget.SMOKE, seed).items()}
        for seed in claim.seeds_for(Budget.SMOKE)
    }
    inputs = PlotInputs(
        budget=Budget.SMOKE, out=tmp_path, results={identifier: results[identifier]}, runs={identifier: runs}
    )
    assert {path.stem for path in draw(inputs)} == drawn
