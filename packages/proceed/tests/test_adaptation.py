"""Scaled layers: merged into the weights and through the activations, for every kind of layer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from corollary_proceed import (
    AdaptationCoefficients,
    AdaptationGenerator,
    LayerShape,
    MergedLayers,
    adaptable_layers,
    merge,
    scaled_forward,
)
from corollary_proceed.adaptation import AdaptedLayer, shape_of

DIM = 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Adapted:
    """A network with a generator whose outputs and offsets are random, for drifts that are given."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.double()
        self.layers = adaptable_layers(network)
        shapes = {name: shape_of(layer) for name, layer in self.layers.items()}
        self.generator = AdaptationGenerator(shapes, concept_dim=DIM, bottleneck_dim=2).double()
        self.merged = MergedLayers(network, self.layers, self.generator)
        with torch.no_grad():
            for group in self.generator.groups:
                group.up.weight.normal_()
                group.offset.normal_()

    def coefficients(self, drift: Tensor) -> dict[str, AdaptationCoefficients]:
        return self.generator.split(self.generator(drift))

    def apart(self, drift: Tensor, x: Tensor) -> Tensor:
        """One sample at a time, with merged weights."""
        samples = [
            self.merged.run(self.merged.merge(self.generator(d)), s[None]) for d, s in zip(drift, x, strict=True)
        ]
        return torch.cat(samples)

    def together(self, drift: Tensor, x: Tensor) -> Tensor:
        """The batch at once, through the activations."""
        return scaled_forward(self.network, self.layers, self.coefficients(drift), x)


class Holder(nn.Module):
    """A network of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# One layer, both ways

CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"stride": 2},
    {"dilation": 3},
    {"padding": 2},
    {"padding": "same"},
    {"groups": 2},
    {"groups": 4},
    {"groups": 2, "bias": False, "stride": 2, "dilation": 2, "padding": 3},
    *({"padding": 2, "padding_mode": mode} for mode in ("reflect", "replicate", "circular")),
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_merged_and_scaled_convolutions_are_the_same(options: dict[str, Any]) -> None:
    adapted = Adapted(Holder(nn.Conv1d(4, 8, 3, **options)))
    drift, x = draw(3, DIM, seed=1), draw(3, 4, 12, seed=2)
    torch.testing.assert_close(adapted.together(drift, x), adapted.apart(drift, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 2, 5, 4)], ids=str)
def test_merged_and_scaled_linear_maps_are_the_same(bias: bool, shape: tuple[int, ...]) -> None:
    adapted = Adapted(Holder(nn.Linear(4, 6, bias=bias)))
    drift, x = draw(3, DIM, seed=1), draw(*shape, seed=2)
    torch.testing.assert_close(adapted.together(drift, x), adapted.apart(drift, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "layer", [lambda: nn.Linear(4, 6, bias=False), lambda: nn.Conv1d(4, 6, 3, bias=False)], ids=["linear", "conv1d"]
)
def test_layers_without_bias_are_adapted_and_get_no_shift(layer: Callable[[], AdaptedLayer]) -> None:
    adapted = Adapted(Holder(layer()))
    coefficients = adapted.coefficients(draw(1, DIM)[0])["layer"]
    assert coefficients.gamma is None
    weight, bias = merge(adapted.layers["layer"], coefficients)
    assert bias is None
    assert not torch.equal(weight, adapted.layers["layer"].weight)
    x = torch.zeros(2, 4, dtype=torch.float64) if isinstance(adapted.layers["layer"], nn.Linear) else draw(2, 4, 9) * 0
    assert not bool(adapted.together(draw(2, DIM), x).any())


def test_the_merged_linear_map_by_hand() -> None:
    layer = nn.Linear(3, 2).double()
    coefficients = AdaptationCoefficients(draw(2, seed=1), draw(3, seed=2), draw(2, seed=3))
    weight, bias = merge(layer, coefficients)
    assert bias is not None
    beta, alpha, gamma = coefficients
    assert gamma is not None
    for o in range(2):
        for i in range(3):
            torch.testing.assert_close(weight[o, i], beta[o] * alpha[i] * layer.weight[o, i])
    torch.testing.assert_close(bias, layer.bias + gamma)


def test_every_kernel_position_has_the_same_scale() -> None:
    layer = nn.Conv1d(3, 2, 5).double()
    coefficients = AdaptationCoefficients(draw(2, seed=1), draw(3, seed=2), draw(2, seed=3))
    ratio = merge(layer, coefficients)[0] / layer.weight
    torch.testing.assert_close(ratio, torch.outer(coefficients.beta, coefficients.alpha).unsqueeze(-1).expand(2, 3, 5))


def test_rows_of_a_grouped_convolution_are_scaled_by_the_columns_of_their_group() -> None:
    layer = nn.Conv1d(4, 6, 1, groups=2, bias=False).double()
    alpha = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    ratio = merge(layer, AdaptationCoefficients(torch.ones(6).double(), alpha, None))[0] / layer.weight
    expected = torch.tensor([[1.0, 2.0]] * 3 + [[3.0, 4.0]] * 3, dtype=torch.float64)
    torch.testing.assert_close(ratio.squeeze(-1), expected)


# A folded batch axis


class Folding(nn.Module):
    """Variates become samples, then patches: what channel-independent forecasters do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 5)
        self.mix = nn.Conv1d(5, 5, 3, padding=1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 12, N) to (B, 2, N)."""
        folded = x.mT.flatten(0, 1).unflatten(-1, (3, 4))
        return self.head(self.mix(self.embed(folded).mT).mean(-1)).unflatten(0, (x.shape[0], -1)).mT


def test_all_rows_that_a_sample_was_folded_into_have_its_scales() -> None:
    adapted = Adapted(Folding())
    drift, x = draw(3, DIM, seed=1), draw(3, 12, 4, seed=2)
    torch.testing.assert_close(adapted.together(drift, x), adapted.apart(drift, x), rtol=0, atol=1e-12)
    others = adapted.together(drift[[1, 0, 2]], x)
    assert float((others - adapted.together(drift, x)).detach().abs().max()) > 1e-3


def test_a_batch_axis_that_is_no_multiple_of_the_samples_is_refused() -> None:
    class Cutting(Holder):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x[1:])

    adapted = Adapted(Cutting(nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"the first a multiple of the 3 samples, got shape \(2, 4\)"):
        adapted.together(draw(3, DIM), draw(3, 4))


def test_a_layer_without_batch_axis_is_refused() -> None:
    class First(Holder):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x[0])

    adapted = Adapted(First(nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"at least 2 axes.*got shape \(4,\)"):
        adapted.together(draw(2, DIM), draw(2, 4))


# Which layers


def test_layers_are_found_by_qualified_name_and_kind() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Conv1d(2, 2, 1), nn.ReLU()))
    assert list(adaptable_layers(network)) == ["0", "1.0"]
    assert list(adaptable_layers(network, (nn.Conv1d,))) == ["1.0"]


def test_a_network_without_such_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="GRU has no layer to adapt: expected a Linear or Conv1d"):
        adaptable_layers(nn.GRU(2, 2))
    with pytest.raises(ValueError, match="Linear has no layer to adapt: expected a Conv1d"):
        adaptable_layers(nn.Linear(2, 2), (nn.Conv1d,))


def test_other_kinds_of_layers_cannot_be_asked_for() -> None:
    for kind in (nn.Conv2d, nn.BatchNorm2d, nn.GRU):
        with pytest.raises(ValueError, match=f"LayerNorm or BatchNorm1d, got {kind.__name__}"):
            adaptable_layers(nn.Linear(2, 2), (nn.Linear, kind))


def test_norm_layers_are_not_adapted_unless_asked_for() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.BatchNorm1d(4), nn.Conv2d(4, 4, 1))
    assert list(adaptable_layers(network)) == ["0"]


class Attending(nn.Module):
    """Attention of torch, which reads the weights of its layers without calling them."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.attentional = nn.Linear(4, 3)  # its name starts like the other's

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.before(x)
        return self.attentional(self.attention(hidden, hidden, hidden, need_weights=False)[0])


def test_layers_inside_attention_are_left_out() -> None:
    adapted = Adapted(Attending())
    assert list(adapted.layers) == ["before", "attentional"]
    drift, x = draw(3, DIM, seed=1), draw(3, 5, 4, seed=2)
    for mode in (True, False):
        adapted.network.train(mode)
        torch.testing.assert_close(adapted.together(drift, x), adapted.apart(drift, x), rtol=0, atol=1e-12)


class Encoding(nn.Module):
    """An encoder layer of torch, which has a fast form for evaluation without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


@pytest.mark.parametrize("gradients", [True, False])  # without gradients torch takes its fast path
def test_both_ways_are_the_same_for_the_encoder_layer_of_torch(gradients: bool) -> None:
    adapted = Adapted(Encoding())
    adapted.network.eval()
    drift, x = draw(3, DIM, seed=1), draw(3, 5, 4, seed=2)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(adapted.together(drift, x), adapted.apart(drift, x), rtol=0, atol=1e-12)


def test_a_parametrised_layer_is_refused() -> None:
    network = Holder(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="layer has a parametrised weight"):
        Adapted(network)


def test_a_pruned_layer_is_refused() -> None:
    network = Holder(prune.identity(nn.Linear(4, 2), "weight"))
    with pytest.raises(ValueError, match="layer has a parametrised weight"):
        Adapted(network)


# The modules stay as they are


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.second(self.first(x).mT)
        raise RuntimeError("in the middle of the forward pass")


@pytest.mark.parametrize("way", ["together", "apart"])
@pytest.mark.parametrize("network", [Failing, Folding])
def test_modules_are_as_before_after_a_call_that_worked_or_failed(network: type[nn.Module], way: str) -> None:
    adapted = Adapted(network())
    before = {name: (type(m), dict(vars(m)), dict(m._parameters)) for name, m in adapted.network.named_modules()}
    shape = (2, 3, 4) if network is Failing else (2, 12, 3)
    if network is Failing:
        with pytest.raises(RuntimeError, match="in the middle"):
            getattr(adapted, way)(draw(2, DIM), draw(*shape))
    else:
        getattr(adapted, way)(draw(2, DIM), draw(*shape))
    for name, module in adapted.network.named_modules():
        kind, attributes, parameters = before[name]
        assert type(module) is kind
        assert vars(module).keys() == attributes.keys()
        assert module._parameters.keys() == parameters.keys()
        assert all(module._parameters[key] is value for key, value in parameters.items())


def test_a_refused_batch_leaves_the_modules_as_they_were() -> None:
    adapted = Adapted(Folding())
    x = draw(3, 12, 4)
    expected = adapted.network(x)
    with pytest.raises(ValueError, match="a multiple of the 3 samples"):
        scaled_forward(nn.Sequential(Picker(), adapted.network), adapted.layers, adapted.coefficients(draw(3, DIM)), x)
    assert torch.equal(adapted.network(x), expected)


class Picker(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:1]


def test_a_forward_that_the_layer_was_given_is_kept() -> None:
    adapted = Adapted(Holder(nn.Linear(4, 2)))
    layer = adapted.layers["layer"]

    def own(x: Tensor) -> Tensor:
        return functional.linear(x, layer.weight)

    vars(layer)["forward"] = own
    adapted.together(draw(3, DIM), draw(3, 4))
    assert vars(layer).get("forward") is own


def test_hooks_of_adapted_layers_are_called() -> None:
    adapted = Adapted(Holder(nn.Linear(4, 2)))
    seen = []
    adapted.layers["layer"].register_forward_hook(lambda *_: seen.append(1))
    adapted.together(draw(3, DIM), draw(3, 4))
    adapted.apart(draw(3, DIM), draw(3, 4))
    assert len(seen) == 4


# The chain rule in closed form


def closed(adapted: Adapted, drift: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Gradients of a squared sum by `pull_back`."""
    with torch.no_grad():
        merged = adapted.merged.merge(adapted.generator(drift))
    for layer in merged:
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor.requires_grad_()
    adapted.merged.run(merged, x).square().sum().backward()
    found = adapted.merged.pull_back(merged)
    named = {f"offset {i}": gradient for i, gradient in enumerate(found)}
    return named | {name: layer.weight.grad for name, layer in adapted.layers.items() if layer.weight.grad is not None}


def automatic(adapted: Adapted, drift: Tensor, x: Tensor) -> dict[str, Tensor]:
    """The same by autograd through the merged weights."""
    for parameter in adapted.network.parameters():
        parameter.grad = None
    named = {f"offset {i}": offset for i, offset in enumerate(adapted.generator.offsets())}
    named |= {name: layer.weight for name, layer in adapted.layers.items()}
    value = adapted.merged.run(adapted.merged.merge(adapted.generator(drift)), x).square().sum()
    gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, gradients, strict=True))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: Holder(nn.Linear(4, 6)),
    "linear without bias": lambda: Holder(nn.Linear(4, 6, bias=False)),
    "folding": Folding,
    **{f"conv1d {options}": lambda options=options: Holder(nn.Conv1d(4, 8, 3, **options)) for options in CONVOLUTIONS},
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_closed_form_of_the_gradients_is_autograd(name: str) -> None:
    adapted = Adapted(LAYERS[name]())
    x = draw(2, 4, seed=2) if name.startswith("linear") else draw(2, 12 if name == "folding" else 4, 12, seed=2)
    drift = draw(DIM, seed=1)
    expected = automatic(adapted, drift, x)
    found = closed(adapted, drift, x)
    assert set(found) == set(expected)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-12, atol=1e-12)


def test_a_layer_that_is_called_twice_gets_both_gradients() -> None:
    class Twice(Holder):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.tanh(self.layer(x)))

    adapted = Adapted(Twice(nn.Linear(4, 4)))
    drift, x = draw(DIM, seed=1), draw(2, 4, seed=2)
    expected, found = automatic(adapted, drift, x), closed(adapted, drift, x)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-12, atol=1e-12)


def test_two_layers_with_one_weight_get_the_sum_of_their_gradients() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    adapted = Adapted(network)
    drift, x = draw(DIM, seed=1), draw(2, 4, seed=2)
    expected, found = automatic(adapted, drift, x), closed(adapted, drift, x)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-12, atol=1e-12)


def test_a_layer_that_was_not_run_has_no_gradient() -> None:
    class Idle(Holder):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 4))
            self.unused = nn.Linear(4, 3)

    adapted = Adapted(Idle())
    found = closed(adapted, draw(DIM, seed=1), draw(2, 4, seed=2))
    assert "unused" not in found
    gradients = [found[f"offset {i}"] for i in range(len(adapted.generator.groups))]
    assert [bool(gradient.any()) for gradient in gradients] == [True, False]


def test_frozen_weights_get_no_gradient() -> None:
    adapted = Adapted(Holder(nn.Linear(4, 4)))
    adapted.network.requires_grad_(False)
    found = closed(adapted, draw(DIM, seed=1), draw(2, 4, seed=2))
    assert set(found) == {"offset 0"}


# Properties


@st.composite
def layers(draw_: st.DrawFn) -> AdaptedLayer:
    bias = draw_(st.booleans())
    inputs, outputs = draw_(st.integers(1, 5)), draw_(st.integers(1, 5))
    if draw_(st.booleans()):
        return nn.Linear(inputs, outputs, bias=bias)
    groups = draw_(st.integers(1, 3))
    return nn.Conv1d(
        inputs * groups,
        outputs * groups,
        draw_(st.integers(1, 3)),
        stride=draw_(st.integers(1, 3)),
        dilation=draw_(st.integers(1, 3)),
        padding=draw_(st.integers(0, 3)),
        groups=groups,
        bias=bias,
    )


@given(layers(), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_merged_and_scaled_are_the_same_for_any_layer(layer: AdaptedLayer, samples: int, folded: int) -> None:
    adapted = Adapted(Holder(layer))
    drift = draw(samples, DIM, seed=1)
    shape = (layer.in_features,) if isinstance(layer, nn.Linear) else (layer.in_channels, 10)
    x = draw(samples, folded, *shape, seed=2)
    apart = [adapted.merged.run(adapted.merged.merge(adapted.generator(d)), s) for d, s in zip(drift, x, strict=True)]
    together = scaled_forward(Unfolding(adapted.network), adapted.layers, adapted.coefficients(drift), x)
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-11)


class Unfolding(nn.Module):
    """Fold the second axis into the first, then run."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.flatten(0, 1))


@given(layers())
@settings(max_examples=50, deadline=None)
def test_masks_have_rank_one_within_each_group(layer: AdaptedLayer) -> None:
    layer = layer.double()
    with torch.no_grad():
        layer.weight.fill_(1.0)
    shape = shape_of(layer)
    coefficients = AdaptationCoefficients(
        1 + draw(shape.outputs, seed=3), 1 + draw(shape.inputs, seed=4), draw(shape.outputs) if shape.has_bias else None
    )
    mask = merge(layer, coefficients)[0].detach()
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    for part in mask.chunk(groups):
        values = torch.linalg.svdvals(part.flatten(1))
        assert float(values[1:].sum()) <= 1e-12 * float(values[0])


@given(layers())
@settings(max_examples=30, deadline=None)
def test_the_shape_of_a_layer_is_what_the_generator_fills(layer: AdaptedLayer) -> None:
    shape = shape_of(layer)
    assert shape == LayerShape(layer.weight.shape[0], shape.inputs, layer.bias is not None)
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    assert layer.weight.shape[1] * groups == shape.inputs
