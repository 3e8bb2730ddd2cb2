"""A claim that stays green when the method is broken tests nothing: each exact claim meets mistakes and fails."""

import pytest
import torch
from torch import nn

from corollary.evaluation import Stream
from corollary.papers import Level, Verdict, worst
from corollary_proceed import adaptation, concepts, exact_online, forecaster, generator, model
from corollary_proceed.claims import PAPER
from corollary_proceed.forecaster import ProceedForecaster
from corollary_proceed.generator import GeneratorGroup
from corollary_proceed.model import Proceed

EXACT = [claim for claim in PAPER.claims if claim.level is Level.EXACT]


def verdict(claim) -> Verdict:
    values = claim.measure(None)
    findings = [gate.evaluate([values[gate.quantity]], claim.level) for gate in claim.gates]
    return worst(finding.verdict for finding in findings if finding.verdict is not None)


def flipped_drift(monkeypatch):
    def estimated(self, x):
        return self.reference_concept() - self.current_encoder(self._series(x))

    monkeypatch.setattr(Proceed, "estimated_drift", estimated)


def mean_over_pairs_left_out(monkeypatch):
    true = Proceed.reference_concept
    monkeypatch.setattr(
        Proceed, "reference_concept", lambda self: self.reference_encoder(self._reference)[0] + 0 * true(self)
    )


def one_left_out(monkeypatch):
    monkeypatch.setattr(GeneratorGroup, "forward", lambda self, d: self.up(hidden_of(self, d)) + self.offset)


def offsets_left_out(monkeypatch):
    monkeypatch.setattr(GeneratorGroup, "forward", lambda self, d: self.up(hidden_of(self, d)) + self.start)


def own_bias_left_out(monkeypatch):
    monkeypatch.setattr(
        GeneratorGroup,
        "forward",
        lambda self, d: self.up(torch.sigmoid(self.down(d).unsqueeze(-2) + 0 * self.bias)) + self.start + self.offset,
    )


def unbounded_activation(monkeypatch):
    monkeypatch.setattr(
        GeneratorGroup,
        "forward",
        lambda self, d: self.up(torch.relu(self.down(d).unsqueeze(-2) + self.bias)) + self.start + self.offset,
    )


def columns_first(monkeypatch):
    true = GeneratorGroup.parts

    def swapped(self, name):
        outputs, inputs, _ = self.shapes[name]
        return slice(inputs, inputs + outputs), slice(0, inputs), true(self, name)[2]

    monkeypatch.setattr(GeneratorGroup, "parts", swapped)


def shift_left_out(monkeypatch):
    true = adaptation._merge

    def unshifted(layer, coefficients, mask):
        gamma = coefficients.gamma
        return true(layer, coefficients._replace(gamma=None if gamma is None else 0 * gamma), mask)

    monkeypatch.setattr(adaptation, "_merge", unshifted)


def sum_in_place_of_product(monkeypatch):
    def mask(layer, coefficients):
        beta, alpha, _ = coefficients
        if isinstance(layer, nn.Conv1d) and layer.groups > 1:
            alpha = alpha[: layer.weight.shape[1]]
        total = (beta[:, None] + alpha) / 2
        return total if isinstance(layer, nn.Linear) else total.unsqueeze(-1)

    monkeypatch.setattr(adaptation, "_mask", mask)


def rows_scaled_twice(monkeypatch):
    true = adaptation._mask
    monkeypatch.setattr(adaptation, "_mask", lambda layer, c: true(layer, c._replace(beta=c.beta**2)))


def one_kernel_position_in_the_gradient(monkeypatch):
    true = adaptation._scale_gradients

    def first_only(layer, coefficients, product):
        if isinstance(layer, nn.Conv1d):
            product = product * torch.eye(product.shape[-1], dtype=product.dtype)[0]
        return true(layer, coefficients, product)

    monkeypatch.setattr(adaptation, "_scale_gradients", first_only)


def random_start(monkeypatch):
    monkeypatch.setattr(generator.nn.init, "zeros_", lambda tensor: tensor)


def clip_left_out(monkeypatch):
    for module in (concepts, model, forecaster):
        monkeypatch.setattr(module, "clip_norm", lambda drift: drift)


def clip_of_everything(monkeypatch):
    monkeypatch.setattr(
        concepts, "clip_norm", lambda drift: drift / torch.linalg.vector_norm(drift, dim=-1, keepdim=True)
    )


def sharing_left_out(monkeypatch):
    true = model.AdaptationGenerator
    monkeypatch.setattr(
        model, "AdaptationGenerator", lambda shapes, **options: true(shapes, **{**options, "share": False})
    )


def stale_reference(monkeypatch):
    true = Proceed.set_reference
    held: dict[int, tuple] = {}

    def late(self, x, y):
        before = held.get(id(self))
        held[id(self)] = (x, y)
        true(self, *(before or (x, y)))

    monkeypatch.setattr(Proceed, "set_reference", late)


def reference_before_the_update(monkeypatch):
    true = ProceedForecaster.update

    def update(self, x, y):
        self.model.set_reference(x, y)
        true(self, x, y)

    monkeypatch.setattr(ProceedForecaster, "update", update)


def update_left_out(monkeypatch):
    monkeypatch.setattr(ProceedForecaster, "update", lambda self, x, y: self.model.set_reference(x, y))


def generator_learns_online(monkeypatch):
    def go_online(self):
        self.model.train_only(backbone=True, generator=True)
        self.optimizer = self._whole_optimizer

    monkeypatch.setattr(ProceedForecaster, "_go_online", go_online)
    monkeypatch.setattr(ProceedForecaster, "update", lambda self, x, y: super(ProceedForecaster, self).update(x, y))


def adapted_biases_learn(monkeypatch):
    true = Proceed.online_parameters
    monkeypatch.setattr(
        Proceed, "online_parameters", lambda self: [*true(self), *(layer.bias for layer in self._layers.values())]
    )
    monkeypatch.setattr(ProceedForecaster, "update", lambda self, x, y: super(ProceedForecaster, self).update(x, y))

    def go_online(self):
        self.model.train_only(backbone=True, generator=False)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learning, lr=1e-2, fused=True)
        for layer in self.model._layers.values():
            layer.bias.requires_grad_(True)

    monkeypatch.setattr(ProceedForecaster, "_go_online", go_online)


def label_one_step_early(monkeypatch):
    monkeypatch.setattr(Stream, "delay", property(lambda self: self.horizon - 1))


def generator_frozen_in_the_validation_pass(monkeypatch):
    true = ProceedForecaster.prepare

    def prepare(self, stream, origins):
        self.validation_pass = "online"
        true(self, stream, origins)

    monkeypatch.setattr(ProceedForecaster, "prepare", prepare)


def hidden_of(group: GeneratorGroup, drift):
    return torch.sigmoid(group.down(drift).unsqueeze(-2) + group.bias)


BUGS = [
    ("E1", flipped_drift),
    ("E1", mean_over_pairs_left_out),
    ("E2", one_left_out),
    ("E2", offsets_left_out),
    ("E2", own_bias_left_out),
    ("E2", columns_first),
    ("E2", shift_left_out),
    ("E2", rows_scaled_twice),
    ("E2", sum_in_place_of_product),
    ("C3", one_left_out),
    ("C3", random_start),
    ("E3", shift_left_out),
    ("E3", rows_scaled_twice),
    ("E4", sum_in_place_of_product),
    ("E5", one_kernel_position_in_the_gradient),
    ("E6", random_start),
    ("E7", clip_left_out),
    ("E7", clip_of_everything),
    ("E8", unbounded_activation),
    ("E9", sum_in_place_of_product),
    ("C6", sharing_left_out),
    ("E10", flipped_drift),
    ("E10", one_left_out),
    ("E10", clip_left_out),
    ("E10", stale_reference),
    ("E10", reference_before_the_update),
    ("E10", update_left_out),
    ("E10", label_one_step_early),
    ("E10", generator_frozen_in_the_validation_pass),
    ("E11", generator_learns_online),
    ("E11", adapted_biases_learn),
    ("E11", update_left_out),
    ("C7", label_one_step_early),
    ("C1-one-step", label_one_step_early),
]


@pytest.mark.parametrize("claim", EXACT, ids=lambda claim: claim.id)
def test_the_claim_holds(claim):
    assert verdict(claim) is Verdict.REPRODUCED


@pytest.mark.parametrize(("identifier", "plant"), BUGS, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_bug_turns_the_claim_red(identifier, plant, monkeypatch):
    plant(monkeypatch)
    assert verdict(PAPER.claim(identifier)) is Verdict.NOT_REPRODUCED


def test_every_exact_claim_meets_a_bug():
    assert {identifier for identifier, _ in BUGS} == {claim.id for claim in EXACT}


def test_a_control_that_is_given_its_own_drift_turns_its_claim_red(monkeypatch):
    """Then it is Proceed, so that its own time adds nothing."""

    def run(other_times: bool) -> torch.Tensor:
        def make():
            tuned = exact_online.make_forecaster()
            return ProceedForecaster(tuned.model, tuned._whole_optimizer, other_times=other_times)

        return exact_online.forecasts(make, Stream(exact_online.series(), lookback=20, horizon=5))

    gate = PAPER.claim("C4-other-times").gates[0]
    assert gate.quantity == "own time adds"
    assert not torch.equal(run(True), run(False))
    monkeypatch.setattr(ProceedForecaster, "_drift_of_another_time", lambda self: None)
    assert torch.equal(run(True), run(False))
    assert gate.evaluate([0.0] * 5, Level.SCALED).verdict is Verdict.NOT_REPRODUCED


def test_the_series_of_the_online_claims_drifts():
    """Otherwise the clip, the reference and the order of steps would hardly matter to them."""
    found = exact_online.forecasts(exact_online.make_forecaster, Stream(exact_online.series(), lookback=20, horizon=5))
    assert float(found.std()) > 1
