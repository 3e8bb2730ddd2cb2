import json
from dataclasses import dataclass, fields, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from corollary.evaluation import LeakageWarning, OnlineForecaster, OnlineResult, Prequential, prequential
from corollary.forecasting import (
    FitConfig,
    Online,
    OnlineGD,
    OnlineMethod,
    Pretrain,
    Problem,
    Setting,
    Split,
    experiment,
    make_method,
    method_class,
    method_names,
    pretrained,
    read_result,
)
from corollary.forecasting.methods import GD_RATES, FrozenMethod, GradientMethod
from corollary.runs import Run, RunError, RunStore, load_checkpoint

SETTING = Setting(
    data="noise", backbone="nlinear", lookback=8, horizon=4, fit=FitConfig(rate=0.01, epochs=2, batch_size=16)
)
ORIGINS = 350 - 4 - 200 + 1


def noise_problem(data: str, lookback: int, horizon: int, seed: int, with_calendar: bool) -> Problem:
    values = torch.randn(360, 3, generator=torch.Generator().manual_seed(7)).cumsum(0) / 10
    return Problem(
        name=data,
        values=values,
        variates=3,
        split=Split(150, 200, 350),
        lookback=lookback,
        horizon=horizon,
        period=1,
    )


class DroppingGD(OnlineGD):
    """Draws from the global generator at every update, and reports of itself."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        kept = functional.dropout(x.unsqueeze(0), 0.2, training=self.model.training)
        return functional.mse_loss(self.model(kept).squeeze(0), y)

    def observe(self) -> dict[str, float]:
        return {"bias": float(self.model.get_parameter("linear.bias").detach().sum())}


@dataclass(frozen=True, kw_only=True)
class DroppingMethod(OnlineMethod):
    rate: float = 1e-2
    steps: int = 1

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        return DroppingGD(*pretrained(setting, seed, store, rate=self.rate))


@dataclass(frozen=True, kw_only=True)
class StatelessMethod(OnlineMethod):
    def requires(self, setting: Setting, seed: int) -> tuple[Run, ...]:
        return ()

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        class LastValue:
            def update(self, x: Tensor, y: Tensor) -> None: ...

            def predict(self, x: Tensor) -> Tensor:
                return x[-1:].expand(4, -1)

        return LastValue()


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods of this file as installed ones, and the data of this file."""
    found = [
        EntryPoint(name="dropping", value="unused:Dropping", group=experiment.ENTRY_POINTS),
        EntryPoint(name="stateless", value="unused:Stateless", group=experiment.ENTRY_POINTS),
        EntryPoint(name="gd", value="corollary.forecasting.methods:GradientMethod", group=experiment.ENTRY_POINTS),
        EntryPoint(name="frozen", value="corollary.forecasting.methods:FrozenMethod", group=experiment.ENTRY_POINTS),
    ]
    local = {"dropping": DroppingMethod, "stateless": StatelessMethod}
    load = EntryPoint.load
    monkeypatch.setattr(EntryPoint, "load", lambda point: local.get(point.name) or load(point))
    monkeypatch.setattr(experiment, "entry_points", lambda group: found)
    monkeypatch.setattr(experiment, "_problem", noise_problem)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def same(one: OnlineResult, other: OnlineResult) -> None:
    for name in ("origins", "squared", "absolute", "forecasts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    assert one.traces.keys() == other.traces.keys()
    for name, values in one.traces.items():
        np.testing.assert_array_equal(values, other.traces[name], strict=True)


def finished(store: RunStore, recipe: Online, seed: int = 0) -> OnlineResult:
    run = Run(recipe, seed)
    store.execute(run)
    return read_result(store.path(run))


# Pre-training


def test_pretraining_keeps_the_best_model_and_its_optimizer(store: RunStore) -> None:
    run = Run(Pretrain(setting=SETTING), 3)
    store.execute(run)
    history = json.loads((store.path(run) / "history.json").read_text())
    assert len(history["training"]) == len(history["validation"]) == 2
    model, optimizer = Pretrain(setting=SETTING).load(store, seed=3)
    problem = SETTING.problem(3)
    held_out = problem.windows(problem.validation_origins)
    with torch.no_grad():
        error = functional.mse_loss(model(held_out.x), held_out.y).item()
    assert error == pytest.approx(min(history["validation"]), rel=1e-5)
    # 139 training origins make 8 batches of 16 an epoch.
    assert len(problem.training_origins) == 139
    assert {int(state["step"]) for state in optimizer.state.values()} == {8 * history["best_epoch"]}
    assert [id(parameter) for parameter in optimizer.param_groups[0]["params"]] == [
        id(parameter) for parameter in model.parameters()
    ]


def test_pretraining_is_decided_by_its_seed(tmp_path: Path) -> None:
    states = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        store = RunStore(tmp_path / folder)
        store.execute(Run(Pretrain(setting=SETTING), seed))
        torch.rand(3)  # what came before must not matter
        states.append(load_checkpoint(store.path(Run(Pretrain(setting=SETTING), seed)) / "model.pt")["model"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_pretraining_without_validation(store: RunStore) -> None:
    setting = replace(SETTING, fit=replace(SETTING.fit, patience=None))
    store.execute(Run(Pretrain(setting=setting), 0))
    path = store.path(Run(Pretrain(setting=setting), 0))
    assert json.loads((path / "history.json").read_text())["validation"] == []


def test_online_rate_replaces_that_of_pretraining(store: RunStore) -> None:
    store.execute(Run(Pretrain(setting=SETTING), 0))
    _, optimizer = pretrained(SETTING, 0, store, rate=3e-5)
    assert [group["lr"] for group in optimizer.param_groups] == [3e-5]
    assert all(state["exp_avg"].any() for state in optimizer.state.values())


def test_backbone_that_was_not_trained_is_an_error(store: RunStore) -> None:
    with pytest.raises(RunError, match=r"pre-training .* is not in the store"):
        pretrained(SETTING, 0, store, rate=0.1)


# Methods


def test_installed_methods() -> None:
    assert method_names() == ["dropping", "frozen", "gd", "stateless"]
    assert method_class("gd") is GradientMethod
    assert make_method("gd", rate=0.5) == GradientMethod(rate=0.5)
    assert make_method("frozen") == FrozenMethod()


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown online method 'gdd'; did you mean 'gd'"):
        make_method("gdd")


@pytest.mark.parametrize(("name", "known"), [("gd", "rate"), ("frozen", "none"), ("dropping", "rate, steps")])
def test_unknown_option_is_refused(name: str, known: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} has no option 'speed'; it has: {known}$"):
        make_method(name, speed=1)
    with pytest.raises(ValueError, match=f"^{name} has no option 'speed'"):
        Run(Online(setting=SETTING, method=name, options=(("speed", 1),)), 0).requires()


def test_options_are_what_differs_from_the_defaults() -> None:
    assert DroppingMethod().options == ()
    assert DroppingMethod(steps=2, rate=1e-2).options == (("steps", 2),)
    assert DroppingMethod(steps=2, rate=0.5).options == (("rate", 0.5), ("steps", 2))
    method = DroppingMethod(steps=3)
    assert make_method("dropping", **dict(method.options)) == method


def test_presets() -> None:
    assert GradientMethod.preset(replace(SETTING, backbone="tcn", data="ETTm1")).rate == 1e-6
    assert GradientMethod.preset(replace(SETTING, backbone="tcn", data="ETTh1")).rate == GD_RATES["tcn"]["ETTh2"]
    assert GradientMethod.preset(replace(SETTING, backbone="own")) == GradientMethod()
    assert FrozenMethod.preset(SETTING) == FrozenMethod()


def test_base_class_builds_nothing(store: RunStore) -> None:
    with pytest.raises(NotImplementedError):
        OnlineMethod().build(SETTING.problem(0), SETTING, 0, store)


def test_labels() -> None:
    recipe = Online(setting=SETTING, method="gd", options=(("rate", 3e-5), ("steps", 2)), leaky=True)
    assert recipe.label == "gd (rate 3e-05, steps 2, leaky) on noise, nlinear, H = 4"
    assert Online(setting=SETTING, method="frozen").label == "frozen on noise, nlinear, H = 4"
    assert Pretrain(setting=SETTING).label == "pre-training (noise, nlinear, H = 4)"


def test_keys_depend_on_what_matters() -> None:
    base = Online(setting=SETTING, method="gd")
    others = [
        replace(base, method="frozen"),
        replace(base, leaky=True),
        replace(base, options=(("rate", 0.1),)),
        replace(base, setting=replace(SETTING, horizon=5)),
        replace(base, setting=replace(SETTING, fit=replace(SETTING.fit, epochs=3))),
    ]
    keys = {Run(recipe, 0).key for recipe in [base, *others]} | {Run(base, 1).key}
    assert len(keys) == 7
    assert {item.name for item in fields(Online)} == {"setting", "method", "options", "leaky"}


# Online runs


def test_online_run_is_preparation_and_prequential(store: RunStore) -> None:
    recipe = Online(setting=SETTING, method="gd", options=(("rate", 0.01),))
    assert [run.recipe for run in Run(recipe, 2).requires()] == [Pretrain(setting=SETTING)]
    result = finished(store, recipe, seed=2)
    problem = SETTING.problem(2)
    forecaster = OnlineGD(*pretrained(SETTING, 2, store, rate=0.01))
    for origin in range(149, 199):  # the walk through the validation rows
        window = problem.values[origin - 4 - 7 : origin - 4 + 1]
        forecaster.update(window, problem.values[origin - 3 : origin + 1])
    by_hand = prequential(forecaster, problem.stream(), range(199, 346), traced=2)
    same(result, by_hand)
    assert len(result.origins) == ORIGINS
    assert not (store.path(Run(recipe, 2)) / "checkpoint.pt").exists()
    progress = store.progress(Run(recipe, 2))
    assert progress is not None
    assert (progress.done, progress.total) == (ORIGINS, ORIGINS)


def test_frozen_run(store: RunStore) -> None:
    result = finished(store, Online(setting=SETTING, method="frozen"))
    model, _ = Pretrain(setting=SETTING).load(store, seed=0)
    problem = SETTING.problem(0)
    windows = problem.windows(problem.test_origins)
    with torch.no_grad():
        expected = (model(windows.x) - windows.y).double().square().mean((1, 2))
    np.testing.assert_allclose(result.squared, expected.numpy(), rtol=1e-5)


def test_leaky_run_warns_and_differs(store: RunStore) -> None:
    recipe = Online(setting=SETTING, method="gd", options=(("rate", 0.01),))
    honest = finished(store, recipe)
    with pytest.warns(LeakageWarning):
        early = finished(store, replace(recipe, leaky=True))
    assert len(early.squared) == len(honest.squared)
    assert not np.array_equal(early.squared, honest.squared)


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("kills", [(100,), (101,), (120, 140)])
def test_killed_run_goes_on_to_the_same_result(
    kills: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Online(setting=SETTING, method="dropping")
    whole = finished(RunStore(tmp_path / "whole"), recipe)
    monkeypatch.setattr(experiment, "CHECKPOINT_EVERY_S", 0.0)
    store, run = RunStore(tmp_path / "broken"), Run(recipe, 0)
    step = Prequential.step
    steps = 0

    def dying(self: Prequential) -> None:
        nonlocal steps
        if self.done in remaining:
            remaining.remove(self.done)
            raise Killed
        steps += 1
        step(self)

    remaining = list(kills)
    monkeypatch.setattr(Prequential, "step", dying)
    for kill in kills:
        with pytest.raises(Killed):
            store.execute(run)
        assert not store.is_complete(run)
        assert load_checkpoint(store.path(run) / "checkpoint.pt")["run"]["done"] == kill // 100 * 100
        torch.manual_seed(1234)
    store.execute(run)
    same(read_result(store.path(run)), whole)
    assert steps == ORIGINS + sum(kill % 100 for kill in kills)  # it did not begin again
    assert not (store.path(run) / "checkpoint.pt").exists()
    assert "bias" in whole.traces


def test_run_killed_before_its_first_checkpoint_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Online(setting=SETTING, method="dropping")
    whole = finished(RunStore(tmp_path / "whole"), recipe)
    store, run = RunStore(tmp_path / "broken"), Run(recipe, 0)
    step = Prequential.step

    def dying(self: Prequential) -> None:
        if self.done == 99:
            raise Killed
        step(self)

    monkeypatch.setattr(Prequential, "step", dying)
    with pytest.raises(Killed):
        store.execute(run)
    monkeypatch.setattr(Prequential, "step", step)
    same(finished(store, recipe), whole)


def test_forecaster_without_state_runs_without_checkpoints(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "CHECKPOINT_EVERY_S", 0.0)
    result = finished(store, Online(setting=SETTING, method="stateless"))
    values = SETTING.problem(0).values.double()
    errors = torch.stack([values[t] - values[t + 1 : t + 5] for t in result.origins])
    assert result.mse == pytest.approx(errors.square().mean().item(), rel=1e-12)


def test_seed_changes_the_backbone_and_so_the_run(store: RunStore) -> None:
    recipe = Online(setting=SETTING, method="frozen")
    assert not np.array_equal(finished(store, recipe, 0).squared, finished(store, recipe, 1).squared)


def test_third_party_preset_is_of_its_own_class() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(DroppingMethod):
        @classmethod
        def preset(cls, setting: Setting) -> Self:
            return cls(steps=setting.horizon)

    assert Own.preset(SETTING) == Own(steps=4)
