"""The adapted network: its reference, its drift, who learns, and the gradients of an online step."""

import copy
import importlib.util
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.forecasting import NLinear, Problem, Split, make_backbone
from corollary.runs import load_checkpoint, save_checkpoint
from corollary_proceed import Proceed
from corollary_proceed.exact_adaptation import HORIZON, LOOKBACK, VARIATES, backbones, batch, wrapped
from corollary_proceed.model import Drift

KINDS: tuple[Drift, ...] = ("difference", "none", "current", "one-encoder")
NETWORKS = ["linear", "convolution", "mixed"]


def make(**options: Any) -> Proceed:
    """A wrapped linear network with a generator that is not at its start, and a reference."""
    return wrapped(backbones()["linear"], disturb=0.3, **options)


def plain(**options: Any) -> Proceed:
    """The same without a reference."""
    torch.manual_seed(0)
    return Proceed(
        NLinear(LOOKBACK, HORIZON, VARIATES).double(), lookback=LOOKBACK, horizon=HORIZON, **options
    ).double()


# What is refused


@pytest.mark.parametrize("name", ["lookback", "horizon", "variates", "concept_dim", "bottleneck_dim"])
@pytest.mark.parametrize("size", [0, -3, 2.0, True, "4"])
def test_sizes_must_be_positive_integers(name: str, size: object) -> None:
    options: dict[str, Any] = {"lookback": LOOKBACK, "horizon": HORIZON, name: size}
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, got {size!r}"):
        Proceed(NLinear(LOOKBACK, HORIZON, VARIATES), **options)


@pytest.mark.parametrize("ema", [-0.1, 1.0, 2.0, float("nan")])
def test_the_weight_of_the_past_must_be_below_one(ema: float) -> None:
    with pytest.raises(ValueError, match=r"ema must be in \[0, 1\), got"):
        plain(ema=ema)


def test_an_unknown_drift_is_refused() -> None:
    with pytest.raises(ValueError, match="drift must be one of difference, none, current, one-encoder, got 'diff'"):
        plain(drift="diff")


def test_a_backbone_without_a_layer_to_adapt_is_refused() -> None:
    with pytest.raises(ValueError, match="GRU has no layer to adapt: expected a Linear or Conv1d"):
        Proceed(nn.GRU(3, 3), lookback=LOOKBACK, horizon=HORIZON)
    with pytest.raises(ValueError, match="NLinear has no layer to adapt: expected a Conv1d"):
        plain(adapt=(nn.Conv1d,))


def test_a_kind_of_layer_that_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(ValueError, match="LayerNorm or BatchNorm1d, got GroupNorm"):
        plain(adapt=(nn.Linear, nn.GroupNorm))


@pytest.mark.parametrize("shape", [(LOOKBACK, VARIATES), (2, LOOKBACK - 1, VARIATES), (2, 3, LOOKBACK, VARIATES)])
def test_windows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"\(B, {LOOKBACK}, \.\.\.\), got \({', '.join(map(str, shape))}\)"):
        make().drift(torch.zeros(shape).double())


def test_windows_with_too_few_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 columns"):
        make()(torch.zeros(1, LOOKBACK, 2).double())


@pytest.mark.parametrize("kind", ["difference", "one-encoder"])
def test_a_forecast_before_there_is_a_reference_is_refused(kind: Drift) -> None:
    model = plain(drift=kind)
    for act in (lambda: model(batch(1, seed=0)[0]), model.reference_concept):
        with pytest.raises(ValueError, match=r"no reference pair yet: call set_reference\(x, y\)"):
            act()


@pytest.mark.parametrize("kind", ["none", "current"])
def test_controls_that_read_no_reference_need_none(kind: Drift) -> None:
    assert plain(drift=kind)(batch(2, seed=0)[0]).shape == (2, HORIZON, VARIATES)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ((2, LOOKBACK, 3), (2, HORIZON + 1, 3), (2, HORIZON, 3)),
        ((2, LOOKBACK, 3), (1, HORIZON, 3), (2, HORIZON, 3)),
        ((2, LOOKBACK, 3), (2, HORIZON, 2), (2, HORIZON, 3)),
        ((LOOKBACK, 3), (HORIZON, 2), (1, HORIZON, 3)),
    ],
)
def test_labels_that_do_not_fit_their_windows_are_refused(
    x: tuple[int, ...], y: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    got = y if len(y) == 3 else (1, *y)
    message = f"y must be (batch, horizon, variates) = {expected}, got {got}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plain().set_reference(torch.zeros(x).double(), torch.zeros(y).double())


def test_a_refused_reference_leaves_the_old_one() -> None:
    model = make()
    x, _ = batch(1, seed=0)
    before = model.drift(x)
    with pytest.raises(ValueError, match="y must be"):
        model.set_reference(*(t[:, 1:] if t.shape[1] == HORIZON else t for t in batch(1, seed=5)))
    assert torch.equal(model.drift(x), before)


def test_a_closed_form_step_needs_a_frozen_generator() -> None:
    model = make()
    x, y = batch(1, seed=0)
    with pytest.raises(ValueError, match=r"generator must be frozen: call freeze_generator\(\) first"):
        model.online_loss_gradients(x[0], y[0])


# Reference and drift


def test_one_pair_without_batch_axis_is_a_batch_of_one() -> None:
    x, y = batch(1, seed=3)
    first, second = make(), make()
    first.set_reference(x, y)
    second.set_reference(x[0], y[0])
    assert torch.equal(first.reference_concept(), second.reference_concept())


def test_the_reference_is_the_pair_in_time_order() -> None:
    model = plain()
    x, y = batch(1, seed=3)
    model.set_reference(x, y)
    assert torch.equal(model.reference_concept(), model.reference_encoder(torch.cat([x, y], 1))[0])


def test_several_pairs_share_the_mean_of_their_concepts() -> None:
    model = make()
    x, y = batch(3, seed=3)
    model.set_reference(x, y)
    together = model.reference_concept()
    apart = []
    for sample in range(3):
        model.set_reference(x[sample], y[sample])
        apart.append(model.reference_concept())
    torch.testing.assert_close(together, torch.stack(apart).mean(0), rtol=0, atol=1e-14)


def test_the_reference_is_no_view_of_what_was_passed() -> None:
    model = make()
    x, y = batch(1, seed=3)
    model.set_reference(x, y)
    before = model.drift(batch(1, seed=4)[0])
    x.zero_()
    y.zero_()
    assert torch.equal(model.drift(batch(1, seed=4)[0]), before)


def test_the_drift_is_small_where_both_encoders_see_the_same_concept() -> None:
    model = make(drift="one-encoder")
    x, y = batch(1, seed=3)
    model.set_reference(x, y)
    assert float(model.drift(x).detach().abs().max()) < 1e-15
    model.set_reference(x, 1e3 * y)
    assert float(model.drift(x).detach().abs().max()) < 1e-15  # this control sees no labels


def test_labels_of_the_reference_move_the_drift() -> None:
    model = make(clip=False)
    x, y = batch(1, seed=3)
    model.set_reference(x, y)
    before = model.drift(x)
    model.set_reference(x, -y)
    assert float((model.drift(x) - before).detach().abs().max()) > 1e-3


def test_the_drift_is_the_current_concept_minus_the_reference_concept() -> None:
    model = make(clip=False)
    x, _ = batch(2, seed=3)
    torch.testing.assert_close(model.drift(x), model.current_encoder(x) - model.reference_concept(), rtol=0, atol=0)
    current = make(clip=False, drift="current")
    torch.testing.assert_close(current.drift(x), current.current_encoder(x), rtol=0, atol=0)
    assert not bool(make(drift="none").drift(x).any())


@pytest.mark.parametrize("kind", KINDS)
def test_the_clip_can_be_switched_off(kind: Drift) -> None:
    x, _ = batch(3, seed=3)
    clipped, free = make(drift=kind), make(drift=kind, clip=False)
    for model in (clipped, free):
        with torch.no_grad():
            model.current_encoder.second.weight.mul_(100)
    norms = torch.linalg.vector_norm(free.drift(x), dim=-1, keepdim=True)
    assert bool((norms > 1).all()) == (kind != "none")
    torch.testing.assert_close(clipped.drift(x) * norms.clamp_min(1), free.drift(x))


def test_a_drift_that_is_given_takes_the_place_of_the_estimated_one() -> None:
    model = make()
    x, _ = batch(3, seed=3)
    assert torch.equal(model(x, model.drift(x)), model(x))
    assert torch.equal(model(x[:1], model.drift(x[:1])), model(x[:1]))
    assert float((model(x, -model.drift(x)) - model(x)).detach().abs().max()) > 1e-3


def test_encoders_do_not_see_covariates() -> None:
    torch.manual_seed(0)
    network = backbones()["linear"]
    model = wrapped(network, disturb=0.3)
    x, y = batch(2, seed=3)
    calendar = torch.randn(2, LOOKBACK, 4, dtype=torch.float64)
    expected, forecast = model.drift(x), model(x)
    wide = torch.cat([x, calendar], -1)
    assert torch.equal(model.drift(wide), expected)
    assert torch.equal(model(wide), forecast)
    model.set_reference(wide, y)
    seen = model.reference_concept()
    model.set_reference(x, y)
    assert torch.equal(model.reference_concept(), seen)


def test_the_number_of_variates_may_change_where_the_backbone_shares_them() -> None:
    model = plain()
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=random)  # noqa: E731
    model.set_reference(draw(1, LOOKBACK, 2), draw(1, HORIZON, 2))
    model.backbone.variates = 5
    assert model(draw(1, LOOKBACK, 5)).shape == (1, HORIZON, 5)
    assert model.drift(draw(3, LOOKBACK, 7)).shape == (3, 50)


def test_the_first_reference_of_training_is_zeros() -> None:
    model = make(ema=0.5)
    model.reset_reference(VARIATES)
    zeros = torch.zeros(1, LOOKBACK + HORIZON, VARIATES).double()
    assert torch.equal(model.reference_concept(), model.reference_encoder(zeros)[0])


# The exponential average


def concepts(model: Proceed, seeds: range) -> list[Tensor]:
    """Concepts of the pairs one by one, without average."""
    return [model.reference_encoder(torch.cat(batch(1, seed=seed), 1))[0].detach() for seed in seeds]


def test_the_average_is_exponential() -> None:
    model = plain(ema=0.25)
    expected: Tensor | None = None
    for seed, own in enumerate(concepts(model, range(4))):
        model.set_reference(*batch(1, seed=seed))
        expected = own if expected is None else 0.75 * own + 0.25 * expected
        torch.testing.assert_close(model.reference_concept().detach(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("freeze", [False, True])
def test_the_average_is_the_same_whether_or_not_it_is_looked_at(freeze: bool) -> None:
    looked, unseen = plain(ema=0.25), plain(ema=0.25)
    unseen.load_state_dict(looked.state_dict())
    for model in (looked, unseen):
        model.train_only(backbone=True, generator=not freeze)
    for seed in range(4):
        for model in (looked, unseen):
            model.set_reference(*batch(1, seed=seed))
        looked.reference_concept()
    torch.testing.assert_close(looked.reference_concept(), unseen.reference_concept(), rtol=0, atol=1e-15)


def test_no_gradient_flows_into_the_averaged_past() -> None:
    model = plain(ema=0.25)
    model.set_reference(*batch(1, seed=0))
    model.set_reference(*batch(1, seed=1))
    averaged = torch.autograd.grad(model.reference_concept().sum(), list(model.reference_encoder.parameters()))
    newest = plain()
    newest.load_state_dict(model.state_dict())
    newest.set_reference(*batch(1, seed=1))
    alone = torch.autograd.grad(newest.reference_concept().sum(), list(newest.reference_encoder.parameters()))
    for first, second in zip(averaged, alone, strict=True):
        torch.testing.assert_close(first, 0.75 * second)


def test_without_average_the_past_is_forgotten() -> None:
    model = make()
    model.set_reference(*batch(1, seed=0))
    model.set_reference(*batch(1, seed=1))
    once = make()
    once.set_reference(*batch(1, seed=1))
    assert torch.equal(model.reference_concept(), once.reference_concept())


# The given network, and both ways of running it


def published(name: str) -> tuple[nn.Module, Problem]:
    problem = Problem(
        name="ETTh2",
        values=torch.zeros(400, VARIATES + 7),
        variates=VARIATES,
        split=Split(200, 300, 400),
        lookback=32,
        horizon=HORIZON,
        period=24,
    )
    torch.manual_seed(0)
    return make_backbone(name, problem).double().eval(), problem


NAMES = [
    *("linear", "nlinear", "dlinear", "tcn", "itransformer"),
    pytest.param(
        "patchtst", marks=pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
    ),
]


@pytest.fixture(params=NAMES)
def core(request: pytest.FixtureRequest) -> tuple[nn.Module, Proceed, Tensor]:
    """A backbone of the core, the same wrapped, and windows with raw calendar integers."""
    network, problem = published(request.param)
    columns = VARIATES + 7 if request.param in ("tcn", "itransformer") else VARIATES
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, problem.lookback, columns, dtype=torch.float64, generator=random)
    x[..., VARIATES:] = 5.0
    torch.manual_seed(1)
    model = Proceed(network, lookback=32, horizon=HORIZON, variates=VARIATES, concept_dim=5, bottleneck_dim=3).double()
    model.eval().set_reference(x, torch.zeros(3, HORIZON, VARIATES).double())
    return network, model, x


def test_backbones_of_the_core_are_themselves_before_training(core: tuple[nn.Module, Proceed, Tensor]) -> None:
    network, model, x = core
    with torch.no_grad():
        for sample in x.split(1):
            # a kernel may be chosen by what holds its weights, so not always to the last bit
            torch.testing.assert_close(model(sample), network(sample), rtol=0, atol=1e-15)
        torch.testing.assert_close(model(x), network(x), rtol=0, atol=1e-12)


def test_both_ways_are_the_same_for_backbones_of_the_core(core: tuple[nn.Module, Proceed, Tensor]) -> None:
    network, model, x = core
    with torch.no_grad():
        for group in model.generator.groups:
            group.up.weight.normal_(0, 0.1)
            group.offset.normal_(0, 0.1)
        together = model(x)
        apart = torch.cat([model(sample) for sample in x.split(1)])
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-11)
        assert float((together - network(x)).abs().max()) > 1e-3


def test_the_closed_form_is_autograd_for_backbones_of_the_core(core: tuple[nn.Module, Proceed, Tensor]) -> None:
    _, model, x = core
    with torch.no_grad():
        for group in model.generator.groups:
            group.up.weight.normal_(0, 0.1)
    model.freeze_generator()
    same_as_autograd(model, x[:1], torch.ones(1, HORIZON, VARIATES).double())


def test_wrapping_replaces_no_module_and_changes_no_value() -> None:
    for name, network in backbones().items():
        modules = {path: (module, type(module)) for path, module in network.named_modules()}
        values = copy.deepcopy(network.state_dict())
        model = wrapped(network)
        model(batch(2, seed=0)[0])
        model(batch(1, seed=0)[0])
        assert model.backbone is network
        after = dict(network.named_modules())
        assert list(after) == list(modules), name
        assert all(after[path] is module and type(after[path]) is kind for path, (module, kind) in modules.items())
        assert all(torch.equal(value, values[path]) for path, value in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", NETWORKS)
def test_both_ways_agree_to_the_precision_of_the_dtype(kind: str, dtype: torch.dtype) -> None:
    model = wrapped(backbones()[kind], disturb=0.1).to(dtype)
    x, y = (t.to(dtype) for t in batch(3, seed=3))
    model.set_reference(x, y)
    with torch.no_grad():
        together, apart = model(x), torch.cat([model(sample) for sample in x.split(1)])
    assert together.dtype is dtype
    torch.testing.assert_close(together, apart, rtol=0, atol=100 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_closed_form_step_works_in_lower_precision(dtype: torch.dtype) -> None:
    model = make().to(dtype)
    x, y = (t.to(dtype) for t in batch(1, seed=3))
    model.set_reference(x, y)
    model.freeze_generator()
    error = model.online_loss_gradients(x[0], y[0])
    exact = make()
    exact.set_reference(x.double(), y.double())
    exact.freeze_generator()
    expected = exact.online_loss_gradients(x[0].double(), y[0].double())
    torch.testing.assert_close(error.double(), expected, rtol=0, atol=20 * torch.finfo(dtype).eps)
    for offset in model.generator.offsets():
        assert offset.grad is not None
        assert offset.grad.dtype is dtype
        assert bool(torch.isfinite(offset.grad).all())


def test_the_reference_moves_with_the_model() -> None:
    model = make().float()
    assert model(batch(1, seed=0)[0].float()).dtype is torch.float32


# Gradients of one online step


def same_as_autograd(model: Proceed, x: Tensor, y: Tensor) -> None:
    learning = [p for p in model.parameters() if p.requires_grad]
    forecast = model(x)
    expected = torch.autograd.grad(
        functional.mse_loss(forecast, y), learning, allow_unused=True, materialize_grads=True
    )
    for parameter in model.parameters():
        parameter.grad = None
    error = model.online_loss_gradients(x[0], y[0])
    torch.testing.assert_close(error, (forecast - y)[0].detach(), rtol=1e-12, atol=1e-12)
    for parameter, gradient in zip(learning, expected, strict=True):
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-12)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("freeze_backbone", [False, True])
def test_the_closed_form_of_an_online_step_is_autograd(network: str, kind: Drift, freeze_backbone: bool) -> None:
    model = wrapped(backbones()[network], disturb=0.3, drift=kind, freeze_backbone=freeze_backbone)
    model.freeze_generator()
    same_as_autograd(model, *batch(1, seed=9))


def test_an_online_step_descends_the_loss_of_the_adapted_network_not_of_the_bare_one() -> None:
    model = make()
    model.freeze_generator()
    x, y = batch(1, seed=9)
    bare = functional.mse_loss(model.backbone(x), y)
    weight = model.backbone.linear.weight
    (wrong,) = torch.autograd.grad(bare, weight)
    loss = model.online_loss_gradients(x[0], y[0]).square().mean()
    assert abs(float(loss) - float(bare.detach())) > 1e-3
    assert weight.grad is not None
    assert float((weight.grad - wrong).abs().max()) > 1e-3


def test_the_clip_is_in_the_closed_form_too() -> None:
    x, y = batch(1, seed=9)
    losses = []
    for clip in (True, False):
        model = make(clip=clip)
        with torch.no_grad():
            model.current_encoder.second.weight.mul_(100)
        model.freeze_generator()
        same_as_autograd(model, x, y)
        losses.append(float(model.online_loss_gradients(x[0], y[0]).square().mean()))
    assert losses[0] != losses[1]


# Who learns when


def ids(parameters: Any) -> set[int]:
    return {id(parameter) for parameter in parameters}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_is_backbone_offset_mapping_or_fixed_bias(network: str) -> None:
    model = wrapped(backbones()[network])
    biases = [m.bias for m in model.backbone.modules() if isinstance(m, nn.Linear | nn.Conv1d) and m.bias is not None]
    parts = [
        ids(model.backbone_parameters()),
        ids(model.generator.offsets()),
        ids(model.generator_parameters()),
        ids(biases),
    ]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert set.union(*parts) == ids(model.parameters())
    assert ids(model.online_parameters()) == parts[0] | parts[1]


@pytest.mark.parametrize("backbone", [True, False])
@pytest.mark.parametrize("generator", [True, False])
@pytest.mark.parametrize("freeze_backbone", [True, False])
def test_exactly_what_was_asked_for_learns(backbone: bool, generator: bool, freeze_backbone: bool) -> None:
    model = wrapped(backbones()["mixed"], freeze_backbone=freeze_backbone)
    model.train_only(backbone=backbone, generator=generator)
    expected: set[int] = set()
    if backbone:
        expected |= ids(model.generator.offsets()) | (set() if freeze_backbone else ids(model.backbone_parameters()))
    if generator:
        expected |= ids(model.generator_parameters())
    assert ids(p for p in model.parameters() if p.requires_grad) == expected


def test_norm_layers_of_the_backbone_keep_learning_online() -> None:
    model = wrapped(backbones()["mixed"])
    model.freeze_generator()
    norm = model.backbone.norm
    assert norm.weight.requires_grad
    assert norm.bias.requires_grad


def test_a_frozen_backbone_learns_offsets_only_online() -> None:
    model = wrapped(backbones()["convolution"], freeze_backbone=True)
    model.freeze_generator()
    assert ids(p for p in model.parameters() if p.requires_grad) == ids(model.generator.offsets())


def test_biases_of_adapted_layers_never_learn() -> None:
    model = wrapped(backbones()["convolution"])
    biases = [m.bias for m in model.backbone.modules() if isinstance(m, nn.Linear | nn.Conv1d)]
    for generator in (True, False):
        model.train_only(backbone=True, generator=generator)
        assert not any(bias.requires_grad for bias in biases if bias is not None)


def test_a_copy_keeps_the_same_biases_fixed() -> None:
    model = copy.deepcopy(make())
    model.freeze_generator()
    assert not model.backbone.linear.bias.requires_grad
    assert ids(p for p in model.parameters() if p.requires_grad) == ids(
        [model.backbone.linear.weight, *model.generator.offsets()]
    )


def test_a_copy_forecasts_with_weights_of_its_own() -> None:
    model = make()
    x, _ = batch(1, seed=0)
    expected = model(x)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        model.backbone.linear.weight.zero_()
    assert torch.equal(copied(x), expected)


# The reference is part of the state


@pytest.mark.parametrize("ema", [0.0, 0.25])
def test_reference_and_average_go_through_the_state(ema: float, tmp_path: Any) -> None:
    model = make(ema=ema)
    model.set_reference(*batch(2, seed=5))
    model.set_reference(*batch(1, seed=6))
    save_checkpoint(tmp_path / "model.pt", {"model": model.state_dict()})
    other = make(ema=ema, seed=7)
    x, _ = batch(1, seed=0)
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(load_checkpoint(tmp_path / "model.pt")["model"])
    for seed in (8, 9):
        assert torch.equal(other(x), model(x))
        for each in (model, other):
            each.set_reference(*batch(1, seed=seed))


def test_a_state_without_reference_is_restored_as_such() -> None:
    model = make()
    model.load_state_dict(plain(concept_dim=7, bottleneck_dim=4).state_dict())
    with pytest.raises(ValueError, match="no reference pair yet"):
        model(batch(1, seed=0)[0])


def test_restoring_forgets_the_concept_that_was_kept() -> None:
    model, other = make(), make(seed=7)
    x, _ = batch(1, seed=0)
    for each in (model, other):
        each.freeze_generator()
        each.drift(x)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.drift(x), other.drift(x))


def test_the_concept_that_was_kept_is_that_of_the_encoder_as_it_is() -> None:
    model = make(clip=False)
    x, y = batch(1, seed=0)
    model.freeze_generator()
    before = model.drift(x)
    model.train_only(backbone=False, generator=True)
    with torch.no_grad():
        model.reference_encoder.second.bias.add_(1.0)
    model.freeze_generator()
    torch.testing.assert_close(model.drift(x), before - 1)
    model.set_reference(x, y)
    torch.testing.assert_close(model.drift(x), model.current_encoder(x) - model.reference_concept())
