"""The forecaster online: order of steps, the pass over the validation rows, what stays frozen, and its state."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.evaluation import LeakageError, Stream, prequential
from corollary.forecasting import (
    Problem,
    Split,
    make_optimizer,
    prepare_online,
    restore_streaming_state,
    streaming_state,
)
from corollary.runs import load_checkpoint, save_checkpoint
from corollary_proceed import Proceed, ProceedForecaster, clip_norm
from corollary_proceed.exact_adaptation import HORIZON, LOOKBACK, VARIATES, backbones, batch
from corollary_proceed.exact_online import ROWS, START, make_forecaster, series
from corollary_proceed.forecaster import ValidationPass


def stream(values: Tensor | None = None) -> Stream:
    return Stream(series() if values is None else values, lookback=LOOKBACK, horizon=HORIZON)


def change(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, float]:
    return {name: float((after[name] - before[name]).abs().max()) for name in before}


def values_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


# What is refused


def test_an_unknown_validation_pass_is_refused() -> None:
    forecaster = make_forecaster()
    unknown: Any = "both"
    with pytest.raises(ValueError, match="validation_pass must be one of alternate, joint, online, got 'both'"):
        ProceedForecaster(forecaster.model, forecaster.optimizer, validation_pass=unknown)


def test_a_forecast_before_there_is_a_reference_is_refused() -> None:
    torch.manual_seed(0)
    model = Proceed(backbones()["linear"], lookback=LOOKBACK, horizon=HORIZON).double()
    forecaster = ProceedForecaster(model, make_optimizer("adam", model.parameters(), 1e-3))
    x, y = batch(1, seed=0)
    for act in (lambda: forecaster.predict(x[0]), lambda: forecaster.update(x[0], y[0])):
        with pytest.raises(ValueError, match="no reference pair yet"):
            act()


def test_a_label_that_is_not_complete_cannot_be_learned_from() -> None:
    rows = stream()
    rows.advance(START)
    assert not rows.released(START - HORIZON + 1)
    with pytest.raises(LeakageError, match=f"complete at row {START + 1}, but the last observed row is {START}"):
        make_forecaster().update(*rows.pair(START - HORIZON + 1))
    make_forecaster().update(*rows.pair(START - HORIZON))


def test_a_series_with_a_gap_or_too_few_rows_is_refused() -> None:
    bad = series()
    bad[7, 1] = float("nan")
    with pytest.raises(ValueError, match="must be finite, got nan in row 7, column 1"):
        stream(bad)
    with pytest.raises(ValueError, match=r"at least lookback \+ 2 horizon = 30 rows, got 29"):
        stream(series()[:29])


def test_windows_and_labels_of_another_size_are_refused() -> None:
    forecaster = make_forecaster()
    x, y = batch(1, seed=0)
    with pytest.raises(ValueError, match=r"x must be \(batch, lookback, columns\)"):
        forecaster.predict(x[0, 1:])
    with pytest.raises(ValueError, match=r"y must be \(batch, horizon, variates\)"):
        forecaster.model.set_reference(x[0], y[0, 1:])


# One step


def test_an_update_sees_the_old_reference_and_a_forecast_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    forecaster = make_forecaster()
    model, seen = forecaster.model, []
    true = model.estimated_drift

    def watched(x: Tensor) -> Tensor:
        assert model._reference is not None
        seen.append((x.clone(), model._reference.clone()))
        return true(x)

    monkeypatch.setattr(model, "estimated_drift", watched)
    x, y = batch(3, seed=0)
    forecaster.update(x[0], y[0])
    forecaster.update(x[1], y[1])
    forecaster.predict(x[2])
    (_, _), (second, old), (third, new) = seen
    assert torch.equal(second[0], x[1])
    assert torch.equal(old, torch.cat([x[:1], y[:1]], 1))
    assert torch.equal(third[0], x[2])
    assert torch.equal(new, torch.cat([x[1:2], y[1:2]], 1))


def test_an_update_is_one_step_of_adam_on_the_adapted_loss() -> None:
    forecaster, other = make_forecaster(), make_forecaster()
    x, y = batch(1, seed=0)
    forecaster.update(x[0], y[0])
    other.optimizer.zero_grad()
    functional.mse_loss(other.model(x), y).backward()
    other.optimizer.step()
    for name, difference in change(values_of(forecaster.model), values_of(other.model)).items():
        assert difference < 1e-12, name


def test_updates_are_in_training_mode_and_forecasts_in_evaluation_mode() -> None:
    forecaster = make_forecaster("convolution")
    modes = []
    forecaster.model.backbone.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    x, y = batch(1, seed=0)
    forecaster.predict(x[0])
    forecaster.update(x[0], y[0])
    forecaster.predict(x[0])
    assert modes == [False, True, False]


def test_a_forecast_changes_nothing() -> None:
    forecaster = make_forecaster("convolution")
    x, _ = batch(1, seed=0)
    before, state = values_of(forecaster.model), forecaster.model.get_extra_state()
    first = forecaster.predict(x[0])
    assert torch.equal(forecaster.predict(x[0]), first)
    assert not first.requires_grad
    assert max(change(before, values_of(forecaster.model)).values()) == 0
    assert forecaster.model.get_extra_state()["reference"] is state["reference"]


def test_the_trace_is_the_norm_of_the_drift_of_the_last_forecast_before_the_clip() -> None:
    forecaster = make_forecaster()
    assert forecaster.observe() == {}
    x, _ = batch(2, seed=0)
    for window in x:
        forecaster.predict(window)
        norm = torch.linalg.vector_norm(forecaster.model.estimated_drift(window[None])).detach()
        assert forecaster.observe() == {"drift_norm": pytest.approx(float(norm), rel=1e-12)}
    result = prequential(make_forecaster(), stream(), range(START, START + 5))
    assert list(result.traces) == ["drift_norm"]


# What learns, and with which moments


@pytest.mark.parametrize("kind", ["linear", "convolution", "mixed"])
def test_online_only_backbone_and_offsets_move(kind: str) -> None:
    forecaster = make_forecaster(kind)
    model = forecaster.model
    learning = {id(p) for p in model.online_parameters()}
    before = values_of(model)
    prequential(forecaster, stream(), range(START, START + 8))
    moved = change(before, values_of(model))
    for name, parameter in model.named_parameters():
        if id(parameter) not in learning:
            assert moved[name] == 0, name
    assert all(moved[name] > 0 for name in moved if name.endswith("offset"))


def test_offsets_can_be_kept_fixed_online() -> None:
    tuned = make_forecaster()
    forecaster = ProceedForecaster(tuned.model, tuned._whole_optimizer, learn_offsets=False)
    before = values_of(tuned.model)
    prequential(forecaster, stream(), range(START, START + 8))
    moved = change(before, values_of(tuned.model))
    assert [name for name, size in moved.items() if size] == ["backbone.linear.weight"]


def test_a_frozen_backbone_is_bit_identical_after_the_run() -> None:
    forecaster = make_forecaster("convolution", freeze_backbone=True)
    before = values_of(forecaster.model)
    forecaster.prepare(at_start(), range(START - 20, START))
    prequential(forecaster, stream(), range(START, START + 8))
    moved = change(before, values_of(forecaster.model))
    assert max(size for name, size in moved.items() if name.startswith("backbone.")) == 0
    assert min(size for name, size in moved.items() if name.endswith("offset")) > 0


def test_the_online_optimiser_goes_on_with_the_moments_of_tuning() -> None:
    forecaster = make_forecaster()
    whole, narrow = forecaster._whole_optimizer, forecaster.optimizer
    assert narrow is not whole
    parameters = narrow.param_groups[0]["params"]
    assert {id(p) for p in parameters} == {id(p) for p in forecaster.model.online_parameters()}
    assert narrow.param_groups[0]["lr"] == whole.param_groups[0]["lr"] == 1e-2
    before = [whole.state[p]["exp_avg"].clone() for p in parameters]
    assert all(float(moment.abs().max()) > 0 for moment in before)
    x, y = batch(1, seed=0)
    forecaster.update(x[0], y[0])
    for parameter, old in zip(parameters, before, strict=True):
        assert parameter.grad is not None
        expected = 0.9 * old + 0.1 * parameter.grad
        torch.testing.assert_close(narrow.state[parameter]["exp_avg"], expected)
        assert narrow.state[parameter]["exp_avg"] is whole.state[parameter]["exp_avg"]
        assert int(narrow.state[parameter]["step"]) == 4


# The pass over the validation rows


def at_start() -> Stream:
    """Everything up to the first test origin is observed."""
    rows = stream()
    rows.advance(START)
    return rows


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[ProceedForecaster], list[tuple[frozenset[str], Tensor]]]:
    """Watch a forecaster: who may learn at every optimiser step, and the pair that becomes the reference after it."""

    def watch(forecaster: ProceedForecaster) -> list[tuple[frozenset[str], Tensor]]:
        model, seen = forecaster.model, []
        true = model.set_reference

        def watched(x: Tensor, y: Tensor) -> None:
            learning = set()
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    part = "backbone" if name.startswith("backbone") else "generator"
                    learning.add("offsets" if name.endswith("offset") else part)
            seen.append((frozenset(learning), torch.cat([x, y]).clone()))
            true(x, y)

        monkeypatch.setattr(model, "set_reference", watched)
        return seen

    return watch


BASE, MAPPING = frozenset({"backbone", "offsets"}), frozenset({"generator"})


def test_the_pass_alternates_backbone_on_the_freshest_and_generator_on_the_current_pair(steps: Any) -> None:
    forecaster = make_forecaster()
    seen = steps(forecaster)
    forecaster.prepare(at_start(), range(START - 20, START))
    values, expected = series(), []
    for k in range(START - 20, START):
        expected.append((BASE, k - HORIZON))
        if k + HORIZON <= START:
            expected.append((MAPPING, k))
    assert [who for who, _ in seen] == [who for who, _ in expected]
    for (_, pair), (_, origin) in zip(seen, expected, strict=True):
        assert torch.equal(pair, values[origin - LOOKBACK + 1 : origin + HORIZON + 1])


@pytest.mark.parametrize(
    ("kind", "who"), [("joint", frozenset({"backbone", "offsets", "generator"})), ("online", BASE)]
)
def test_the_other_passes_make_one_step_at_each_freshest_pair(steps: Any, kind: ValidationPass, who: Any) -> None:
    tuned = make_forecaster()
    forecaster = ProceedForecaster(tuned.model, tuned._whole_optimizer, validation_pass=kind)
    seen = steps(forecaster)
    forecaster.prepare(at_start(), range(START - 20, START))
    assert [found for found, _ in seen] == [who] * 20
    values = series()
    for k, (_, pair) in enumerate(seen, START - 20 - HORIZON):
        assert torch.equal(pair, values[k - LOOKBACK + 1 : k + HORIZON + 1])


def test_what_each_pass_moves() -> None:
    for kind, mapping in (("alternate", True), ("joint", True), ("online", False)):
        tuned = make_forecaster("convolution")
        forecaster = ProceedForecaster(tuned.model, tuned._whole_optimizer, validation_pass=kind)
        before = values_of(tuned.model)
        forecaster.prepare(at_start(), range(START - 10, START))
        moved = change(before, values_of(tuned.model))
        fixed = {id(layer.bias) for layer in tuned.model._layers.values()}
        names = {id(p): name for name, p in tuned.model.named_parameters()}
        assert all(moved[names[bias]] == 0 for bias in fixed)
        assert {moved[names[id(p)]] > 0 for p in tuned.model.generator_parameters()} == {mapping}
        assert min(moved[names[id(p)]] for p in tuned.model.generator.offsets()) > 0


def test_the_online_pass_is_the_online_phase_begun_early() -> None:
    tuned = make_forecaster()
    prepared = ProceedForecaster(tuned.model, tuned._whole_optimizer, validation_pass="online")
    prepared.prepare(at_start(), range(START - 10, START))
    plain, rows = make_forecaster(), at_start()
    for origin in range(START - 10 - HORIZON, START - HORIZON):
        plain.update(*rows.pair(origin))
    assert max(change(values_of(prepared.model), values_of(plain.model)).values()) < 1e-12


@pytest.mark.parametrize(("lookback", "horizon"), [(60, 24), (336, 24), (60, 96)])
def test_generator_steps_stop_where_labels_reach_the_test_rows(
    monkeypatch: pytest.MonkeyPatch, lookback: int, horizon: int
) -> None:
    """ETTh2 in the paper's sizes: H - 1 fewer than backbone steps, the last label ends with the validation rows."""
    problem = Problem(
        name="ETTh2",
        values=torch.arange(14_400.0)[:, None],
        variates=1,
        split=Split(2880, 3600, 14_400),
        lookback=lookback,
        horizon=horizon,
        period=24,
    )
    model = Proceed(nn.Linear(1, 1), lookback=lookback, horizon=horizon, concept_dim=1, bottleneck_dim=1)
    forecaster = ProceedForecaster(model, make_optimizer("adam", model.parameters(), 1e-3))
    counted: Counter[bool] = Counter()
    last = {}

    def count(_: Any, x: Tensor, y: Tensor) -> None:
        generator = model.generator_parameters()[0].requires_grad
        counted[generator] += 1
        last[generator] = float(y[-1, 0])

    monkeypatch.setattr("corollary.forecasting.OnlineGD.update", count)
    prepare_online(forecaster, problem)
    assert counted == {False: 720, True: 720 - (horizon - 1)}
    assert last == {False: 3598.0, True: 3599.0}


def test_steps_before_the_first_whole_window_are_left_out(steps: Any) -> None:
    forecaster = make_forecaster()
    seen = steps(forecaster)
    forecaster.prepare(at_start(), range(LOOKBACK - 1, LOOKBACK + HORIZON))
    assert [who for who, _ in seen] == [MAPPING] * HORIZON + [BASE, MAPPING]


def test_after_the_pass_the_mapping_is_frozen_again() -> None:
    forecaster = make_forecaster()
    forecaster.prepare(at_start(), range(START - 3, START))
    learning = {id(p) for p in forecaster.model.parameters() if p.requires_grad}
    assert learning == {id(p) for p in forecaster.model.online_parameters()}
    assert {id(p) for p in forecaster.optimizer.param_groups[0]["params"]} == learning


# State


def forecasts(forecaster: ProceedForecaster, first: int, count: int) -> Tensor:
    found = []

    class Recorder:
        def update(self, x: Tensor, y: Tensor) -> None:
            forecaster.update(x, y)

        def predict(self, x: Tensor) -> Tensor:
            found.append(forecaster.predict(x))
            return found[-1]

    prequential(Recorder(), stream(), range(first, first + count))
    return torch.stack(found)


@pytest.fixture
def dropout() -> Iterator[None]:
    """Leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.usefixtures("dropout")
@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("ema", [0.0, 0.3])
def test_a_restored_forecaster_goes_on_bit_identically(kind: str, ema: float, tmp_path: Path) -> None:
    """The convolutional network has dropout, which draws from the global generator."""
    whole = make_forecaster(kind, ema=ema)
    torch.manual_seed(3)
    whole.prepare(at_start(), range(START - 10, START))
    forecasts(whole, START, 10)
    save_checkpoint(tmp_path / "state.pt", streaming_state(whole))
    expected = forecasts(whole, START + 10, 10)
    other = make_forecaster(kind, ema=ema, seed=11)
    torch.manual_seed(99)
    restore_streaming_state(other, load_checkpoint(tmp_path / "state.pt"))
    assert torch.equal(forecasts(other, START + 10, 10), expected)


@pytest.mark.usefixtures("dropout")
def test_without_its_reference_a_restored_forecaster_differs(tmp_path: Path) -> None:
    """What the state would miss if it were that of the modules alone, as in the official checkpoints."""
    whole = make_forecaster()
    forecasts(whole, START, 10)
    save_checkpoint(tmp_path / "state.pt", streaming_state(whole))
    # after the first update the reference is the same again, but that update had another drift
    expected = forecasts(whole, START + 10, 10)
    other = make_forecaster(seed=11)
    stale = other.model.get_extra_state()
    restore_streaming_state(other, load_checkpoint(tmp_path / "state.pt"))
    other.model.set_extra_state(stale)
    assert not torch.equal(forecasts(other, START + 10, 10), expected)


def test_a_state_from_before_the_validation_pass_is_complete_too(tmp_path: Path) -> None:
    whole = make_forecaster()
    save_checkpoint(tmp_path / "state.pt", streaming_state(whole))
    other = make_forecaster(seed=11)
    restore_streaming_state(other, load_checkpoint(tmp_path / "state.pt"))
    for forecaster in (whole, other):
        forecaster.prepare(at_start(), range(START - 10, START))
    assert torch.equal(forecasts(other, START, 5), forecasts(whole, START, 5))


# A whole run


def test_a_run_with_covariates_is_the_run_without_for_a_backbone_that_reads_none() -> None:
    calendar = torch.arange(ROWS).double()[:, None] % 24
    results = []
    for values in (series(), torch.cat([series(), calendar], 1)):
        rows = Stream(values, lookback=LOOKBACK, horizon=HORIZON, variates=VARIATES)
        results.append(prequential(make_forecaster(), rows, range(START, ROWS - HORIZON)))
    assert results[0].squared.tolist() == results[1].squared.tolist()


# The control: the drift of a random other time


def control(*, other_times: bool = True, seed: int = 1) -> ProceedForecaster:
    tuned = make_forecaster("convolution", seed=seed)
    return ProceedForecaster(tuned.model, tuned._whole_optimizer, other_times=other_times)


@pytest.mark.usefixtures("dropout")
def test_updates_and_forecasts_are_adapted_to_drifts_that_earlier_forecasts_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forecaster, used, met = control(), [], []
    model = forecaster.model
    estimated, generate = model.estimated_drift, model.generator.forward

    def watched(x: Tensor) -> Tensor:
        found = estimated(x)
        if not model.training:
            met.append(found.clone())
        return found

    def generated(drift: Tensor) -> list[Tensor]:
        used.append((drift.clone(), len(met)))
        return generate(drift)

    monkeypatch.setattr(model, "estimated_drift", watched)
    monkeypatch.setattr(model.generator, "forward", generated)
    prequential(forecaster, stream(), range(START, START + 40))
    newest = 0
    for step, (drift, count) in enumerate(used[2:], 2):  # the first update and the first forecast have no other time
        past = met[: count - step % 2]  # a forecast has already met its own
        same = [torch.equal(clip_norm(other)[0], drift) for other in past]
        assert any(same)
        newest += same[-1]
    assert newest < len(used) / 3  # one of many


def test_the_control_prepares_as_the_method_does() -> None:
    plain, other = control(other_times=False), control()
    for forecaster in (plain, other):
        torch.manual_seed(5)
        forecaster.prepare(at_start(), range(START - 10, START))
    assert max(change(values_of(plain.model), values_of(other.model)).values()) == 0


def test_the_trace_of_the_control_is_the_drift_that_its_forecasts_met() -> None:
    forecaster = control()
    x, _ = batch(2, seed=0)
    for window in x:
        forecaster.predict(window)
        norm = torch.linalg.vector_norm(forecaster.model.estimated_drift(window[None])).detach()
        assert forecaster.observe() == {"drift_norm": pytest.approx(float(norm), rel=1e-12)}


@pytest.mark.usefixtures("dropout")
def test_a_restored_control_goes_on_bit_identically(tmp_path: Path) -> None:
    whole = control()
    torch.manual_seed(3)
    forecasts(whole, START, 10)
    save_checkpoint(tmp_path / "state.pt", streaming_state(whole))
    expected = forecasts(whole, START + 10, 10)
    other = control(seed=11)
    torch.manual_seed(99)
    restore_streaming_state(other, load_checkpoint(tmp_path / "state.pt"))
    assert torch.equal(forecasts(other, START + 10, 10), expected)
