"""A claim that stays green when the method is broken tests nothing: each claim meets a plausible mistake and fails."""

from dataclasses import replace

import pytest
import torch

from corollary.papers import MIN_SEEDS, Budget, Level, Measurement, Verdict, worst
from corollary.rl import Rollouts, group_advantages
from corollary.runs import Run, RunStore, with_requirements
from corollary_adora import algorithms, bandit, exact, label_noise, rule, weighting
from corollary_adora.claims import PAPER
from corollary_adora.experiments import TINY
from corollary_adora.parity import Parity

MEASURED = [claim for claim in PAPER.claims if claim.measure is not None]
TRUE_APPLY = weighting.apply_weights
TRUE_LA = rule.length_advantage
TRUE_DA = rule.difficulty_advantage


def verdict(claim, values):
    """The verdict when every seed measures the same."""
    count = 1 if claim.level is Level.EXACT else MIN_SEEDS
    findings = [gate.evaluate([values[gate.quantity]] * count, claim.level) for gate in claim.gates]
    return worst(finding.verdict for finding in findings if finding.verdict is not None)


def everywhere(monkeypatch, name, value):
    """Replace a function under every name that it has in the package."""
    for module in (rule, weighting, algorithms, bandit, exact, label_noise):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


def measure_exact(identifier):
    claim = PAPER.claim(identifier)
    return claim, claim.measure(Measurement(seed=0, budget=Budget.FULL, runs={}))


def weight_before_normalisation(rewards, lengths, group_ids, *, weighting, estimator=group_advantages):
    return estimator(rewards * weighting(rewards, lengths, group_ids), group_ids)


def weight_on_correct_responses_only(advantages, weights):
    return torch.where(advantages > 0, TRUE_APPLY(advantages, weights), advantages)


def length_rule(*, exchanged=False, ties=False):
    """LA group by group, with a mistake."""

    def length_advantage(correct, lengths, group_ids, *, max_length=None, empty_failure="neg_inf", no_success="tds"):
        labels = torch.zeros_like(correct)
        for group in group_ids.unique():
            member = group_ids == group
            right = lengths[member & correct].double()
            wrong = lengths[member & ~correct & (lengths < (max_length or torch.inf))].double()
            empty = torch.tensor(-torch.inf if empty_failure == "neg_inf" else torch.inf).double()
            ours = (right.mean() if exchanged else right.max()) if len(right) else -empty.new_tensor(torch.inf)
            theirs = (wrong.max() if exchanged else wrong.mean()) if len(wrong) else empty
            la = ours >= theirs if ties else ours > theirs
            labels[member] = bool(la) or (no_success == "neutral" and len(right) == 0)
        return labels

    return length_advantage


def infinite_empty_failure(correct, lengths, group_ids, *, max_length=None, empty_failure="", no_success="tds"):
    return TRUE_LA(correct, lengths, group_ids, max_length=max_length, empty_failure="pos_inf", no_success=no_success)


def overlong_counted(correct, lengths, group_ids, *, max_length=None, empty_failure="neg_inf", no_success="tds"):
    return TRUE_LA(correct, lengths, group_ids, empty_failure=empty_failure, no_success=no_success)


def strict_difficulty(correct, group_ids, *, tau=0.5):
    return TRUE_DA(correct, group_ids, tau=tau - 1e-9)


EXACT_BUGS = [
    ("C5-bias", "weighted_advantages", weight_before_normalisation),
    ("C5-length", "weighted_advantages", weight_before_normalisation),
    ("C5-length", "apply_weights", weight_on_correct_responses_only),
    ("C9", "apply_weights", weight_on_correct_responses_only),
    ("C5-bias", "apply_weights", weight_on_correct_responses_only),
    ("C9", "length_advantage", length_rule(exchanged=True)),
    ("C5-length", "length_advantage", length_rule(exchanged=True)),
    ("C9", "length_advantage", length_rule(ties=True)),
    ("C5-length", "length_advantage", length_rule(ties=True)),
    ("C9", "length_advantage", infinite_empty_failure),
    ("C9", "length_advantage", overlong_counted),
    ("C8", "difficulty_advantage", strict_difficulty),
]


@pytest.mark.parametrize("identifier", [claim.id for claim in MEASURED if claim.level is Level.EXACT])
def test_exact_claims_hold(identifier):
    assert verdict(*measure_exact(identifier)) is Verdict.REPRODUCED


@pytest.mark.parametrize(("identifier", "name", "bug"), EXACT_BUGS, ids=lambda x: getattr(x, "__name__", x))
def test_a_wrong_rule_turns_an_exact_claim_red(monkeypatch, identifier, name, bug):
    everywhere(monkeypatch, name, bug)
    assert verdict(*measure_exact(identifier)) is Verdict.NOT_REPRODUCED


def test_the_slow_rule_without_a_mistake_is_ours(monkeypatch):
    everywhere(monkeypatch, "length_advantage", length_rule())
    assert verdict(*measure_exact("C9")) is Verdict.REPRODUCED
    assert verdict(*measure_exact("C5-length")) is Verdict.REPRODUCED


def test_padding_counted_in_lengths_turns_c9_red(monkeypatch):
    def padded(self):
        return torch.full((len(self),), self.completion_mask.shape[1])

    monkeypatch.setattr(Rollouts, "lengths", property(padded))
    assert verdict(*measure_exact("C9")) is Verdict.NOT_REPRODUCED


TRAINING_CLAIMS = ("C1", "C2", "C3", "C4", "C6", "C7")


def smaller(run, *, evaluate):
    """The run at a size for tests."""
    recipe = run.recipe
    train = replace(recipe.train, prompts_per_step=4, steps=4, learning_rate=500 * recipe.train.learning_rate)
    return Run(
        replace(
            recipe,
            train=train,
            warm_start=replace(recipe.warm_start, model=TINY, steps=4),
            evaluation_samples=2 if evaluate and recipe.evaluation_samples else 0,
        ),
        run.seed,
    )


@pytest.fixture
def measure(monkeypatch):
    """Train what a claim needs, at a size for tests, and measure it."""
    torch.set_num_threads(1)
    # So young a policy never answers. The sum of its tokens gives it rewards of both kinds.
    monkeypatch.setattr(Parity, "correct", lambda self, prompt, completion: sum(completion) % 3 == 0)
    prompts = Parity.prompts
    monkeypatch.setattr(Parity, "prompts", lambda self, split: prompts(self, split)[:8])

    def run(identifier, store):
        claim = PAPER.claim(identifier)
        runs = claim.runs_for(Budget.SMOKE, 0)
        runs = {name: smaller(needed, evaluate=identifier == "C2") for name, needed in runs.items()}
        for needed in with_requirements(runs.values()):
            store.execute(needed)
        paths = {name: store.open(needed) for name, needed in runs.items()}
        return claim, claim.measure(Measurement(seed=0, budget=Budget.SMOKE, runs=paths))

    return run


@pytest.fixture(scope="module")
def broken_store(tmp_path_factory):
    """Runs of one and the same broken method."""
    return RunStore(tmp_path_factory.mktemp("broken"))


def compared(claim, values):
    """What the claim compares with zero; GRPO at another step size is another run, whatever the weights are."""
    bound = [gate.quantity for gate in claim.gates if gate.above == 0 or gate.below == 0]
    return [values[name] for name in bound if not name.endswith("matched")]


@pytest.mark.parametrize("identifier", [name for name in TRAINING_CLAIMS if name != "C4"])
def test_weights_that_are_computed_and_not_applied_turn_the_training_claims_red(
    measure, monkeypatch, broken_store, identifier
):
    everywhere(monkeypatch, "apply_weights", lambda advantages, weights: advantages)
    claim, values = measure(identifier, broken_store)
    assert set(compared(claim, values)) == {0.0}
    assert verdict(claim, values) is Verdict.NOT_REPRODUCED


def test_random_weights_that_are_not_random_turn_c4_red(measure, monkeypatch, tmp_path):
    everywhere(monkeypatch, "permuted_over_groups", lambda weights, *args, **options: weights)
    claim, values = measure("C4", RunStore(tmp_path))
    assert set(compared(claim, values)) == {0.0}
    assert verdict(claim, values) is Verdict.NOT_REPRODUCED


def test_applied_weights_make_a_difference(measure, tmp_path):
    store = RunStore(tmp_path)
    for identifier in ("C1", "C3", "C4"):
        claim, values = measure(identifier, store)
        assert set(compared(claim, values)) != {0.0}


def test_every_measured_claim_meets_a_bug_here():
    tested = {identifier for identifier, *_ in EXACT_BUGS}
    assert tested | set(TRAINING_CLAIMS) == {claim.id for claim in MEASURED}
