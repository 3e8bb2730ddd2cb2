import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.forecasting import FitConfig, Linear, Problem, Setting, Split, experiment, make_optimizer, make_setting
from corollary.forecasting.backbones.fsnet import CalibratedConvs, make_fsnet
from corollary.forecasting.onenet import Mixture, OneNet, OneNetForecaster, OneNetMethod, PretrainOneNet
from corollary.runs import Run, RunStore

H, N = 4, 3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_mixture(*, dropout: float = 0.0) -> Mixture:
    mixture = Mixture(N, H, dropout=dropout).double()
    with torch.no_grad():
        mixture.weight.copy_(torch.tensor([-1.0, 0.5, 2.0]))
    return mixture


# The mixture


def test_mixture_by_hand() -> None:
    mixture = make_mixture()
    mixture.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    share = [1 / (1 + math.exp(-v)) for v in (0.0, 0.5, 1.0)]
    forecast = mixture(torch.full((1, H, N), 10.0).double(), torch.full((1, H, N), 20.0).double())
    for i in range(N):
        assert forecast[0, :, i].tolist() == pytest.approx([10 * share[i] + 20 * (1 - share[i])] * H)


def test_a_new_mixture_is_the_mean() -> None:
    first, second = normal(2, H, N), normal(2, H, N, seed=1)
    torch.testing.assert_close(Mixture(N, H).double()(first, second), (first + second) / 2)


def test_bias_by_hand() -> None:
    mixture = make_mixture()
    mixture.network = nn.Sequential(nn.Linear(3 * H, 1)).double()
    layer = mixture.network[0]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, 3 * H + 1)[None])
        layer.bias.fill_(0.25)
    first, second, y = normal(2, H, N), normal(2, H, N, seed=1), normal(2, H, N, seed=2)
    bias = mixture.losses(first, second, y).bias
    share = torch.sigmoid(mixture.weight.detach())
    for b in range(2):
        for i in range(N):
            column = [*(share[i] * first[b, :, i]), *((1 - share[i]) * second[b, :, i]), *y[b, :, i]]
            wanted = sum((k + 1) * float(value) for k, value in enumerate(column)) + 0.25
            assert float(bias[b, i]) == pytest.approx(wanted)


def test_the_slow_weight_follows_its_own_loss_only() -> None:
    mixture = make_mixture()
    first, second, y = normal(2, H, N), normal(2, H, N, seed=1), normal(2, H, N, seed=2)
    losses = mixture.losses(first, second, y)
    (losses.slow + losses.fast).backward()
    share = torch.sigmoid(mixture.weight.detach())
    mixed = share * first + (1 - share) * second
    wanted = (2 * (mixed - y) * (first - second) * share * (1 - share)).sum((0, 1)) / y.numel()
    torch.testing.assert_close(mixture.weight.grad, wanted)
    assert losses.slow.item() == pytest.approx((mixed - y).square().mean().item())


def test_the_network_descends_the_error_of_the_mixture_with_the_bias() -> None:
    mixture = make_mixture()
    first, second, y = normal(2, H, N), normal(2, H, N, seed=1), normal(2, H, N, seed=2)
    losses = mixture.losses(first, second, y)
    bias = losses.bias
    share = torch.sigmoid(mixture.weight.detach() + bias).unsqueeze(1)
    mixed = share * first + (1 - share) * second
    assert losses.fast.item() == pytest.approx((mixed - y).square().mean().item())
    losses.fast.backward()
    assert mixture.weight.grad is None
    last = mixture.network[-1]
    assert isinstance(last, nn.Linear)
    slope = 2 * (mixed - y) * (first - second) * share * (1 - share)
    assert last.bias.grad is not None
    assert last.bias.grad.item() == pytest.approx((slope.sum() / y.numel()).item())


def test_layers_of_the_network() -> None:
    names = [type(layer).__name__ for layer in Mixture(N, H).network]
    assert names == ["Linear", "Dropout", "Tanh", "Linear", "Dropout", "Tanh", "Linear"]
    shapes = [tuple(layer.weight.shape) for layer in Mixture(N, H).network if isinstance(layer, nn.Linear)]
    assert shapes == [(32, 3 * H), (32, 32), (1, 32)]


# A step, against the published order


class Alone(nn.Module):
    """A forecaster of one linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(6, H, N)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def make_forecaster() -> OneNetForecaster:
    model = OneNet(Alone(), Alone(), variates=N, horizon=H).double()
    model.mixture = make_mixture()
    optimizer = make_optimizer("adamw", model.forecasters.parameters(), 1e-2)
    return OneNetForecaster(model, [optimizer], make_optimizer("adam", model.mixture.parameters(), 1e-3))


def publish(model: OneNet, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """The three steps one after the other, each with an optimiser of its own."""
    forecasters = torch.optim.AdamW(model.forecasters.parameters(), lr=1e-2)
    network = torch.optim.Adam(model.mixture.network.parameters(), lr=1e-3)
    weight = torch.optim.Adam([model.mixture.weight], lr=1e-3)
    for x, y in pairs:
        first, second = (part(x[None]) for part in model.forecasters)
        forecasters.zero_grad()
        (functional.mse_loss(first, y[None]) + functional.mse_loss(second, y[None])).backward()
        forecasters.step()
        first, second, w = first.detach(), second.detach(), model.mixture.weight
        share = torch.sigmoid(w.detach())
        bias = model.mixture.network(torch.cat([share * first, (1 - share) * second, y[None]], 1).mT)[..., 0]
        share = torch.sigmoid(w.detach() + bias)[:, None]
        network.zero_grad()
        functional.mse_loss(share * first + (1 - share) * second, y[None]).backward()
        network.step()
        weight.zero_grad()
        share = torch.sigmoid(w)
        functional.mse_loss(share * first + (1 - share) * second, y[None]).backward()
        weight.step()
        model.mixture.bias.copy_(bias[0].detach())


def some_pairs(count: int) -> list[tuple[Tensor, Tensor]]:
    return [(normal(6, N, seed=t), normal(H, N, seed=100 + t)) for t in range(count)]


def test_one_backward_pass_makes_the_three_published_steps() -> None:
    forecaster = make_forecaster()
    reference = copy.deepcopy(forecaster.network)
    for x, y in some_pairs(5):
        forecaster.update(x, y)
    publish(reference, some_pairs(5))
    for name, value in forecaster.network.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name], msg=name)


def test_the_forecast_uses_the_bias_of_the_last_labelled_sample() -> None:
    forecaster, x = make_forecaster(), normal(6, N, seed=50)
    for pair in some_pairs(3):
        forecaster.update(*pair)
    model = forecaster.network
    first, second = (part(x[None])[0] for part in model.forecasters)
    share = torch.sigmoid(model.mixture.weight + model.mixture.bias)
    torch.testing.assert_close(forecaster.predict(x), (share * first + (1 - share) * second).detach())
    assert (model.mixture.bias != 0).all()
    bias = model.mixture.bias.clone()
    assert torch.equal(forecaster.predict(x), forecaster.predict(x))
    assert torch.equal(model.mixture.bias, bias)


def test_the_mixture_leaves_the_forecasters_alone() -> None:
    forecaster, (x, y) = make_forecaster(), some_pairs(1)[0]
    first, second = forecaster.network.both(x[None])
    before = copy.deepcopy(forecaster.network.forecasters.state_dict())
    forecaster.network.mixture.learn(forecaster.mixing, first, second, y[None])
    for name, value in forecaster.network.forecasters.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in forecaster.network.forecasters.parameters())


def test_the_mixture_prefers_the_better_forecaster() -> None:
    mixture, y = Mixture(N, H).double(), normal(1, H, N)
    optimizer = make_optimizer("adam", mixture.parameters(), 1e-2)
    good, bad = y + 0.1, y + torch.tensor([1.0, -1.0, 1.0]).double()
    for _ in range(100):
        mixture.learn(optimizer, good, bad, y)
    assert (torch.sigmoid(mixture.weight) > 0.6).all()


def test_a_restored_forecaster_goes_on_the_same() -> None:
    forecaster, other = make_forecaster(), make_forecaster()
    for pair in some_pairs(4):
        forecaster.update(*pair)
    other.load_state_dict(copy.deepcopy(forecaster.state_dict()))
    for x, y in some_pairs(8)[4:]:
        assert torch.equal(forecaster.predict(x), other.predict(x))
        forecaster.update(x, y)
        other.update(x, y)
    assert torch.equal(forecaster.predict(x), other.predict(x))


# Pre-training and set-up


def tiny_problem(name: str, *, lookback: int, horizon: int, seed: int, with_calendar: bool) -> Problem:
    time = torch.arange(200, dtype=torch.float64)[:, None]
    values = torch.sin(time / 3 + torch.arange(2)) + 0.1 * normal(200, 2)
    if with_calendar:
        values = torch.cat([values, time % 24], 1)
    return Problem(
        name=name,
        values=values.float(),
        variates=2,
        split=Split(100, 130, 200),
        lookback=lookback,
        horizon=horizon,
        period=1,
    )


FIT = FitConfig(rate=3e-3, epochs=2, patience=1)


def setting(backbone: str) -> Setting:
    return Setting(data="tiny-onenet", backbone=backbone, lookback=16, horizon=4, fit=FIT)


def fsnets(model: nn.Module) -> list[CalibratedConvs]:
    return [module for module in model.modules() if isinstance(module, CalibratedConvs)]


def test_pre_training_on_a_convolutional_backbone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(experiment, "make_problem", tiny_problem)
    store, method, shared = RunStore(tmp_path), OneNetMethod(rate=1e-4), setting("tcn")
    (run,) = method.requires(shared, 0)
    assert isinstance(run.recipe, PretrainOneNet)
    assert run.recipe.setting.backbone == "fsnet"
    assert run.recipe.setting.fit == FitConfig(rate=1e-3, epochs=2, patience=1, optimizer="adamw")
    store.execute(run)
    forecaster = method.build(shared.problem(0), shared, 0, store)
    assert isinstance(forecaster, OneNetForecaster)
    mixture = forecaster.network.mixture
    assert (mixture.weight != 0).all()  # it learned beside the forecasters
    assert torch.equal(mixture.bias, torch.zeros(2))  # without a labelled sample there is no bias
    assert forecaster.optimizers[0].param_groups[0]["lr"] == 1e-4
    assert forecaster.mixing.param_groups[0]["lr"] == 1e-3
    assert len(forecaster.optimizers[0].state) == len(list(forecaster.network.forecasters.parameters()))
    assert len(fsnets(forecaster.network)) == 6
    assert all(part.online for part in fsnets(forecaster.network))
    assert all((part.slow != 0).any() for part in fsnets(forecaster.network))  # gradients followed in pre-training
    window = shared.problem(0).windows(range(20, 21)).x[0]
    assert forecaster.predict(window).shape == (4, 2)

    # the first forecaster is the one that sees each variate alone
    first, second = forecaster.network.both(window[None])
    other = window.clone()
    other[3, 0] += 1
    changed = [
        (now - then).abs().amax((0, 1)) > 0
        for now, then in zip(forecaster.network.both(other[None]), (first, second), strict=True)
    ]
    assert [row.tolist() for row in changed] == [[True, False], [True, True]]


def test_other_backbones_are_joined_by_fsnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(experiment, "make_problem", tiny_problem)
    store, method, shared = RunStore(tmp_path), OneNetMethod(rate=1e-4), setting("nlinear")
    runs = method.requires(shared, 0)
    assert [run.label.partition(",")[2] for run in runs] == [" nlinear, H = 4), seed 0", " fsnet-plain, H = 4), seed 0"]
    for run in runs:
        store.execute(run)
    forecaster = method.build(shared.problem(0), shared, 0, store)
    assert isinstance(forecaster, OneNetForecaster)
    assert [o.param_groups[0]["lr"] for o in forecaster.optimizers] == [1e-4, 1e-4]
    assert torch.equal(forecaster.network.mixture.weight, torch.zeros(2))
    assert len(fsnets(forecaster.network)) == 3
    window = shared.problem(0).windows(range(20, 21)).x[0]
    assert forecaster.predict(window).shape == (4, 2)


def test_joint_losses_leave_each_forecaster_its_own_gradient() -> None:
    x, y = torch.randn(2, 16, 3), torch.randn(2, H, 2)
    first, second = make_fsnet(3, H, 2, across=False).eval(), make_fsnet(3, H, 2).eval()
    model = OneNet(first, second, variates=2, horizon=H).eval()
    torch.stack([functional.mse_loss(forecast, y) for forecast in model.both(x)]).sum().backward()
    for part in (first, second):
        joint = [copy.deepcopy(p.grad) for p in part.parameters()]
        part.zero_grad()
        functional.mse_loss(part(x), y).backward()
        for parameter, gradient in zip(part.parameters(), joint, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize(("data", "rate"), [("ETTh2", 3e-4), ("ETTm1", 1e-4), ("Weather", 1e-5), ("Traffic", 3e-5)])
def test_published_rates(data: str, rate: float) -> None:
    method = OneNetMethod.preset(make_setting(data, "tcn", 24))
    assert method.rate == rate
    (run,) = method.requires(make_setting(data, "tcn", 24), 0)
    assert run == Run(run.recipe, 0)
    assert isinstance(run.recipe, PretrainOneNet)
    assert run.recipe.setting.fit.rate == 1e-3
