"""Norm layers, adapted on request, and the Conv1D of GPT-2, adapted wherever Linear is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.evaluation import Stream, prequential
from corollary.forecasting import make_optimizer, restore_streaming_state, streaming_state
from corollary.runs import load_checkpoint, save_checkpoint
from corollary_proceed import (
    NORMS,
    AdaptationCoefficients,
    LayerShape,
    Proceed,
    ProceedForecaster,
    adaptable_layers,
    merge,
    scaled_forward,
)
from corollary_proceed.adaptation import gpt2_conv1d, shape_of
from corollary_proceed.exact_adaptation import HORIZON, LOOKBACK, VARIATES, batch, wrapped

transformers = pytest.importorskip("transformers")
Conv1D: Any = pytest.importorskip("transformers.pytorch_utils").Conv1D
EVERYTHING = (nn.Linear, nn.Conv1d, *NORMS)


class Normed(nn.Module):
    """Variates folded into the batch, batch norm with and without a time axis, layer norm, GPT-2's linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 6, 3, padding=1)
        self.channels = nn.BatchNorm1d(6)
        self.norm = nn.LayerNorm(6)
        self.c_fc = Conv1D(8, 6)
        self.norm_without_bias = nn.LayerNorm(8, bias=False)
        self.features = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, HORIZON)
        nn.init.normal_(self.c_fc.weight)
        for layer in (self.channels, self.norm, self.c_fc, self.norm_without_bias, self.features):
            for parameter in layer.parameters():
                nn.init.normal_(parameter)
        for layer in (self.channels, self.features):
            nn.init.normal_(layer.running_mean)  # ty: ignore[invalid-argument-type]

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N)."""
        folded = x.mT.flatten(0, 1).unsqueeze(1)
        hidden = self.norm(functional.gelu(self.channels(self.conv(folded))).mT)
        hidden = self.features(self.norm_without_bias(torch.tanh(self.c_fc(hidden))).mean(1))
        return self.head(hidden).unflatten(0, x.shape[::2]).mT


class Gpt2(nn.Module):
    """A whole GPT-2 between two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(VARIATES, 8), nn.Linear(8, HORIZON * VARIATES)
        config = transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=LOOKBACK, vocab_size=2)
        self.gpt2 = transformers.GPT2Model(config)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N)."""
        hidden = self.gpt2(inputs_embeds=self.embed(x)).last_hidden_state[:, -1]
        return self.head(hidden).unflatten(-1, (HORIZON, VARIATES))


@pytest.fixture(params=[Normed, Gpt2])
def backbone(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return request.param().double().eval()


def coefficients(outputs: int, inputs: int, *, bias: bool = True) -> AdaptationCoefficients:
    random = torch.Generator().manual_seed(4)
    draw = [torch.randn(size, generator=random, dtype=torch.float64) for size in (outputs, inputs, outputs)]
    return AdaptationCoefficients(draw[0], draw[1], draw[2] if bias else None)


# Which layers


def test_gpt2_layers_are_adapted_wherever_linear_ones_are_and_norms_on_request_only() -> None:
    linear = {"conv", "c_fc", "head"}
    norms = {"channels", "norm", "norm_without_bias", "features"}
    assert set(adaptable_layers(Normed())) == linear
    assert set(adaptable_layers(Normed(), (nn.Conv1d,))) == {"conv"}
    assert set(adaptable_layers(Normed(), (Conv1D,))) == {"c_fc"}
    assert set(adaptable_layers(Normed(), EVERYTHING)) == linear | norms
    assert set(adaptable_layers(Normed(), (nn.LayerNorm,))) == {"norm", "norm_without_bias"}


def test_every_linear_map_of_gpt2_is_found() -> None:
    found = adaptable_layers(Gpt2())
    assert {name.rpartition(".")[2] for name in found} == {"embed", "head", "c_attn", "c_proj", "c_fc"}
    assert len(found) == 2 + 2 * 4
    assert shape_of(found["gpt2.h.0.attn.c_attn"]) == LayerShape(24, 8, True)


def test_without_transformers_there_is_no_such_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpt2_conv1d() is Conv1D
    monkeypatch.delitem(__import__("sys").modules, "transformers.pytorch_utils")
    assert gpt2_conv1d() is None
    assert list(adaptable_layers(nn.Linear(2, 2))) == [""]


def test_a_norm_layer_has_a_scale_and_a_shift_for_every_output_and_no_inputs() -> None:
    assert shape_of(nn.LayerNorm(5)) == LayerShape(5, 0, True)
    assert shape_of(nn.LayerNorm(5, bias=False)) == LayerShape(5, 0, False)
    assert shape_of(nn.BatchNorm1d(5)).width == 10


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LayerNorm(4, elementwise_affine=False), "0 is a LayerNorm without weight, so that there is nothing"),
        (nn.BatchNorm1d(4, affine=False), "0 is a BatchNorm1d without weight, so that there is nothing"),
        (nn.LayerNorm((3, 4)), r"0 must normalise the last axis alone, got the shape \(3, 4\)"),
    ],
    ids=str,
)
def test_norms_that_cannot_be_scaled_are_refused_if_they_are_asked_for(layer: nn.Module, message: str) -> None:
    network = nn.Sequential(layer, nn.Linear(4, 4))
    with pytest.raises(ValueError, match=message):
        adaptable_layers(network, EVERYTHING)
    assert list(adaptable_layers(network)) == ["1"]


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.Embedding])
def test_other_kinds_are_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=f"Linear, Conv1d, LayerNorm or BatchNorm1d, got {kind.__name__}"):
        adaptable_layers(nn.Linear(2, 2), (nn.Linear, kind))


# The two ways


def test_merged_and_scaled_are_the_same(backbone: nn.Module) -> None:
    model = wrapped(backbone, disturb=0.3, adapt=EVERYTHING)
    x, _ = batch(4, seed=7)
    apart = torch.cat([model(x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(model(x), apart, rtol=0, atol=1e-12)
    assert float((apart - backbone(x)).detach().abs().max()) > 1e-2


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 7)], ids=str)
def test_both_ways_of_one_batch_norm(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.BatchNorm1d(5).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x, found = torch.randn(shape, dtype=torch.float64), [coefficients(5, 0), coefficients(5, 0)]
    together = AdaptationCoefficients(*(torch.stack([f[i] for f in found]) for i in range(3)))  # ty: ignore
    scaled = scaled_forward(layer, {"": layer}, {"": together}, x[:2])
    weight, bias = merge(layer, found[0])
    merged = functional.batch_norm(x[:2], layer.running_mean, layer.running_var, weight, bias, eps=layer.eps)
    torch.testing.assert_close(scaled, merged, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.Sequential(Conv1D(6, 4)), nn.Sequential(nn.LayerNorm(4))], ids=str)
@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 2, 5, 4)], ids=str)
def test_every_sample_has_its_own_scales(kind: nn.Module, shape: tuple[int, ...]) -> None:
    network = kind.double()
    (layer,) = adaptable_layers(network, EVERYTHING).values()
    outputs, inputs, _ = shape_of(layer)
    random = torch.Generator().manual_seed(3)
    parts = [torch.randn(3, size, generator=random, dtype=torch.float64) for size in (outputs, inputs, outputs)]
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    found = scaled_forward(network, {"0": layer}, {"0": AdaptationCoefficients(*parts)}, x)
    for i in range(3):
        weight, bias = merge(layer, AdaptationCoefficients(*(part[i] for part in parts)))
        if isinstance(layer, nn.LayerNorm):
            expected = functional.layer_norm(x[i], (4,), weight, bias, layer.eps)
        else:
            expected = x[i] @ weight + bias
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-12)


def test_the_merged_layer_of_gpt2_by_hand() -> None:
    layer = Conv1D(2, 3).double()
    beta, alpha, gamma = found = coefficients(2, 3)
    assert gamma is not None
    weight, bias = merge(layer, found)
    for i in range(3):
        for o in range(2):
            torch.testing.assert_close(weight[i, o], beta[o] * alpha[i] * layer.weight[i, o])
    torch.testing.assert_close(bias, layer.bias + gamma)


def test_the_merged_norm_by_hand() -> None:
    layer = nn.LayerNorm(3).double()
    nn.init.normal_(layer.weight)
    beta, _, gamma = found = coefficients(3, 0)
    assert gamma is not None
    weight, bias = merge(layer, found)
    torch.testing.assert_close(weight, beta * layer.weight)
    torch.testing.assert_close(bias, layer.bias + gamma)


@pytest.mark.parametrize("training", [False, True])
def test_before_training_the_adapted_network_is_the_given_one(backbone: nn.Module, training: bool) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = wrapped(backbone, adapt=EVERYTHING)
    x, _ = batch(4, seed=3)
    model.train(training)
    torch.testing.assert_close(model(x), backbone(x), rtol=0, atol=1e-12)
    assert torch.equal(model(x[:1]), backbone(x[:1]))


def test_batch_norm_follows_its_statistics_once_a_batch() -> None:
    torch.manual_seed(0)
    model = wrapped(Normed().double(), disturb=0.3, adapt=EVERYTHING)
    layer: Any = model.backbone.channels
    before, bias = layer.running_mean.clone(), layer.bias
    x, _ = batch(4, seed=3)
    model.train()
    model(x)
    assert int(layer.num_batches_tracked) == 1
    assert not torch.equal(layer.running_mean, before)
    assert layer.bias is bias


# Gradients and state


def test_the_online_gradients_are_those_of_autograd(backbone: nn.Module) -> None:
    model = wrapped(backbone, disturb=0.3, adapt=EVERYTHING)
    model.freeze_generator()
    x, y = batch(1, seed=9)
    learning = [p for p in model.online_parameters() if p.requires_grad]
    expected = torch.autograd.grad(functional.mse_loss(model(x), y), learning, allow_unused=True)
    model.online_loss_gradients(x[0], y[0])
    moved = 0
    for parameter, gradient in zip(learning, expected, strict=True):
        if gradient is None:
            assert parameter.grad is None or not parameter.grad.any()
        else:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)
            moved += bool(gradient.any())
    assert moved > len(learning) // 2


def test_gradients_of_a_batch_are_the_sum_over_its_samples(backbone: nn.Module) -> None:
    model = wrapped(backbone, disturb=0.3, adapt=EVERYTHING)
    x, y = batch(3, seed=9)
    learning = [p for p in model.parameters() if p.requires_grad]
    together = torch.autograd.grad((model(x) - y).square().sum(), learning, allow_unused=True)
    losses = [(model(x[i : i + 1]) - y[i : i + 1]).square().sum() for i in range(3)]
    apart = torch.autograd.grad(torch.stack(losses).sum(), learning, allow_unused=True)
    for first, second in zip(together, apart, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-11)


def test_gradients_of_the_coefficients_by_central_differences() -> None:
    torch.manual_seed(0)
    layer = Conv1D(3, 4).double()
    x = torch.randn(2, 4, dtype=torch.float64)

    def value(beta: Tensor, alpha: Tensor, gamma: Tensor) -> Tensor:
        found = AdaptationCoefficients(beta[None], alpha[None], gamma[None])
        return scaled_forward(layer, {"": layer}, {"": found}, x[:1]).square().sum()

    inputs = tuple(part.requires_grad_() for part in coefficients(3, 4) if part is not None)
    assert torch.autograd.gradcheck(value, inputs)


def test_biases_of_adapted_norms_are_frozen_and_those_of_others_learn() -> None:
    for adapt, learns in ((EVERYTHING, False), ((nn.Linear, nn.Conv1d), True)):
        model = wrapped(Normed().double(), adapt=adapt)
        backbone: Any = model.backbone
        assert backbone.norm.weight.requires_grad
        assert backbone.norm.bias.requires_grad is learns
        assert not backbone.c_fc.bias.requires_grad


def forecaster(make: Callable[[], nn.Module], seed: int) -> ProceedForecaster:
    torch.manual_seed(seed)
    model = Proceed(
        make().double(),
        lookback=LOOKBACK,
        horizon=HORIZON,
        variates=VARIATES,
        concept_dim=4,
        bottleneck_dim=2,
        adapt=EVERYTHING,
    ).double()
    model.set_reference(*batch(1, seed=seed))
    return ProceedForecaster(model, make_optimizer("adam", model.parameters(), 1e-2))


@pytest.mark.parametrize("make", [Normed, Gpt2])
def test_a_restored_forecaster_goes_on_bit_identically(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Running statistics, moments and the reference are part of the state."""
    values = torch.randn(60, VARIATES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    start = LOOKBACK + HORIZON

    def run(of: ProceedForecaster, first: int) -> Tensor:
        rows = Stream(values, lookback=LOOKBACK, horizon=HORIZON, variates=VARIATES)
        return torch.from_numpy(prequential(of, rows, range(first, first + 8)).squared)

    with torch.random.fork_rng(devices=[]):
        whole = forecaster(make, 0)
        run(whole, start)
        save_checkpoint(tmp_path / "state.pt", streaming_state(whole))
        expected = run(whole, start + 8)
        other = forecaster(make, 5)
        restore_streaming_state(other, load_checkpoint(tmp_path / "state.pt"))
        assert torch.equal(run(other, start + 8), expected)
