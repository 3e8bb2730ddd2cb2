"""A claim that stays green when the method is broken tests nothing: each claim meets a plausible mistake and fails."""

from dataclasses import replace

import pytest
import torch

from corollary.papers import MIN_SEEDS, Budget, Level, Measurement, Verdict, worst
from corollary.runs import RunStore, with_requirements
from corollary.tasks import DigitSum
from corollary_entropy_dynamics import algorithms, discriminator, exact, experiments, masks, network
from corollary_entropy_dynamics.claims import PAPER
from corollary_entropy_dynamics.experiments import Size

MEASURED = [claim for claim in PAPER.claims if claim.measure is not None]
TRUE_S = discriminator.entropy_discriminator
TRUE_N = discriminator.vocabulary_mean


def verdict(claim, values):
    """The verdict when every seed measures the same."""
    count = 1 if claim.level is Level.EXACT else MIN_SEEDS
    findings = [gate.evaluate([values[gate.quantity]] * count, claim.level) for gate in claim.gates]
    return worst(finding.verdict for finding in findings if finding.verdict is not None)


def everywhere(monkeypatch, name, value):
    """Replace a function under every name that it has in the package."""
    for module in (discriminator, masks, exact, algorithms, network):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


def without_entropy(log_probs, entropy):
    return log_probs.exp() * log_probs


def flipped_sign(log_probs, entropy):
    return -TRUE_S(log_probs, entropy)


def entropy_twice(log_probs, entropy):
    return log_probs.exp() * (2 * entropy + log_probs)


def no_centre(stats):
    return torch.zeros_like(TRUE_N(stats))


def wrong_centre(stats):
    return TRUE_N(stats) + stats.sum_p2_log_p * 1e-3


EXACT_BUGS = [
    ("C1", "entropy_discriminator", without_entropy),
    ("C1", "entropy_discriminator", flipped_sign),
    ("C2", "entropy_discriminator", entropy_twice),
    ("C2", "entropy_discriminator", flipped_sign),
    ("C3", "vocabulary_mean", no_centre),
    ("C3", "vocabulary_mean", wrong_centre),
    ("C4", "vocabulary_mean", no_centre),
    ("C4", "vocabulary_mean", wrong_centre),
    ("C11", "entropy_discriminator", without_entropy),
    ("C11", "entropy_discriminator", flipped_sign),
]


def measure_exact(identifier):
    claim = PAPER.claim(identifier)
    return claim, claim.measure(Measurement(seed=0, budget=Budget.FULL, runs={}))


@pytest.mark.parametrize("identifier", [claim.id for claim in MEASURED if claim.level is Level.EXACT])
def test_exact_claims_hold(identifier):
    assert verdict(*measure_exact(identifier)) is Verdict.REPRODUCED


@pytest.mark.parametrize(("identifier", "name", "bug"), EXACT_BUGS, ids=lambda x: getattr(x, "__name__", x))
def test_a_wrong_formula_turns_an_exact_claim_red(monkeypatch, identifier, name, bug):
    everywhere(monkeypatch, name, bug)
    assert verdict(*measure_exact(identifier)) is Verdict.NOT_REPRODUCED


def test_a_threshold_that_shrinks_with_mu_turns_c9_red(monkeypatch):
    true = masks.clip_b_mask
    monkeypatch.setattr(exact, "clip_b_mask", lambda *args, mu: true(*args, mu=1 / mu))
    assert verdict(*measure_exact("C9")) is Verdict.NOT_REPRODUCED


SMALL = Size(
    warm_start_steps={"digit-sum": 150, "digit-sum-running": 150},
    on_policy_steps=12,
    control_steps=3,
    masking_steps=10,
    training_steps=4,
    network_tokens=48,
    evaluation_samples=16,
)


@pytest.fixture(scope="module")
def clean_store(tmp_path_factory):
    return RunStore(tmp_path_factory.mktemp("store"))


@pytest.fixture
def measure(monkeypatch, clean_store, tmp_path):
    """Train what a claim needs, at a size for tests, and measure it. A broken method gets a store of its own."""
    torch.set_num_threads(1)
    monkeypatch.setitem(experiments.SIZES, Budget.SMOKE, SMALL)
    # So young a policy never adds up five digits. With an easier reward there are advantages of both signs.
    monkeypatch.setattr(DigitSum, "correct", lambda self, prompt, completion: completion[0] < 5)

    def run(identifier, *, broken=False):
        claim = PAPER.claim(identifier)
        runs = claim.runs_for(Budget.SMOKE, 0)
        store = clean_store
        if broken:
            store = RunStore(tmp_path / "broken")
            share_warm_starts(clean_store, store)
        for needed in with_requirements(runs.values()):
            store.execute(needed)
        paths = {name: store.open(needed) for name, needed in runs.items()}
        return claim, claim.measure(Measurement(seed=0, budget=Budget.SMOKE, runs=paths))

    return run


def share_warm_starts(source, target):
    target.root.mkdir(parents=True)
    for task in SMALL.warm_start_steps:
        needed = experiments.Run(experiments.warm_start(task, Budget.SMOKE), 0)
        source.execute(needed)
        target.path(needed).symlink_to(source.path(needed))


@pytest.mark.parametrize("identifier", ["C3-network", "C5", "C6", "C7"])
def test_the_claims_on_single_updates_hold_at_test_size(measure, identifier):
    assert verdict(*measure(identifier)) is Verdict.REPRODUCED


@pytest.mark.parametrize(
    ("identifier", "name", "bug"),
    [
        ("C3-network", "entropy_discriminator", lambda *x: -10 * TRUE_S(*x)),
        ("C5", "vocabulary_mean", no_centre),
        ("C6", "deviation", lambda stats: TRUE_N(stats) - TRUE_S(stats.log_prob, stats.entropy)),
        ("C7", "deviation", lambda stats: TRUE_N(stats) - TRUE_S(stats.log_prob, stats.entropy)),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_wrong_formula_turns_a_scaled_claim_red(measure, monkeypatch, identifier, name, bug):
    everywhere(monkeypatch, name, bug)
    assert verdict(*measure(identifier, broken=True)) is Verdict.NOT_REPRODUCED


TRAINING_CLAIMS = ("C8-entropy", "C8-accuracy", "C9-training", "C10")


@pytest.mark.parametrize("identifier", TRAINING_CLAIMS)
def test_masks_that_are_computed_and_not_applied_turn_the_training_claims_red(measure, monkeypatch, identifier):
    for method in (algorithms.ClipB, algorithms.ClipV):
        true = method.prepare
        monkeypatch.setattr(
            method, "prepare", lambda self, batch, true=true: replace(true(self, batch), mask=batch.mask)
        )
    claim, values = measure(identifier, broken=True)
    assert verdict(claim, values) is Verdict.NOT_REPRODUCED
    compared = [gate.quantity for gate in claim.gates if gate.above == 0]
    # What was dropped is still counted, and runs this short have no rewards in common to compare entropies at.
    compared = [name for name in compared if not name.endswith(("dropped", "equal reward"))]
    assert [values[name] for name in compared] == [0.0] * len(compared)


def test_applied_masks_make_a_difference(measure):
    _, methods = measure("C8-entropy")
    assert methods["clip-v: dropped"] > 0
    assert methods["clip-v: entropy"] != 0
    # The authors' dose of Clip_B may drop nothing from so young a policy; a larger one does.
    _, doses = measure("C9-training")
    assert doses["mu=1.0"] != doses["mu=2.5"]


def test_every_measured_claim_meets_a_bug_here():
    tested = {identifier for identifier, *_ in EXACT_BUGS} | {"C9", "C3-network", "C5", "C6", "C7"}
    assert tested | set(TRAINING_CLAIMS) == {claim.id for claim in MEASURED}
