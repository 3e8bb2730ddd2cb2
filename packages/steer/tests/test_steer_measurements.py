"""Measurements of the scaled claims on run folders written by hand, where the right answer is known."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from corollary.papers import Budget, Level, Measurement, Verdict
from corollary.reproduce.measuring import Provenance, judge, measure_seed
from corollary_steer import scaled
from corollary_steer.claims import COMPARED, PAPER
from corollary_steer.experiments import DOSES, dose_name

SCALED = {claim.id: claim for claim in PAPER.claims if claim.level is Level.SCALED}
TRAINED = [name for name, claim in SCALED.items() if claim.runs is not None and name != "tail"]


def write_run(folder, seed, *, entropy, reward=0.6, rough=0.01, divergence=0.02, correct=30):
    """A run of 60 steps whose entropy falls from 1.5 and whose reward rises from 0.1, with its evaluation."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    # A zigzag that averages out over every window of ten steps.
    zigzag = rough * np.where(np.arange(60) % 2, 1.0, -1.0)
    columns = {
        "policy/entropy": np.linspace(1.5, entropy, 60) + zigzag + 0.001 * rng.standard_normal(60),
        "reward/mean": np.linspace(0.1, reward, 60) + 0.001 * rng.standard_normal(60),
        "kl/old": divergence + 0.001 * rng.random(60),
    }
    rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    right = (correct + rng.integers(-2, 3, size=12)).tolist()
    evaluation = {"answer": list(range(12)), "samples": [64] * 12, "correct": right, "distinct": right}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def doses(swapped):
    ends = sorted((0.4, 0.6, 0.8, 1.0), reverse=swapped)
    return {dose_name(dose): {"entropy": end} for dose, end in zip(DOSES, ends, strict=True)}


def extreme(swapped):
    good = {"entropy": 1.0, "reward": 0.6, "rough": 0.01, "divergence": 0.01}
    bad = {"entropy": 1.0, "reward": 0.3, "rough": 0.1, "divergence": 0.1}
    if swapped:
        good, bad = bad, good
    return {"usual": good, "extreme": bad, "steer": good}


def ranked(*names):
    """The first is the best by held-out accuracy; swapped, the worst."""
    return lambda swapped: {
        name: {"entropy": 1.0, "correct": 5 + 5 * (k if swapped else len(names) - k)} for k, name in enumerate(names)
    }


def pairs(swapped):
    better, worse = ({"entropy": 1.0, "correct": c} for c in ((20, 40) if swapped else (40, 20)))
    return {"rloo": worse, "rloo + steer": better, "opo": worse, "opo + steer": better}


PLANTED = {
    "C7": doses,
    "C7-reward": doses,
    "C8": extreme,
    "C9": ranked("steer", *COMPARED),
    "C10": ranked("exponential", "linear", "binary"),
    "C11": pairs,
}


def judged(tmp_path, identifier, *, swapped):
    """The result of a claim on written runs, as a reproduction at budget full computes it."""
    claim, measured = SCALED[identifier], {}
    for seed in claim.seeds_for(Budget.FULL):
        runs = {
            name: write_run(tmp_path / f"{seed}" / name, [seed, k], **options)
            for k, (name, options) in enumerate(PLANTED[identifier](swapped).items())
        }
        assert set(runs) == set(claim.runs_for(Budget.FULL, seed))
        measured[seed] = measure_seed(claim, Measurement(seed=seed, budget=Budget.FULL, runs=runs))
        assert set(measured[seed].values) == {gate.quantity for gate in claim.gates}
    return judge(PAPER, claim, Budget.FULL, measured, {}, Provenance(commit=None, versions={}, machine={}))


def test_every_trained_claim_is_planted_here():
    assert set(PLANTED) == set(TRAINED)


@pytest.mark.parametrize("identifier", PLANTED)
def test_a_planted_effect_of_the_right_sign_is_reproduced(tmp_path, identifier):
    result = judged(tmp_path, identifier, swapped=False)
    assert result.verdict is Verdict.REPRODUCED
    assert all(math.isfinite(value) for finding in result.findings for value in finding.values)


@pytest.mark.parametrize("identifier", PLANTED)
def test_with_the_arms_swapped_every_gate_is_red(tmp_path, identifier):
    result = judged(tmp_path, identifier, swapped=True)
    verdicts = {finding.quantity: finding.verdict for finding in result.findings if finding.verdict is not None}
    assert set(verdicts.values()) == {Verdict.NOT_REPRODUCED}


def measurement(tmp_path, **runs):
    paths = {name: write_run(tmp_path / name, 0, **options) for name, options in runs.items()}
    return Measurement(seed=0, budget=Budget.FULL, runs=paths)


def test_the_drop_is_from_the_first_value_to_the_mean_of_the_last_ten(tmp_path):
    runs = {dose_name(dose): {"entropy": 0.5 + 0.1 * k, "rough": 0.0} for k, dose in enumerate(DOSES)}
    values = scaled.doses(measurement(tmp_path, **runs))
    # Over the last ten of 60 steps a line averages to 1 - 4.5 / 59 of its way. The noise is the same in all runs.
    way = 1 - 4.5 / 59
    for k, dose in enumerate(DOSES):
        assert values[dose_name(dose)] == pytest.approx(way * (1.0 - 0.1 * k), abs=0.005)
    assert [values[f"{a:g} minus {b:g}"] for a, b in pairwise(DOSES)] == pytest.approx([0.1 * way] * 3)
    assert [values[f"roughness {dose:g}"] for dose in DOSES[1:]] == pytest.approx([0.0] * 3, abs=1e-4)


def test_roughness_is_the_spread_of_the_change_and_not_the_change(tmp_path):
    even, rough = ({"entropy": 0.5, "rough": rough} for rough in (0.0, 0.05))
    values = scaled.extreme(measurement(tmp_path, usual=even, extreme=rough, steer=even))
    assert values["clip: roughness"] == pytest.approx(0.1, abs=0.003)  # a zigzag of 0.05 changes by 0.1 each step
    assert values["steer: roughness"] == pytest.approx(-values["clip: roughness"])
    assert values["steer: divergence"] == pytest.approx(0.0)


def test_accuracy_is_a_difference_of_held_out_rates(tmp_path):
    names = ("steer", "base", "grpo", "clip-higher")
    values = scaled.accuracy(
        measurement(tmp_path, **{name: {"entropy": 1.0, "correct": 5 + 8 * k} for k, name in enumerate(names)})
    )
    differences = [values[f"{name}: avg"] for name in names[1:]]
    assert differences == pytest.approx([-1 / 8, -2 / 8, -3 / 8])
    assert values["grpo: distinct"] == pytest.approx(-16)
