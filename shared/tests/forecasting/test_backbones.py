import dataclasses
import math
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.forecasting import BACKBONES, TCN, DLinear, Linear, NLinear, Problem, RevIN, Split, make_backbone
from corollary.forecasting.backbones.itransformer import ITransformer, Layer
from corollary.forecasting.backbones.patchtst import HOURLY, PatchTST
from corollary.forecasting.backbones.tcn import Block


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def windows(batch: int, lookback: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, lookback, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(*, lookback: int = 60, horizon: int = 24, variates: int = 7, covariates: int = 7) -> Problem:
    return Problem(
        name="noise",
        values=torch.zeros(1000, variates + covariates),
        variates=variates,
        split=Split(500, 700, 1000),
        lookback=lookback,
        horizon=horizon,
        period=1,
    )


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Names


def test_parameters_of_the_published_tcn() -> None:
    model = make_backbone("tcn", problem())
    assert BACKBONES["tcn"].calendar
    assert isinstance(model, RevIN)
    groups = {name: count(part) for name, part in model.forecaster.named_children()}
    convolution = 64 * 64 * 3 + 64
    assert groups == {
        "input_fc": 14 * 64 + 64,
        "blocks": 20 * convolution
        + (64 * 320 * 3 + 320)
        + (320 * 320 * 3 + 320)
        + (64 * 320 + 320),  # the projection of the last block
        "dropout": 0,
        "regressor": 321 * 24 * 7,
    }
    assert count(model) == sum(groups.values()) + 14 == 692_022


@pytest.mark.parametrize(("name", "expected"), [("linear", 61 * 24), ("nlinear", 61 * 24), ("dlinear", 2 * 61 * 24)])
def test_parameters_of_the_linear_backbones(name: str, expected: int) -> None:
    model = make_backbone(name, problem())
    assert count(model) == expected
    assert model(torch.zeros(2, 60, 14)).shape == (2, 24, 7)
    assert not BACKBONES[name].calendar


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown backbone 'nlinaer'; did you mean 'nlinear'"):
        make_backbone("nlinaer", problem())


def test_initialisation_comes_from_the_global_generator() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.flatten() for p in make_backbone("tcn", problem()).parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# Linear maps


def test_linear_is_one_map_for_all_variates() -> None:
    model, x = Linear(5, 3, 2).double(), windows(4, 5, 3)
    forecast = model(x)
    for variate in range(2):
        expected = x[:, :, variate] @ model.linear.weight.T + model.linear.bias
        torch.testing.assert_close(forecast[:, :, variate], expected, rtol=1e-12, atol=1e-13)


def test_nlinear_by_hand() -> None:
    model, x = NLinear(5, 3, 2).double(), windows(4, 5, 3)
    last = x[:, -1, :2]
    for variate in range(2):
        centred = x[:, :, variate] - last[:, variate : variate + 1]
        expected = centred @ model.linear.weight.T + model.linear.bias + last[:, variate : variate + 1]
        torch.testing.assert_close(model(x)[:, :, variate], expected, rtol=1e-12, atol=1e-13)


def test_nlinear_without_weights_repeats_the_last_value() -> None:
    model, x = NLinear(5, 3, 2).double(), windows(4, 5, 2)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(model(x), x[:, -1:].expand(-1, 3, -1))


@pytest.mark.parametrize("kernel", [1, 3, 5, 25])
def test_dlinear_by_hand(kernel: int) -> None:
    model, x = DLinear(6, 3, 2, kernel=kernel).double(), windows(4, 6, 3)
    forecast = model(x)
    half = kernel // 2
    for sample in range(4):
        for variate in range(2):
            series = x[sample, :, variate].tolist()
            trend = [
                sum(series[min(max(t + offset, 0), 5)] for offset in range(-half, half + 1)) / kernel for t in range(6)
            ]
            rest = [value - average for value, average in zip(series, trend, strict=True)]
            expected = model.trend(torch.tensor(trend, dtype=x.dtype)) + model.seasonal(
                torch.tensor(rest, dtype=x.dtype)
            )
            torch.testing.assert_close(forecast[sample, :, variate], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kernel", [0, 2, -1])
def test_dlinear_needs_an_odd_kernel(kernel: int) -> None:
    with pytest.raises(ValueError, match=f"kernel must be odd and positive, got {kernel}"):
        DLinear(6, 3, 2, kernel=kernel)


def shifts(model: nn.Module, x: Tensor, variates: int) -> tuple[Tensor, Tensor]:
    """How much the forecast moves when every variate is moved by an amount of its own, and that amount."""
    amount = torch.arange(1.0, variates + 1, dtype=x.dtype) * 3
    moved = x.clone()
    moved[..., :variates] += amount
    return model(moved) - model(x), amount


def test_forecast_moves_with_the_series() -> None:
    x = windows(4, 60, 9)
    models: list[nn.Module] = [NLinear(60, 8, 2).double(), RevIN(TCN(9, 8, 2).double(), 2).double().eval()]
    for model in models:
        difference, amount = shifts(model, x, 2)
        torch.testing.assert_close(difference, amount.expand_as(difference), rtol=0, atol=1e-10)


def test_dlinear_moves_with_the_sum_of_its_trend() -> None:
    model = DLinear(60, 8, 2).double()
    difference, amount = shifts(model, windows(4, 60, 2), 2)
    expected = model.trend.weight.sum(1)[:, None] * amount
    torch.testing.assert_close(difference, expected.expand_as(difference), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [Linear, NLinear, DLinear])
def test_linear_maps_ignore_covariates_and_order_of_variates(kind: Callable[..., nn.Module]) -> None:
    model, x = kind(60, 8, 3).double(), windows(2, 60, 5)
    assert torch.equal(model(x), model(x[..., :3]))
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(x[..., order]), model(x)[..., order], rtol=0, atol=1e-14)


# Reversible normalisation


class Recorder(nn.Module):
    """Hands back the end of what it is given."""

    def __init__(self, horizon: int, variates: int) -> None:
        super().__init__()
        self.horizon, self.variates = horizon, variates

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x[:, -self.horizon :, : self.variates]


def test_normalisation_by_hand() -> None:
    inner = Recorder(3, 2)
    model, x = RevIN(inner, 2).double(), windows(4, 10, 5) * 7 + 3
    with torch.no_grad():
        model.weight.copy_(torch.tensor([2.0, -0.5]))
        model.bias.copy_(torch.tensor([0.25, 4.0]))
    model(x)
    for variate, (weight, bias) in enumerate([(2.0, 0.25), (-0.5, 4.0)]):
        series = x[..., variate]
        mean = series.sum(1, keepdim=True) / 10
        deviation = ((series - mean).square().sum(1, keepdim=True) / 10 + 1e-5).sqrt()
        expected = (series - mean) / deviation * weight + bias
        torch.testing.assert_close(inner.seen[..., variate], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(inner.seen[..., 2:], x[..., 2:])  # covariates are not touched


def test_normalisation_is_undone() -> None:
    model, x = RevIN(Recorder(3, 2), 2).double(), windows(4, 10, 5) * 7 + 3
    torch.testing.assert_close(model(x), x[:, -3:, :2], rtol=0, atol=1e-8)  # up to the epsilon^2 of the weight
    with torch.no_grad():
        model.weight.copy_(torch.tensor([2.0, -0.5]))
        model.bias.copy_(torch.tensor([0.25, 4.0]))
    torch.testing.assert_close(model(x), x[:, -3:, :2], rtol=0, atol=1e-6)


def test_normalisation_carries_scale_and_shift() -> None:
    model, x = RevIN(TCN(2, 8, 2), 2).double().eval(), windows(4, 60, 2)
    model.epsilon = 0.0
    torch.testing.assert_close(model(x * 10 - 4), model(x) * 10 - 4, rtol=0, atol=1e-9)


def test_constant_window_is_forecast_finitely() -> None:
    model = RevIN(TCN(2, 8, 2), 2).double().eval()
    x = torch.full((1, 60, 2), 5.0, dtype=torch.float64, requires_grad=True)
    forecast = model(x)
    forecast.sum().backward()
    assert forecast.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        model.weight.zero_()
    assert model(x).isfinite().all()


def test_statistics_carry_no_gradient() -> None:
    # With an inner forecast of zero, the forecast is -bias / weight * deviation + mean.
    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, -3:, :1] * 0

    model = RevIN(Zero(), 1).double()
    nn.init.constant_(model.bias, 0.5)
    x = windows(1, 10, 1).requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
    deviation = (x.detach().var(unbiased=False) + 1e-5).sqrt()
    assert model.bias.grad is not None
    torch.testing.assert_close(model.bias.grad, -3 * deviation[None], rtol=1e-9, atol=0)


# The convolutions


def dilated(model: TCN, x: Tensor) -> Tensor:
    """The published form: every position, dilation 2^i in block i."""
    hidden = model.input_fc(x).transpose(1, 2)
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        step, inner = 2**i, hidden
        for convolution in (block.first.conv, block.second.conv):
            assert isinstance(convolution, nn.Conv1d)
            activated = functional.gelu(inner)
            inner = functional.conv1d(activated, convolution.weight, convolution.bias, padding=step, dilation=step)
        hidden = inner + (hidden if block.projector is None else block.projector(hidden))
    return model.regressor(hidden[:, :, -1]).reshape(len(x), model.horizon, model.variates)


@pytest.mark.parametrize("lookback", [1, 2, 3, 7, 16, 33, 59, 60, 61])
@pytest.mark.parametrize("depth", [1, 3, 10])
def test_sparse_evaluation_is_the_dilated_network(lookback: int, depth: int) -> None:
    model = TCN(5, 4, 3, width=6, depth=depth, output=9).double().eval()
    x = windows(2, lookback, 5).requires_grad_()
    weight = windows(2, 4, 3, seed=1)
    gradients: list[list[Tensor]] = []
    forecasts: list[Tensor] = []
    for forward in (model, lambda x: dilated(model, x)):
        model.zero_grad()
        x.grad = None
        forecast = forward(x)
        (forecast * weight).sum().backward()
        forecasts.append(forecast.detach())
        gradients.append([tensor.grad for tensor in (x, *model.parameters()) if tensor.grad is not None])
    torch.testing.assert_close(forecasts[0], forecasts[1], rtol=0, atol=1e-12)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert len(gradients[0]) == 1 + len(list(model.parameters()))
    assert sum(bool(gradient.any()) for gradient in gradients[0]) > len(gradients[0]) // 2


def test_published_size_is_the_dilated_network_too() -> None:
    model = TCN(14, 24, 7).double().eval()
    x = windows(2, 60, 14)
    torch.testing.assert_close(model(x), dilated(model, x), rtol=0, atol=1e-12)


def test_convolution_can_be_another_layer() -> None:
    made: list[tuple[int, int, int]] = []

    class Own(nn.Conv1d):
        def __init__(self, inputs: int, outputs: int, kernel: int, *, padding: int) -> None:
            super().__init__(inputs, outputs, kernel, padding=padding)
            made.append((inputs, outputs, kernel))

    model = TCN(5, 4, 3, width=6, depth=2, output=9, convolution=Own)
    assert made == [(6, 6, 3)] * 4 + [(6, 9, 3), (9, 9, 3)]
    assert model(torch.zeros(1, 10, 5)).shape == (1, 4, 3)


def test_dropout_acts_in_training_only() -> None:
    model, x = TCN(5, 4, 3, width=6, depth=2, output=9, dropout=0.5), torch.randn(1, 10, 5)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_covariates_reach_the_forecast_of_the_tcn() -> None:
    model, x = RevIN(TCN(5, 4, 3), 3).double().eval(), windows(1, 60, 5)
    changed = x.clone()
    changed[..., 4] += 1
    assert (model(changed) - model(x)).abs().max() > 1e-4


# What every backbone does


SMALL_WITH_CALENDAR = dataclasses.replace(problem(lookback=24, horizon=6, variates=3), name="ETTh2")
SMALL = dataclasses.replace(SMALL_WITH_CALENDAR, values=SMALL_WITH_CALENDAR.values[:, :3])


def sine_windows(calendar: bool) -> tuple[Tensor, Tensor]:
    steps = torch.arange(30.0) + torch.arange(0, 8.0)[:, None]
    series = torch.stack([torch.sin(steps * rate) for rate in (0.3, 0.5, 0.8)], -1)
    hours = (steps % 24)[..., None].expand(-1, -1, 7) if calendar else steps[..., None][..., :0]
    x = torch.cat([series, hours], -1)[:, :24]
    return x, series[:, 24:]


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_forecasts_and_learns(name: str) -> None:
    calendar = BACKBONES[name].calendar
    model = make_backbone(name, SMALL_WITH_CALENDAR if calendar else SMALL)
    x, y = sine_windows(calendar)
    model.eval()
    with torch.no_grad():
        before = functional.mse_loss(model(x), y).item()
        single = model(x[5:6])
        torch.testing.assert_close(single, model(x)[5:6], rtol=1e-4, atol=1e-5)  # windows do not mix in evaluation
    assert single.shape == (1, 6, 3)
    assert single.dtype == torch.float32
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(4):
        optimizer.zero_grad()
        functional.mse_loss(model(x), y).backward()
        optimizer.step()
    model.train()
    functional.mse_loss(model(x[:1])[0], y[0]).backward()  # a batch of one, as online
    model.eval()
    with torch.no_grad():
        after = functional.mse_loss(model(x), y).item()
    assert math.isfinite(after)
    assert after < before


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_is_restored_by_its_state(name: str) -> None:
    calendar = BACKBONES[name].calendar
    x, _ = sine_windows(calendar)
    models = [make_backbone(name, SMALL_WITH_CALENDAR if calendar else SMALL) for _ in range(2)]
    models[0].train()
    models[0](x)  # moves running statistics, where there are any
    assert not torch.equal(models[0].eval()(x), models[1].eval()(x))
    models[1].load_state_dict(models[0].state_dict())
    assert torch.equal(models[0](x), models[1](x))


# PatchTST


def patchtst_count(lookback: int, horizon: int, width: int, hidden: int, layers: int = 3) -> int:
    patches = (lookback - 16) // 8 + 1
    attention, norms = 4 * (width * width + width), 2 * 2 * width
    feed_forward = (width * hidden + hidden) + (hidden * width + width)
    embedding = 16 * width + width + patches * width
    return embedding + layers * (attention + feed_forward + norms) + (patches * width + 1) * horizon


@pytest.mark.parametrize(
    ("name", "width", "hidden"), [("ETTh1", 16, 128), ("ETTh2", 16, 128), ("ETTm1", 128, 256), ("Exchange", 64, 128)]
)
def test_parameters_of_patchtst(name: str, width: int, hidden: int) -> None:
    model = make_backbone("patchtst", dataclasses.replace(problem(lookback=340, covariates=0), name=name))
    assert count(model) == patchtst_count(340, 24, width, hidden)
    assert all(parameter.requires_grad for parameter in model.parameters())  # positions are learned, too


def trained_patchtst(lookback: int = 60, *, variates: int = 3, dropout: float = 0.0) -> PatchTST:
    """With statistics and weights off their start."""
    model = PatchTST(lookback, 8, variates, size=dataclasses.replace(HOURLY, dropout=dropout)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    model(windows(16, lookback, variates))
    return model.eval()


def test_patchtst_forecasts_each_variate_by_itself() -> None:
    model, x = trained_patchtst(), windows(2, 60, 3)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(x[..., order]), model(x)[..., order], rtol=0, atol=1e-12)
    changed = x.clone()
    changed[..., 1] = 5 * changed[..., 1].square()
    same = (model(changed) - model(x)).abs().amax((0, 1)) < 1e-12
    assert same.tolist() == [True, False, True]


def test_patchtst_carries_shift_and_scale() -> None:
    model, x = trained_patchtst(), windows(2, 60, 3)
    difference, amount = shifts(model, x, 3)
    torch.testing.assert_close(difference, amount.expand_as(difference), rtol=0, atol=1e-10)
    # 1e-5 is added to the variance, so the scale is carried up to that.
    torch.testing.assert_close(model(x * 1e4), model(x * 1e3) * 10, rtol=1e-6, atol=0)


def test_patchtst_ignores_covariates() -> None:
    model, x = trained_patchtst(), windows(2, 60, 5)
    assert torch.equal(model(x), model(x[..., :3]))


def test_patchtst_reads_the_newest_rows() -> None:
    # 61 rows hold 6 patches of 16 rows at stride 8, which end at the last row; the first 5 rows are read by the
    # normalisation only.
    model, x = trained_patchtst(61), windows(1, 61, 3)
    mean_kept = x.clone()
    mean_kept[:, [0, 4]] = x[:, [4, 0]]
    torch.testing.assert_close(model(mean_kept), model(x), rtol=0, atol=1e-12)
    swapped = x.clone()
    swapped[:, [59, 60]] = x[:, [60, 59]]
    assert (model(swapped) - model(x)).abs().max() > 1e-4


def test_patchtst_without_head_forecasts_the_mean() -> None:
    model, x = trained_patchtst(), windows(2, 60, 3)
    head = model.forecaster.head.projection
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, 2.0)
    deviation = (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    expected = (x.mean(1, keepdim=True) + 2 * deviation).expand(-1, 8, -1)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_patchtst_normalises_after_the_residual_sum() -> None:
    model = PatchTST(60, 8, 3, size=dataclasses.replace(HOURLY, dropout=0.0)).double().train()
    hidden = model.forecaster.model(windows(32, 60, 3)).last_hidden_state
    assert hidden.shape == (32, 3, 6, 16)
    torch.testing.assert_close(hidden.mean((0, 1, 2)), torch.zeros(16).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(hidden.var((0, 1, 2), unbiased=False), torch.ones(16).double(), rtol=0, atol=0.01)


def test_patchtst_moves_its_running_statistics_in_training_only() -> None:
    model, x = trained_patchtst(dropout=0.3), windows(1, 60, 3)
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    assert len(before) == 2 * 2 * 3
    model(x)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers() if "running" in name)
    model.train()
    assert not torch.equal(model(x), model(x))  # dropout
    assert not any(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers() if "running" in name)


def test_patchtst_without_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"install corollary\[forecasting\]"):
        make_backbone("patchtst", problem())


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"lookback": 16}, "lookback longer than one patch of 16 rows, got 16"),
        ({"horizon": 0}, "horizon must be positive, got 0"),
        ({"variates": 0}, "variates must be positive, got 0"),
        ({"stride": 0}, "stride must be positive, got 0"),
    ],
)
def test_impossible_patchtst_is_refused(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PatchTST(**{"lookback": 60, "horizon": 8, "variates": 2} | sizes)  # ty: ignore[invalid-argument-type]


# iTransformer


def itransformer_count(lookback: int, horizon: int, width: int, layers: int) -> int:
    square, norm = width * width + width, 2 * width
    return (lookback + 1) * width + layers * (6 * square + 2 * norm) + norm + (width + 1) * horizon


@pytest.mark.parametrize(
    ("name", "width", "layers"), [("ETTh1", 256, 2), ("ETTm1", 128, 2), ("Weather", 512, 3), ("Traffic", 512, 4)]
)
def test_parameters_of_itransformer(name: str, width: int, layers: int) -> None:
    model = make_backbone("itransformer", dataclasses.replace(problem(lookback=336), name=name))
    assert count(model) == itransformer_count(336, 24, width, layers)
    matrices = [module for module in model.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert sum(map(count, matrices)) + sum(map(count, norms)) == count(model)  # nothing that cannot be adapted


def small_itransformer(**changes: object) -> ITransformer:
    sizes = {"width": 16, "hidden": 24, "heads": 4}
    return ITransformer(30, 8, 3, **sizes | changes).double().eval()  # ty: ignore[invalid-argument-type]


def test_itransformer_by_hand() -> None:
    model, x = small_itransformer(layers=2), windows(2, 30, 5)
    forecast = model(x)
    norm = functional.layer_norm

    def linear(layer: nn.Linear, values: Tensor) -> Tensor:
        return values @ layer.weight.T + layer.bias

    for sample in range(2):
        series = x[sample, :, :3]
        mean, deviation = series.mean(0), (((series - series.mean(0)) ** 2).mean(0) + 1e-5).sqrt()
        tokens = linear(model.embedding, torch.cat([(series - mean) / deviation, x[sample, :, 3:]], 1).T)
        for layer in model.encoder:
            assert isinstance(layer, Layer)
            parts = [linear(one, tokens) for one in (layer.attention.query, layer.attention.key, layer.attention.value)]
            heads = []
            for head in range(4):
                query, key, value = (part[:, 4 * head : 4 * head + 4] for part in parts)
                heads.append((query @ key.T / 2).softmax(1) @ value)
            attended = linear(layer.attention.output, torch.cat(heads, 1))
            tokens = norm(tokens + attended, (16,), layer.norm1.weight, layer.norm1.bias)
            hidden = linear(layer.expand, tokens)
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            tokens = norm(tokens + linear(layer.contract, hidden), (16,), layer.norm2.weight, layer.norm2.bias)
        tokens = norm(tokens, (16,), model.norm.weight, model.norm.bias)[:3]
        expected = linear(model.projection, tokens).T * deviation + mean
        torch.testing.assert_close(forecast[sample], expected, rtol=0, atol=1e-12)


def test_itransformer_permutes_with_its_variates() -> None:
    model, x = small_itransformer(), windows(2, 30, 3)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(x[..., order]), model(x)[..., order], rtol=0, atol=1e-12)
    changed = x.clone()
    changed[..., 1] = changed[..., 1].square()
    assert ((model(changed) - model(x)).abs().amax((0, 1)) > 1e-6).all()  # every variate looks at every other


def test_itransformer_carries_shift_and_scale() -> None:
    model, x = small_itransformer(), windows(2, 30, 4)
    difference, amount = shifts(model, x, 3)
    torch.testing.assert_close(difference, amount.expand_as(difference), rtol=0, atol=1e-10)
    scales = torch.tensor([1e3, 1e4, 1e5, 1.0], dtype=torch.float64)
    tenfold = torch.tensor([10.0, 10.0, 10.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(model(x * scales * tenfold), model(x * scales) * 10, rtol=1e-6, atol=0)


def test_itransformer_reads_covariates_in_any_order_and_number() -> None:
    model, x = small_itransformer(), windows(2, 30, 6)
    forecast = model(x)
    torch.testing.assert_close(model(x[..., [0, 1, 2, 5, 3, 4]]), forecast, rtol=0, atol=1e-12)
    assert (model(x[..., :5]) - forecast).abs().max() > 1e-6
    assert model(x[..., :3]).shape == (2, 8, 3)


def test_itransformer_scales_the_covariates_it_is_told_to_read() -> None:
    x = windows(2, 30, 6)
    x[..., 4] = torch.arange(30) % 24
    told = small_itransformer(covariates=((1, 0, 23),))
    free = small_itransformer()
    free.load_state_dict(told.state_dict())
    by_hand = torch.cat([x[..., :3], (x[..., 4:5] / 23) - 0.5], -1)
    torch.testing.assert_close(told(x), free(by_hand), rtol=0, atol=1e-12)


def test_itransformer_of_a_problem_reads_four_calendar_features() -> None:
    model = make_backbone("itransformer", dataclasses.replace(problem(lookback=60), name="ETTh2"))
    assert isinstance(model, ITransformer)
    assert model.columns == [7 + 1, 7 + 2, 7 + 3, 7 + 4]
    ends = torch.stack([model.low, model.low + model.span], 1).tolist()
    assert ends == [[0, 23], [0, 6], [1, 31], [1, 366]]
    plain = make_backbone("itransformer", problem(covariates=0))
    assert plain(torch.zeros(1, 60, 7)).shape == (1, 24, 7)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"heads": 3}, "heads must divide the width 16, got 3"),
        ({"heads": 0}, "heads must be positive, got 0"),
        ({"layers": 0}, "layers must be positive, got 0"),
    ],
)
def test_impossible_itransformer_is_refused(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small_itransformer(**sizes)


@pytest.mark.parametrize("columns", [1, 4, 6])
def test_a_network_that_mixes_columns_refuses_another_number_of_them(columns: int) -> None:
    with pytest.raises(ValueError, match=rf"x must have the 5 columns that .*, got \(2, 60, {columns}\)"):
        TCN(5, 4, 3)(torch.randn(2, 60, columns))


def test_fewer_columns_than_variates_are_not_broadcast() -> None:
    patchtst = PatchTST(60, 4, 3, size=HOURLY)
    for model in (RevIN(TCN(3, 4, 3), 3), RevIN(NLinear(60, 4, 3), 3), patchtst):
        with pytest.raises(ValueError, match=r"x must have 3 columns or more, got \(2, 60, 1\)"):
            model(torch.randn(2, 60, 1))
