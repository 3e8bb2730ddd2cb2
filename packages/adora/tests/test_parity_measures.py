"""Measurements of the scaled claims on run folders written by hand, where the right answer is known."""

import json

import pandas as pd
import pytest

from corollary.papers import Budget, Level, Measurement
from corollary_adora import scaled
from corollary_adora.claims import PAPER
from corollary_adora.experiments import LONG, TAU, W_TAS, W_TDS, criteria_runs, sensitivity_runs, step_size_runs

SCALED = {claim.id: claim for claim in PAPER.claims if claim.level is Level.SCALED}
STEPS = 60


def write_run(folder, *, reward=0.0, length=1.0, tas=0.0, accuracy=None, slope=0.0):
    """A run whose reward starts at ``reward`` and grows by ``slope`` a step."""
    folder.mkdir()
    rows = [
        {"reward/mean": reward + slope * step, "completion/length": length + slope * step, "adora/tas": tas}
        for step in range(STEPS)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, share in (accuracy or {}).items():
        # Two prompts with different numbers of samples: shares are of samples and not of prompts.
        table = {"answer": [0, 1], "samples": [30, 10], "correct": [round(40 * share) - 10, 10], "distinct": [1, 1]}
        (folder / f"{name}.json").write_text(json.dumps(table))
    return folder


@pytest.fixture
def measure(tmp_path):
    def run(identifier, **runs):
        paths = {name: write_run(tmp_path / str(k), **options) for k, (name, options) in enumerate(runs.items())}
        claim = SCALED[identifier]
        values = claim.measure(Measurement(seed=0, budget=Budget.FULL, runs=paths))
        assert set(values) == {gate.quantity for gate in claim.gates}
        return values

    return run


def test_every_claim_measures_what_its_runs_are_called():
    for identifier, claim in SCALED.items():
        assert claim.runs_for(Budget.FULL, 0), identifier
        assert set(claim.runs_for(Budget.SMOKE, 0)) == set(claim.runs_for(Budget.FULL, 0))


def test_length_growth(measure):
    # The last 25 of 60 steps are 35 to 59, with mean 47.
    values = measure("C1", grpo={"length": 4.0}, code={"length": 4.0, "slope": 0.1})
    assert values == pytest.approx({"end": 4.7, "run": 0.1 * 29.5, "grpo growth": 0.0})


def test_accuracy_and_speed(measure):
    values = measure(
        "C2",
        grpo={"reward": 0.5, "accuracy": {"evaluation": 0.6, LONG: 0.4}},
        code={"reward": 0.4, "slope": 0.01, "accuracy": {"evaluation": 0.65, LONG: 0.5}},
        paper={"reward": 0.5, "accuracy": {"evaluation": 0.7, LONG: 0.3}},
    )
    expected = {"early": -0.1 + 0.01 * 9.5, "held out": 0.05, "long": 0.1, "paper: held out": 0.1, "paper: long": -0.1}
    assert values == pytest.approx({**expected, "grpo: held out": 0.6, "grpo: long": 0.4})


def test_amplification(measure):
    values = measure("C3", grpo={"reward": 0.5}, paper={"reward": 0.4, "slope": 0.01, "tas": 0.2})
    assert values == pytest.approx({"area": 0.195, "end": 0.37, "advantageous": 0.2})


def test_criteria(measure):
    rewards = {
        "grpo": 0.5,
        "code": 0.53,
        "paper": 0.6,
        "length": 0.61,
        "difficulty": 0.62,
        "or": 0.63,
        "random code": 0.51,
        "random paper": 0.52,
    }
    assert set(rewards) == set(criteria_runs(Budget.FULL, 0))
    lengths = {"code": 6.0, "random code": 5.0}
    runs = {name: {"reward": reward, "length": lengths.get(name, 1.0)} for name, reward in rewards.items()}
    expected = {"code": 0.02, "and": 0.08, "length": 0.09, "difficulty": 0.10, "or": 0.11, "random": 0.02}
    assert measure("C4", **runs) == pytest.approx({**expected, "code: length": 1.0})


def test_step_size(measure):
    figures = {
        "grpo": (0.5, 5.0),
        "code": (0.5, 7.0),
        "paper": (0.6, 5.0),
        "grpo at code": (0.4, 4.0),
        "grpo at paper": (0.55, 5.0),
        "code normalised": (0.5, 6.0),
        "paper normalised": (0.57, 5.0),
    }
    assert set(figures) == set(step_size_runs(Budget.FULL, 0))
    values = measure("C6", **{name: {"reward": r, "length": n} for name, (r, n) in figures.items()})
    expected = {"length, matched": 3.0, "length, normalised": 1.0, "area, matched": 0.05, "area, normalised": 0.07}
    assert values == pytest.approx({**expected, "rate: length": -1.0, "rate: area": 0.05})


def test_sensitivity(measure):
    names = [f"w_tds {w:g}" for w in W_TDS] + [f"w_tas {w:g}" for w in W_TAS] + [f"tau {t:g}" for t in TAU]
    assert set(names) == set(sensitivity_runs(Budget.FULL, 0))
    end = {name: 0.5 + 0.01 * k for k, name in enumerate(names)}
    values = measure("C7", **{name: {"reward": reward} for name, reward in end.items()})
    assert values == pytest.approx({"w_tds": 0.04, "w_tas": 0.02, "tau": 0.02, "zero": 0.02, **end})


def test_published_values_are_trained_once():
    main = criteria_runs(Budget.FULL, 3)
    runs = sensitivity_runs(Budget.FULL, 3)
    assert runs["w_tds 0.1"] == main["code"]
    assert runs["w_tas 2"] == runs["tau 0.5"] == main["paper"]
    assert len({run.key for run in runs.values()}) == len(runs) - 1


@pytest.mark.parametrize(("length", "averaged"), [(1, 1), (2, 1), (9, 4), (49, 24), (50, 25), (400, 25)])
def test_the_end_is_the_last_window_or_the_second_half(length, averaged):
    values = pd.Series([float(k * k) for k in range(length)])
    assert scaled.end_of(values) == pytest.approx(values.iloc[-averaged:].mean())
