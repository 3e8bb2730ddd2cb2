import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.forecasting import (
    BACKBONES,
    TCN,
    FitConfig,
    OnlineGD,
    Problem,
    Split,
    make_backbone,
    make_optimizer,
    make_setting,
)
from corollary.forecasting.backbones.fsnet import (
    CalibratedConvs,
    FSNet,
    LastRows,
    PerVariate,
    make_fsnet,
    set_online,
    turns_around,
)
from corollary.forecasting.fsnet import FSNetForecaster, FSNetMethod, fsnet_setting


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convs(count: int = 1, inputs: int = 2, outputs: int = 4, kernel: int = 3, **sizes: int) -> CalibratedConvs:
    return CalibratedConvs(count, inputs, outputs, kernel, **{"hidden": 5, "slots": 6, **sizes}).double()


def give_gradient(module: CalibratedConvs, gradient: Tensor) -> None:
    """A training pass whose loss has this gradient at the uncalibrated weight."""
    list(module())  # sees the weight
    module.weight.grad = None
    (module.weight * gradient).sum().backward()


class Published(nn.Module):
    """One convolution, from the published rules: the gradient flattened in memory order, one chunk an input channel.

    Calibrations of each head apart; (w, b, phi) one after the other in the query, columns of the memory likewise.
    """

    def __init__(self, module: CalibratedConvs, i: int, *, by_index: bool = False) -> None:
        super().__init__()
        self.by_index = by_index
        (outputs, inputs, kernel), ratio = module.weight.shape[1:], module.ratio
        self.sizes = outputs, inputs, kernel
        self.weight, self.bias = module.weight[i].detach(), module.bias[i].detach()
        self.controller = module.controller[i].T.detach(), module.controller_bias[i, 0].detach()
        cuts = (slice(kernel), slice(kernel, kernel + ratio), slice(kernel + ratio, None))
        self.heads = [(module.heads[i].T[cut].detach(), module.heads_bias[i, 0, cut].detach()) for cut in cuts]
        values = module.memory[i].view(inputs, kernel + 2 * ratio, -1)
        self.memory = torch.cat([values[:, cut].flatten(0, 1) for cut in cuts]).clone()
        self.g, self.f = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        self.q = torch.zeros(len(self.memory), dtype=torch.float64)
        self.trigger = False

    def store(self, gradient: Tensor, online: bool) -> None:
        gradient = gradient / gradient.norm(dim=1, keepdim=True)
        self.f = 0.3 * self.f + 0.7 * gradient
        if online and functional.cosine_similarity(self.f.flatten(), self.g.flatten(), dim=0) < -0.75:
            self.trigger = True
        self.g = 0.9 * self.g + 0.1 * gradient

    def forward(self, x: Tensor) -> Tensor:
        chunks = self.g.flatten().reshape(self.sizes[1], -1)
        rep = functional.silu(functional.linear(chunks, *self.controller))
        w, b, phi = (functional.linear(rep, *head) for head in self.heads)
        self.q = 0.3 * self.q + 0.7 * torch.cat([w.flatten(), b.flatten(), phi.flatten()])
        if self.trigger:
            self.trigger = False
            attention = ((self.q @ self.memory) / 0.5).softmax(0)
            top, places = attention.topk(2)
            read = self.memory[:, places] @ (places.double() if self.by_index else top)
            spread = torch.zeros_like(attention)
            spread[places] = top
            mask = torch.ones_like(self.memory)
            mask[:, places] = 0.75
            self.memory = mask * self.memory + (1 - mask) * torch.outer(read, spread)
            self.memory = self.memory / max(1.0, float(self.memory.norm()))
            parts = read.split([w.numel(), b.numel(), phi.numel()])
            w, b, phi = (0.75 * v + 0.25 * p.view_as(v) for v, p in zip((w, b, phi), parts, strict=True))
        y = functional.conv1d(x, self.weight * w.unsqueeze(0), self.bias * b.flatten(), padding=1)
        return phi.flatten()[None, :, None] * y


def apply(module: CalibratedConvs, x: Tensor) -> list[Tensor]:
    return [functional.conv1d(x, c.weight, c.bias, padding=1) * c.scale for c in module()]


def gradients(steps: int, *shape: int) -> list[Tensor]:
    """A few that agree, then some that turn around, and back."""
    first = normal(*shape, seed=3)
    signs = [1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0]
    return [signs[t] * first + 0.05 * normal(*shape, seed=10 + t) for t in range(steps)]


def follow(*, by_index: bool) -> float:
    """Largest difference between the module and the published rules over a run with several triggers."""
    module = convs(3)
    with torch.no_grad():
        module.bias.add_(normal(3, 4))
    module.online = True
    references = [Published(module, i, by_index=by_index) for i in range(3)]
    x, worst, triggers = normal(2, 2, 7), 0.0, 0
    for gradient in gradients(11, 3, 4, 2, 3):
        gradient[1] = gradient[1].abs()  # the second convolution never turns around
        triggers += int(module.triggered.sum())
        for ours, reference in zip(apply(module, x), references, strict=True):
            worst = max(worst, (ours - reference(x)).abs().max().item())
        module.weight.grad = None
        (module.weight * gradient).sum().backward()
        for i, reference in enumerate(references):
            reference.store(gradient[i], online=True)
            assert module.triggered[i] == reference.trigger
    assert triggers >= 4
    assert references[1].trigger is False
    return worst


def test_the_module_follows_the_published_rules() -> None:
    assert follow(by_index=False) < 1e-12


def test_reading_by_index_as_the_official_code_does_is_another_rule() -> None:
    assert follow(by_index=True) > 1e-2


# Running gradients


def test_running_gradients_by_hand() -> None:
    module = convs(1, 1, 1, 1)
    give_gradient(module, torch.full((1, 1, 1, 1), 5.0, dtype=torch.float64))
    give_gradient(module, torch.full((1, 1, 1, 1), -0.2, dtype=torch.float64))
    assert module.slow.item() == pytest.approx(0.9 * 0.1 - 0.1, abs=1e-15)  # unit gradients +1, -1
    assert module.fast.item() == pytest.approx(0.3 * 0.7 - 0.7, abs=1e-15)


def test_gradients_have_unit_norm_along_the_input_axis() -> None:
    module, gradient = convs(2), normal(2, 4, 2, 3)
    gradient[:, :, :, 2] = 0  # a tap that never sees data keeps a gradient of zero
    give_gradient(module, gradient)
    norms = (module.slow / 0.1).norm(dim=2)
    torch.testing.assert_close(norms[..., :2], torch.ones(2, 4, 2, dtype=torch.float64))
    assert torch.equal(norms[..., 2], torch.zeros(2, 4, dtype=torch.float64))
    torch.testing.assert_close(module.fast, 7 * module.slow)


def test_the_gradient_is_that_of_the_uncalibrated_weight() -> None:
    module, x = convs(1), normal(2, 2, 7)
    (y,) = apply(module, x)
    y.square().sum().backward()
    assert module.weight.grad is not None
    expected = functional.normalize(module.weight.grad, dim=2)
    torch.testing.assert_close(module.slow, 0.1 * expected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_follows_its_own_gradient_once(duplicate: Callable[[CalibratedConvs], CalibratedConvs]) -> None:
    module = convs(1)
    list(module())
    other = duplicate(module)
    give_gradient(other, normal(1, 4, 2, 3))
    give_gradient(other, normal(1, 4, 2, 3))
    assert torch.equal(module.slow, torch.zeros_like(module.slow))
    torch.testing.assert_close(other.slow, 0.19 * functional.normalize(normal(1, 4, 2, 3), dim=2))


def test_a_weight_that_does_not_learn_is_not_followed() -> None:
    module = convs(1)
    module.weight.requires_grad_(False)
    apply(module, normal(2, 2, 7))[0].sum().backward()
    assert torch.equal(module.slow, torch.zeros_like(module.slow))
    module.weight.requires_grad_(True)
    apply(module, normal(2, 2, 7))[0].sum().backward()
    assert (module.slow != 0).any()


# Calibration


def test_calibration_by_hand() -> None:
    module = convs(1, 1, 2, 1, hidden=1)
    with torch.no_grad():
        module.slow.copy_(torch.tensor([0.5, -0.25]).view(1, 2, 1, 1))
        module.weight.copy_(torch.tensor([3.0, 5.0]).view(1, 2, 1, 1))
        module.bias.copy_(torch.tensor([[7.0, 11.0]]))
        module.controller.copy_(torch.tensor([2.0, 4.0]).view(1, 2, 1))
        module.controller_bias.fill_(1.0)  # 0.5 * 2 - 0.25 * 4 + 1 = 1
        module.heads.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(1, 1, 5))
        module.heads_bias.zero_()
    (calibration,) = list(module())
    s = 1 / (1 + math.exp(-1))  # SiLU(1)
    assert calibration.weight.flatten().tolist() == pytest.approx([3 * s, 5 * s])  # one w, of the input, for both
    assert calibration.bias.tolist() == pytest.approx([7 * 2 * s, 11 * 3 * s])
    assert calibration.scale.flatten().tolist() == pytest.approx([4 * s, 5 * s])


def test_gradients_reach_every_parameter() -> None:
    module = convs(2)
    with torch.no_grad():
        module.bias.add_(1)
    give_gradient(module, normal(2, 4, 2, 3))
    module.zero_grad()
    torch.stack(apply(module, normal(2, 2, 7))).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_gradients_of_the_controller_survive_the_update_of_its_input() -> None:
    module, x = convs(1), normal(2, 2, 7)
    give_gradient(module, normal(1, 4, 2, 3))
    before = module.slow.clone()
    apply(module, x)[0].square().sum().backward()
    ours = module.controller.grad
    assert not torch.equal(module.slow, before)  # the hook moved g while the pass was on its way

    module.slow = before
    wanted = torch.autograd.grad(apply(module, x)[0].square().sum(), module.controller)[0]
    torch.testing.assert_close(ours, wanted)


def test_outputs_must_be_a_multiple_of_inputs() -> None:
    with pytest.raises(ValueError, match="outputs must be a multiple of inputs = 2, got 5"):
        CalibratedConvs(1, 2, 5, 3)


# Trigger and memory


def turned_around(*, online: bool) -> CalibratedConvs:
    module = convs(2)
    module.online = online
    gradient = normal(2, 4, 2, 3)
    opposite = gradient.clone()
    opposite[0] *= -1
    give_gradient(module, gradient)
    give_gradient(module, opposite)
    return module


def test_only_the_convolution_whose_gradient_turns_around_is_triggered() -> None:
    # f = 0.3 * 0.7 G - 0.7 G points against g = 0.1 G
    assert turned_around(online=True).triggered.tolist() == [True, False]


def test_pre_training_never_triggers() -> None:
    assert turned_around(online=False).triggered.tolist() == [False, False]


@pytest.mark.parametrize(("cosine", "triggered"), [(-0.74, False), (-0.76, True), (0.76, False), (0.0, False)])
def test_the_threshold_is_on_the_cosine_of_new_f_and_old_g(cosine: float, triggered: bool) -> None:
    module = convs(1, 2, 2, 1)
    module.online = True
    axis, other = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    list(module())
    module.slow, module.fast = axis.double().view(1, 2, 2, 1), torch.zeros_like(module.slow)  # so the new f is 0.7 G
    gradient = cosine * axis + math.sqrt(1 - cosine**2) * other
    give_gradient(module, gradient.double().view(1, 2, 2, 1))
    assert module.triggered.item() is triggered


def test_no_gradient_yet_is_no_trigger() -> None:
    module = convs(1)
    module.online = True
    give_gradient(module, -normal(1, 4, 2, 3))
    assert not module.triggered.item()


def test_reading_and_writing_the_memory_by_hand() -> None:
    module = convs(1, 1, 1, 1, hidden=1, slots=3)  # calibrations are (w, b, phi)
    module.online = True
    with torch.no_grad():
        module.heads.zero_()
        module.heads_bias.copy_(torch.tensor([[[1.0, 2.0, 4.0]]]))
        module.memory.copy_(torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.05]]]))
        module.triggered.fill_(True)
    values = module.calibrate().flatten()
    q = [0.7 * v for v in (1.0, 2.0, 4.0)]
    scores = [math.exp(q[0] * 0.5 / 0.5), math.exp(q[1] * 0.2 / 0.5), math.exp(q[2] * 0.05 / 0.5)]
    a = [score / sum(scores) for score in scores]
    assert a[0] > a[1] > a[2]
    old = [0.5 * a[0], 0.2 * a[1], 0.0]
    wanted = [0.75 * v + 0.25 * o for v, o in zip((1.0, 2.0, 4.0), old, strict=True)]
    assert values.tolist() == pytest.approx(wanted)
    memory = [
        [0.75 * 0.5 + 0.25 * old[0] * a[0], 0.25 * old[0] * a[1], 0.0],
        [0.25 * old[1] * a[0], 0.75 * 0.2 + 0.25 * old[1] * a[1], 0.0],
        [0.0, 0.0, 0.05],
    ]  # its norm stays below 1, so it is not scaled
    torch.testing.assert_close(module.memory[0], torch.tensor(memory, dtype=torch.float64))
    assert not module.triggered.any()
    assert module.query.flatten().tolist() == pytest.approx(q)


def test_the_norm_of_the_memory_never_exceeds_one() -> None:
    module = convs(2)
    assert (module.memory.norm(dim=(1, 2)) <= 1 + 1e-6).all()  # initialised in float32
    module.online = True
    with torch.no_grad():
        module.memory *= 0.999
        module.memory[0] *= 1.3
    module.triggered.fill_(True)
    module.calibrate()
    assert module.memory[0].norm().item() == pytest.approx(1)
    assert module.memory[1].norm() < 0.999


def test_evaluation_reads_the_same_memory_and_changes_nothing() -> None:
    module, x = turned_around(online=True), normal(2, 2, 7)
    state = copy.deepcopy(module.state_dict())
    module.eval()
    with torch.no_grad():
        first, second = apply(module, x), apply(module, x)
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name
    module.train()
    trained = apply(module, x)
    for a, b, c in zip(first, second, trained, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)
    assert not module.triggered.any()
    assert not torch.equal(module.memory, state["memory"])
    with torch.no_grad():  # closed again
        assert not torch.allclose(apply(module.eval(), x)[0], first[0])


def test_what_is_read_carries_no_gradient() -> None:
    def gradient(memory: Tensor) -> Tensor:
        module = convs(1, 1, 1, 1, hidden=1, slots=3)
        module.online = True
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(0.3)
            module.memory.copy_(memory)
            module.triggered.fill_(True)
        return torch.autograd.grad(module.calibrate().sum(), module.heads_bias)[0]

    flat = torch.zeros(1, 3, 3, dtype=torch.float64)
    assert gradient(flat).flatten().tolist() == pytest.approx([0.75] * 3)
    assert torch.equal(gradient(flat), gradient(0.2 * normal(1, 3, 3)))


# The network


def plain(model: FSNet) -> TCN:
    """The TCN with the calibrations of this moment written into its convolutions."""
    tcn = TCN(5, 4, 3, width=8, depth=3, output=16).double()
    tcn.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("convolutions")}, strict=False)
    with torch.no_grad():
        for calibrated, places in zip(parts(model), model._places, strict=True):
            for calibration, place in zip(calibrated(), places, strict=True):
                name = next(n for n, m in model.named_modules() if m is place)
                conv = tcn.get_submodule(name)
                assert isinstance(conv, nn.Conv1d)
                conv.weight.copy_(calibration.weight * calibration.scale[..., None])
                assert conv.bias is not None
                conv.bias.copy_(calibration.bias * calibration.scale[:, 0])
    return tcn


def small() -> FSNet:
    return FSNet(5, 4, 3, width=8, depth=3, output=16).double()


def parts(model: nn.Module) -> list[CalibratedConvs]:
    return [module for module in model.modules() if isinstance(module, CalibratedConvs)]


def test_the_network_is_a_tcn_with_calibrated_convolutions() -> None:
    model, x = small(), normal(2, 20, 5)
    for calibrated in parts(model):
        calibrated.slow.normal_()
        with torch.no_grad():
            calibrated.bias.normal_()
    model.eval()
    torch.testing.assert_close(model(x), plain(model).eval()(x))
    assert [tuple(c.weight.shape) for c in parts(model)] == [(6, 8, 8, 3), (1, 16, 8, 3), (1, 16, 16, 3)]


def test_parameters_of_the_published_network() -> None:
    def calibrated(inputs: int, outputs: int) -> int:
        chunk, values = outputs * 3, 3 + 2 * (outputs // inputs)
        return inputs * outputs * 3 + outputs + (chunk * 64 + 64) + (64 * values + values)

    model = make_fsnet(14, 24, 7)
    expected = (14 + 1) * 64 + 20 * calibrated(64, 64) + calibrated(64, 320) + calibrated(320, 320)
    expected += (64 * 320 + 320) + 321 * 24 * 7 + 2 * 7  # projection, regressor, RevIN
    assert sum(p.numel() for p in model.parameters()) == expected == 1_069_740


def test_state_holds_everything_that_runs() -> None:
    x, y = normal(16, 20, 5), normal(16, 4, 3, seed=1)
    model = small()
    set_online(model, True)
    forecaster = OnlineGD(model, make_optimizer("adamw", model.parameters(), 1e-3))
    for t in range(8):
        forecaster.update(x[t], y[t])
    for calibrated in parts(model):
        calibrated.triggered.fill_(True)  # what is kept includes memories about to open
    other_model = small()
    set_online(other_model, True)
    other = OnlineGD(other_model, make_optimizer("adamw", other_model.parameters(), 1e-3))
    other.load_state_dict(copy.deepcopy(forecaster.state_dict()))
    for t in range(8, 16):
        outputs = []
        for each in (forecaster, other):
            torch.manual_seed(t)  # dropout
            each.update(x[t], y[t])
            outputs.append(each.predict(x[t]))
        assert torch.equal(*outputs)


def test_the_network_can_be_copied_after_a_pass() -> None:
    model, x = small(), normal(1, 20, 5)
    model(x).sum().backward()
    other = copy.deepcopy(model)
    other.zero_grad()
    other(x).square().sum().backward()
    assert torch.equal(other.eval()(x), other(x))
    assert not torch.equal(parts(other)[0].slow, parts(model)[0].slow)


def test_each_variate_alone() -> None:
    columns, horizon, variates = 3 + 2, 4, 3
    model = make_fsnet(columns, horizon, variates, across=False).double().eval()
    x = normal(2, 20, columns)
    changed = x.clone()
    changed[..., 1] += normal(2, 20)
    difference = (model(changed) - model(x)).abs().amax((0, 1))
    assert (difference > 0).tolist() == [False, True, False]
    order = [2, 0, 1]
    swapped = torch.cat([x[..., order], x[..., 3:]], -1)
    torch.testing.assert_close(model(swapped), model(x)[..., order])
    changed = x.clone()
    changed[..., 4] += 1  # a covariate is read by all
    assert ((model(changed) - model(x)).abs().amax((0, 1)) > 0).all()


@pytest.mark.parametrize("across", [True, False])
def test_forecasts_move_with_level_and_scale_of_each_variate(across: bool) -> None:
    model, x = make_fsnet(3, 4, 3, across=across).double().eval(), 100 * normal(2, 20, 3)
    scale, level = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.0, 5.0, -300.0]).double()
    torch.testing.assert_close(model(scale * x + level), scale * model(x) + level, rtol=1e-6, atol=1e-6)


def test_folding_keeps_windows_and_variates_in_place() -> None:
    class Echo(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape == (6, 5, 3)
            return x[:, -2:, :1] + x[:, -2:, 1:].sum(-1, keepdim=True)

    x = normal(2, 5, 3 + 2)
    torch.testing.assert_close(PerVariate(Echo(), 3)(x), x[:, -2:, :3] + x[:, -2:, 3:].sum(-1, keepdim=True))


# The method


@pytest.mark.parametrize(("backbone", "columns"), [("fsnet", 10), ("fsnet-plain", 3)])
def test_backbones_with_and_without_calendar(backbone: str, columns: int) -> None:
    problem = Problem(
        name="noise", values=torch.zeros(200, columns), variates=3, split=Split(100, 140, 200), lookback=24, horizon=4,
        period=1,
    )  # fmt: skip
    model = make_backbone(backbone, problem)
    assert BACKBONES[backbone].calendar == (columns > 3)
    assert model(torch.zeros(2, 24, columns)).shape == (2, 4, 3)


def test_setting_of_the_pre_training() -> None:
    tcn = fsnet_setting(make_setting("ETTh2", "tcn", 24))
    assert tcn == make_setting("ETTh2", "fsnet", 24)
    linear = fsnet_setting(make_setting("ETTm1", "nlinear", 48))
    assert (linear.backbone, linear.lookback, linear.horizon) == ("fsnet-plain", 60, 48)
    assert linear.fit == FitConfig(rate=1e-3, optimizer="adamw")
    embedded = make_setting("switching-levels", "linear", 12)
    assert fsnet_setting(embedded) == replace(embedded, backbone="fsnet-plain")


@pytest.mark.parametrize(("data", "rate"), [("ETTh2", 3e-5), ("ETTm1", 1e-5), ("Weather", 3e-6), ("Traffic", 1e-5)])
def test_published_rates(data: str, rate: float) -> None:
    assert FSNetMethod.preset(make_setting(data, "tcn", 24)).rate == rate


def last_rows_forecaster() -> FSNetForecaster:
    model = make_fsnet(3, 4, 3)
    return FSNetForecaster(model, make_optimizer("adamw", model.parameters(), 1e-3), lookback=10)


def test_the_forecaster_reads_the_last_rows_only() -> None:
    forecaster, x = last_rows_forecaster(), normal(30, 3).float()
    changed = x.clone()
    changed[:20] += 1
    assert torch.equal(forecaster.predict(x), forecaster.predict(changed))
    changed[20] += 1
    assert not torch.equal(forecaster.predict(x), forecaster.predict(changed))


def test_the_forecaster_is_in_its_online_phase() -> None:
    forecaster = last_rows_forecaster()
    assert isinstance(forecaster.model, LastRows)
    assert [part.online for part in parts(forecaster.model)] == [True] * 3
    assert [part.online for part in parts(make_fsnet(3, 4, 3))] == [False] * 3


def test_the_forecaster_learns_a_constant() -> None:
    forecaster, y = last_rows_forecaster(), torch.tensor([[1.0, 2.0, 3.0]]).expand(4, 3)
    x = normal(30, 3).float()
    error: Callable[[], float] = lambda: functional.mse_loss(forecaster.predict(x), y).item()  # noqa: E731
    before = error()
    for _ in range(15):
        forecaster.update(x, y)
    assert error() < 0.3 * before


@pytest.mark.parametrize("seed", range(5))
def test_the_fast_cosine_decides_as_that_of_torch(seed: int) -> None:
    fast, slow = normal(40, 3, 2, 3, seed=seed).float(), normal(40, 3, 2, 3, seed=seed + 50).float()
    slow[0] = 0  # no gradient yet
    cosine = functional.cosine_similarity(fast.flatten(1), slow.flatten(1), eps=1e-6)
    for limit in (-0.75, 0.0, *cosine[:5].tolist()):  # also where rounding would decide
        assert torch.equal(turns_around(fast, slow, limit), cosine < limit)
    assert 0 < int((cosine < 0).sum()) < 40
