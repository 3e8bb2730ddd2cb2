"""Tuning on synthetic drift: references, the optimiser, validation that leaves no trace, and the stored run."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.evaluation import OnlineResult, prequential
from corollary.forecasting import FitConfig, NLinear, Problem, Setting, Split, experiment, make_problem
from corollary.runs import Run, RunStore, with_requirements
from corollary_proceed import Proceed, ProceedConfig, ProceedTuning, tune
from corollary_proceed import tuning as module

LOOKBACK, HORIZON, VARIATES = 12, 3, 2


def problem(name: str = "noise", **_: Any) -> Problem:
    values = torch.randn(160, VARIATES, generator=torch.Generator().manual_seed(0)).cumsum(0)
    return Problem(
        name=name,
        values=values,
        variates=VARIATES,
        split=Split(60, 80, 160),
        lookback=LOOKBACK,
        horizon=HORIZON,
        period=1,
    )


class Wavering(nn.Module):
    """Dropout, batch statistics and a bias: what validation could leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(LOOKBACK, 8)
        self.norm = nn.BatchNorm1d(VARIATES)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(8, HORIZON)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(functional.gelu(self.norm(self.inner(x.mT))))).mT


def make(network: nn.Module | None = None, **options: Any) -> Proceed:
    torch.manual_seed(0)
    network = NLinear(LOOKBACK, HORIZON, VARIATES) if network is None else network
    return Proceed(network, lookback=LOOKBACK, horizon=HORIZON, concept_dim=4, bottleneck_dim=3, **options)


def config(**options: Any) -> FitConfig:
    return FitConfig(**{"rate": 1e-2, "batch_size": 8, "epochs": 2, "patience": None} | options)


class Watched(Proceed):
    """Writes down the reference that every mini-batch is forecast against, and the pairs that follow it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.references: list[Tensor] = []
        self.pairs: list[Tensor] = []

    def forward(self, x: Tensor, drift: Tensor | None = None) -> Tensor:
        assert self._reference is not None
        self.references.append(self._reference.clone())
        return super().forward(x, drift)

    def set_reference(self, x: Tensor, y: Tensor) -> None:
        super().set_reference(x, y)
        self.pairs.append(torch.cat([x, y], -2))


def test_the_reference_of_a_mini_batch_is_the_one_before_it_zeros_at_first() -> None:
    torch.manual_seed(0)
    model = Watched(NLinear(LOOKBACK, HORIZON, VARIATES), lookback=LOOKBACK, horizon=HORIZON)
    tune(model, problem(), config(), online_rate=1e-3)
    steps = 2 * ((60 - LOOKBACK - HORIZON + 1) // 8)  # two epochs, the last incomplete batch dropped
    assert len(model.references) == len(model.pairs) == steps
    assert torch.equal(model.references[0], torch.zeros(1, LOOKBACK + HORIZON, VARIATES))
    for reference, before in zip(model.references[1:], model.pairs, strict=False):
        assert reference.shape == (8, LOOKBACK + HORIZON, VARIATES)
        assert torch.equal(reference, before)


def test_mini_batches_are_in_random_order_and_far_apart() -> None:
    torch.manual_seed(0)
    model = Watched(NLinear(LOOKBACK, HORIZON, VARIATES), lookback=LOOKBACK, horizon=HORIZON)
    data = problem()
    tune(model, data, config(epochs=1), online_rate=1e-3)
    windows = data.windows(data.training_origins)
    pairs = torch.cat([windows.x, windows.y], 1)
    order = [int((pairs == pair).all((1, 2)).nonzero()[0, 0]) for pair in torch.cat(model.pairs)]
    assert len(set(order)) == len(order)
    assert order != sorted(order)
    torch.manual_seed(0)
    model = Watched(NLinear(LOOKBACK, HORIZON, VARIATES), lookback=LOOKBACK, horizon=HORIZON)
    tune(model, data, config(epochs=1, shuffle=False), online_rate=1e-3)
    assert torch.equal(torch.cat(model.pairs), pairs[: len(order)])


def test_tuning_is_adam_on_the_squared_error_written_out() -> None:
    data, model = problem(), make()
    twin = copy.deepcopy(model)
    tune(model, data, config(epochs=1, shuffle=False), online_rate=1e-3)
    twin.train_only(backbone=True, generator=True)
    twin.backbone.linear.bias.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in twin.parameters() if p.requires_grad], lr=1e-2)
    reference = torch.zeros(1, LOOKBACK + HORIZON, VARIATES)
    windows = data.windows(data.training_origins)
    for x, y in zip(windows.x.split(8)[:5], windows.y.split(8)[:5], strict=True):
        drift = twin.current_encoder(x) - twin.reference_encoder(reference).mean(0)
        drift = drift / torch.linalg.vector_norm(drift, dim=-1, keepdim=True).clamp_min(1)
        loss = (twin(x, drift) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        reference = torch.cat([x, y], 1)
    for (name, found), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_both_encoders_learn() -> None:
    model = make()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tune(model, problem(), config(epochs=1), online_rate=1e-3)
    moved = {name: float((p - before[name]).detach().abs().max()) for name, p in model.named_parameters()}
    assert moved.pop("backbone.linear.bias") == 0
    assert min(moved.values()) > 0


def test_the_optimiser_is_fresh_with_one_rate_for_everything() -> None:
    model = make()
    optimizer, _ = tune(model, problem(), config(epochs=1), online_rate=1e-3)
    (group,) = optimizer.param_groups
    assert group["lr"] == 1e-2
    fixed = {id(model.backbone.linear.bias)}
    assert {id(p) for p in group["params"]} == {id(p) for p in model.parameters()} - fixed
    assert {int(state["step"]) for state in optimizer.state.values()} == {5}  # moments begin with tuning


def test_a_frozen_backbone_is_not_tuned() -> None:
    model = make(freeze_backbone=True)
    before = model.backbone.linear.weight.detach().clone()
    optimizer, _ = tune(model, problem(), config(epochs=1), online_rate=1e-3)
    assert torch.equal(model.backbone.linear.weight, before)
    assert not any(p is model.backbone.linear.weight for p in optimizer.param_groups[0]["params"])


def test_without_patience_all_epochs_are_trained_and_none_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prequential", None)
    seen: list[int] = []
    _, history = tune(
        make(), problem(), config(epochs=4), online_rate=1e-3, on_epoch=lambda epoch, loss: seen.append(epoch)
    )
    assert seen == [1, 2, 3, 4]
    assert (len(history.training), history.validation, history.best_epoch) == (4, (), 4)


def state_of(model: Proceed, optimizer: torch.optim.Optimizer) -> Any:
    return copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.requires_grad for p in model.parameters()]))


def same(first: Any, second: Any) -> bool:
    """Equal down to the last tensor."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and first.shape == second.shape and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


class Validation:
    """Watches what tuning does around its validation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: list[Any] = []
        self.after: list[Any] = []
        self.rates: list[float] = []
        self.errors: list[float] = []
        true_fit = module.fit

        def fit(model: Any, optimizer: Any, *args: Any, validate: Any, **options: Any) -> Any:
            def judged() -> float:
                self.before.append(state_of(model, optimizer))
                error = validate()
                self.after.append(state_of(model, optimizer))
                return error

            return true_fit(model, optimizer, *args, validate=judged, **options)

        def walk(forecaster: Any, stream: Any, origins: Any) -> OnlineResult:
            self.rates.append(forecaster.optimizer.param_groups[0]["lr"])
            assert origins == problem().validation_origins
            result = prequential(forecaster, stream, origins)
            assert not same(state_of(forecaster.model, forecaster.optimizer)[0], self.before[-1][0])
            self.errors.append(result.mse)
            return result

        monkeypatch.setattr(module, "fit", fit)
        monkeypatch.setattr(module, "prequential", walk)


@pytest.mark.parametrize("network", [None, Wavering])
def test_validation_leaves_model_and_optimiser_exactly_as_they_were(
    monkeypatch: pytest.MonkeyPatch, network: type[nn.Module] | None
) -> None:
    watched = Validation(monkeypatch)
    torch.manual_seed(0)
    tune(make(None if network is None else network()), problem(), config(epochs=3, patience=3), online_rate=1e-3)
    assert len(watched.before) == 3
    assert all(map(same, watched.before, watched.after))


def test_epochs_are_judged_by_the_online_protocol_at_the_online_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Validation(monkeypatch)
    _, history = tune(make(), problem(), config(epochs=3, patience=3), online_rate=2e-3)
    assert watched.rates == [2e-3] * 3
    assert history.validation == tuple(watched.errors)


def test_training_goes_on_as_if_there_had_been_no_validation() -> None:
    """Reference and moments after validation are those of the last mini-batch: the next epoch is the same."""
    judged, plain = make(), make()
    torch.manual_seed(1)
    _, history = tune(judged, problem(), config(epochs=3, patience=3), online_rate=1e-3)
    torch.manual_seed(1)
    _, expected = tune(plain, problem(), config(epochs=3), online_rate=1e-3)
    assert history.training == expected.training


def test_the_reference_is_put_back_after_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Validation(monkeypatch)
    tune(make(), problem(), config(epochs=1, patience=1), online_rate=1e-3)
    (before, after) = (states[0][0]["_extra_state"]["reference"] for states in (watched.before, watched.after))
    assert before.shape == (8, LOOKBACK + HORIZON, VARIATES)  # the last mini-batch, no validation pair
    assert torch.equal(before, after)


def test_the_best_epoch_is_kept_with_its_reference_and_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Validation(monkeypatch)
    errors = iter([3.0, 1.0, 2.0, 4.0])
    true = module.prequential

    def scored(*args: Any) -> Any:
        result = true(*args)
        result.squared[:] = next(errors)
        return result

    monkeypatch.setattr(module, "prequential", scored)
    model = make()
    optimizer, history = tune(model, problem(), config(epochs=9, patience=2), online_rate=1e-3)
    assert history.best_epoch == 2
    assert len(history.validation) == 4
    assert same(state_of(model, optimizer)[:2], watched.before[1][:2])


# The stored run


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """A store whose data sets are the small problem of this file."""
    monkeypatch.setattr(experiment, "make_problem", problem)
    return RunStore(tmp_path / "runs")


def setting() -> Setting:
    return Setting(data="tuning-noise", backbone="nlinear", lookback=LOOKBACK, horizon=HORIZON, fit=config(epochs=1))


@pytest.fixture
def recipe() -> ProceedTuning:
    method = ProceedConfig(concept_dim=4, bottleneck_dim=3)
    return ProceedTuning(setting=setting(), fit=config(patience=2), method=method, online_rate=1e-3)


def test_a_tuned_model_is_loaded_with_its_optimiser_and_reference(store: RunStore, recipe: ProceedTuning) -> None:
    (needed,) = with_requirements([Run(recipe, 3)])[:-1]
    assert needed.recipe.name == "forecaster"
    for run in with_requirements([Run(recipe, 3)]):
        store.execute(run)
    torch.manual_seed(3)
    fresh = recipe.method.wrap(needed.recipe.load(store, seed=3)[0], problem())
    optimizer, _ = tune(fresh, problem(), recipe.fit, online_rate=1e-3)
    model, loaded = recipe.load(problem(), store, seed=3)
    assert same(model.state_dict(), fresh.state_dict())
    assert same(loaded.state_dict(), optimizer.state_dict())


def test_labels_name_the_control() -> None:
    for drift, label in (("difference", "tuning of proceed (tun"), ("none", "tuning of proceed, drift: none (tun")):
        method: Any = ProceedConfig(drift=drift)
        recipe = ProceedTuning(setting=setting(), fit=config(), method=method, online_rate=1e-3)
        assert recipe.label.startswith(label)


def test_the_configuration_wraps_with_every_option() -> None:
    chosen = ProceedConfig(
        concept_dim=4, bottleneck_dim=3, clip=False, share=False, ema=0.5, freeze_backbone=True, drift="one-encoder"
    )
    model = chosen.wrap(NLinear(LOOKBACK, HORIZON, VARIATES), problem())
    assert (model.clip, model.ema, model.freeze_backbone, model.drift_kind) == (False, 0.5, True, "one-encoder")
    assert (model.lookback, model.horizon, model.variates) == (LOOKBACK, HORIZON, VARIATES)
    assert model.current_encoder.second.out_features == 4
    assert model.generator.groups[0].down.out_features == 3


def test_the_embedded_stream_can_be_tuned_on() -> None:
    data = make_problem("switching-levels", lookback=LOOKBACK, horizon=HORIZON, seed=0)
    model = Proceed(NLinear(LOOKBACK, HORIZON, 8), lookback=LOOKBACK, horizon=HORIZON, concept_dim=4, bottleneck_dim=3)
    _, history = tune(model, data, config(rate=1e-3, epochs=2), online_rate=1e-3)
    assert history.training[1] < history.training[0]
