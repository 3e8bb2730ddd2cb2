"""What the frozen encoders gave is kept and used again: to the bit as if it were computed anew, and never stale."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from corollary.evaluation import Stream, prequential
from corollary.forecasting import make_optimizer
from corollary_proceed import ConceptEncoder, Proceed, ProceedForecaster, clip_norm
from corollary_proceed.exact_adaptation import HORIZON, LOOKBACK, VARIATES, backbones, batch, wrapped
from corollary_proceed.exact_online import START, series

STEPS = 3 * HORIZON


def make(kind: str = "linear", dtype: torch.dtype = torch.float64) -> ProceedForecaster:
    model = wrapped(backbones()[kind], disturb=0.2).to(dtype)
    return ProceedForecaster(model, make_optimizer("adam", model.parameters(), 1e-2))


def anew(model: Proceed, x: Tensor) -> Tensor:
    """The drift before the clip, without anything that was kept."""
    assert model._reference is not None
    return model.current_encoder(x) - model.reference_encoder(model._reference).mean(0)


def run(forecaster: ProceedForecaster, dtype: torch.dtype = torch.float64) -> Tensor:
    """Forecasts of an online run, (origins, H, N)."""
    found, predict = [], forecaster.predict

    def recorded(x: Tensor) -> Tensor:
        found.append(predict(x))
        return found[-1]

    forecaster.predict = recorded
    rows = Stream(series().to(dtype), lookback=LOOKBACK, horizon=HORIZON)
    prequential(forecaster, rows, range(START, START + STEPS))
    return torch.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["linear", "mixed"])
def test_a_run_is_to_the_bit_that_of_drifts_computed_anew(kind: str, dtype: torch.dtype) -> None:
    forecaster, plain = make(kind, dtype), make(kind, dtype)
    model = plain.model
    model.estimated_drift = lambda x: anew(model, x)
    assert torch.equal(run(forecaster, dtype), run(plain, dtype))
    for (name, found), expected in zip(forecaster.model.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(found, expected), name
    assert len(forecaster.model._kept) == HORIZON
    assert not model._kept


def test_every_window_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    forecaster = make()
    counted: Counter[ConceptEncoder] = Counter()
    true = ConceptEncoder.forward

    def watched(encoder: ConceptEncoder, window: Tensor) -> Tensor:
        counted[encoder] += 1
        return true(encoder, window)

    monkeypatch.setattr(ConceptEncoder, "forward", watched)
    run(forecaster)
    # the first H updates are on windows from before the run, and the first of all against a reference from before it
    model = forecaster.model
    assert counted == {model.current_encoder: STEPS + HORIZON, model.reference_encoder: STEPS + 1}


# What makes it forget


def encoders_change(model: Proceed) -> None:
    model.train_only(backbone=False, generator=True)
    with torch.no_grad():
        model.current_encoder.first.weight.mul_(2)
        model.reference_encoder.first.weight.mul_(2)
    model.freeze_generator()


def state_is_loaded(model: Proceed) -> None:
    model.load_state_dict(wrapped(backbones()["linear"], disturb=0.2, seed=9).state_dict())


def model_moves(model: Proceed) -> None:
    """There and back again: the weights are rounded."""
    model.bfloat16().double()


def reference_is_reset(model: Proceed) -> None:
    model.reset_reference(VARIATES)


def reference_is_set(model: Proceed) -> None:
    model.set_reference(*batch(1, seed=7))


CHANGES = [encoders_change, state_is_loaded, model_moves, reference_is_reset, reference_is_set]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("forecast", [True, False])
def test_nothing_that_was_kept_outlives_a_change(change: Callable[[Proceed], None], forecast: bool) -> None:
    forecaster = make()
    run(forecaster)
    model = forecaster.model
    kept = model._kept[0][0]
    forecaster.train(not forecast)
    with torch.no_grad():
        before = model.drift(kept)
        assert model._concept is not None
        change(model)
        found = model.drift(kept)
        assert torch.equal(found, clip_norm(anew(model, kept)))
    assert not torch.equal(found, before)


def test_a_window_whose_memory_is_used_again_is_another_window() -> None:
    forecaster = make()
    first, second = (part.clone() for part in batch(2, seed=5)[0])
    forecaster.predict(first)
    first.copy_(second)
    forecaster.train(True)
    with torch.no_grad():
        assert torch.equal(forecaster.model.estimated_drift(first[None]), anew(forecaster.model, second[None]))


def test_a_kept_concept_does_not_cut_the_gradient_of_the_window() -> None:
    forecaster = make()
    x = batch(1, seed=5)[0]
    forecaster.predict(x[0])
    forecaster.train(True)
    x.requires_grad_()
    forecaster.model.drift(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())
