"""The whole paper at budget smoke: every claim is measured and every figure is drawn."""

import io
import math

import pytest
from matplotlib.image import imread
from rich.console import Console

from corollary.papers import Budget, Level, PlotInputs, Verdict
from corollary.reproduce import reproduce
from corollary.runs import RunStore
from corollary_adora.claims import PAPER
from corollary_adora.plots import draw

FIGURES = {"mean-advantages", "label-noise", "training", "controls", "normalised"}
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
    result = results[identifier]
    assert result.error is None
    assert [f.quantity for f in result.findings] == [gate.quantity for gate in PAPER.claim(identifier).gates]
    assert {f.verdict for f in result.findings if f.verdict is not None} == {Verdict.NO_VERDICT}
    assert all(math.isfinite(value) for finding in result.findings for value in finding.values)


def test_the_claims_of_the_papers_scale_are_not_run(results):
    for claim in PAPER.claims:
        if claim.level is Level.PAPER:
            assert (results[claim.id].verdict, results[claim.id].error) == (Verdict.NOT_RUN, None)


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_every_figure_is_drawn(folder, results, name):
    assert {path.stem for path in (folder / PAPER.slug).glob("*.png")} == FIGURES
    pixels = imread(folder / PAPER.slug / f"{name}.png")
    assert min(pixels.shape[:2]) > 300
    assert pixels.std() > 0.01


DRAWN = {
    "C5-length": {"mean-advantages"},
    "C8": {"label-noise"},
    "C1": {"training"},
    "C2": {"training"},
    "C3": {"training"},
    "C4": {"controls"},
    "C6": {"normalised"},
}


@pytest.mark.parametrize("identifier", MEASURED)
def test_one_claim_alone_draws_its_own_figures(tmp_path, results, store, identifier):
    claim = PAPER.claim(identifier)
    runs = {
        seed: {name: store.path(run) for name, run in claim.runs_for(Budget.SMOKE, seed).items()}
        for seed in claim.seeds_for(Budget.SMOKE)
    }
    inputs = PlotInputs(
        budget=Budget.SMOKE,
        out=tmp_path,
        results={identifier: results[identifier]},
        runs={} if claim.level is Level.EXACT else {identifier: runs},
    )
    paths = draw(inputs)
    assert {path.stem for path in paths} == DRAWN.get(identifier, set())
    assert sorted(tmp_path.iterdir()) == sorted(paths)
