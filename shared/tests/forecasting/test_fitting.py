import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.forecasting import FitConfig, FitHistory, Windows, fit, make_optimizer, set_rate


class Scale(nn.Module):
    """One number: what is fitted is visible in one place."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def pairs(count: int, slope: float = 2.0) -> Windows:
    """Window i holds i + 1, so that a batch says which windows it has."""
    x = torch.arange(1, count + 1, dtype=torch.float64).reshape(count, 1, 1)
    return Windows(x, slope * x)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0)


def recorded(
    config: FitConfig, *, count: int = 10, validation: list[float] | None = None
) -> tuple[FitHistory, list[list[int]], list[float], Scale]:
    """Fit with plain SGD; the batches, the rate of each, and the model after it."""
    model, batches, rates = Scale(), [], []
    optimizer = sgd(model)
    values = iter(validation or [])

    def loss(x: Tensor, y: Tensor) -> Tensor:
        batches.append(x.ravel().int().tolist())
        rates.append(optimizer.param_groups[0]["lr"])
        return model.factor * 1.0  # the gradient is 1: the model is minus the sum of the rates

    history = fit(
        model, optimizer, pairs(count), config, loss=loss, validate=(lambda: next(values)) if validation else None
    )
    return history, batches, rates, model


def test_rate_stays_for_four_epochs_and_decays_then() -> None:
    config = FitConfig(rate=0.3, epochs=7, patience=None, batch_size=10)
    expected = [0.3, 0.3, 0.3, 0.3, 0.3 * 0.9, 0.3 * 0.9**2, 0.3 * 0.9**3]
    assert [config.rate_of(epoch) for epoch in range(1, 8)] == pytest.approx(expected, rel=1e-15)
    history, _, rates, model = recorded(config)
    assert rates == pytest.approx(expected, rel=1e-15)
    assert model.factor.item() == pytest.approx(-sum(expected), rel=1e-14)
    assert history.best_epoch == 7
    assert history.validation == ()


def test_decay_of_one_keeps_the_rate() -> None:
    _, _, rates, _ = recorded(FitConfig(rate=0.3, epochs=9, patience=None, batch_size=10, decay=1.0))
    assert rates == [0.3] * 9


def test_last_incomplete_batch_is_dropped_and_order_is_random() -> None:
    torch.manual_seed(0)
    _, batches, _, _ = recorded(FitConfig(rate=0.1, epochs=3, patience=None, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4] * 3
    epochs = [batches[0] + batches[1], batches[2] + batches[3], batches[4] + batches[5]]
    for epoch in epochs:
        assert len(set(epoch)) == 8
        assert set(epoch) <= set(range(1, 11))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len({frozenset(epoch) for epoch in epochs}) > 1  # other windows are dropped each time


def test_order_comes_from_the_global_generator() -> None:
    orders = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        orders.append(recorded(FitConfig(rate=0.1, epochs=2, patience=None, batch_size=4))[1])
    assert orders[0] == orders[1] != orders[2]


def test_windows_in_time_order() -> None:
    _, batches, _, _ = recorded(FitConfig(rate=0.1, epochs=2, patience=None, batch_size=4, shuffle=False))
    assert batches == [[1, 2, 3, 4], [5, 6, 7, 8]] * 2


@pytest.mark.parametrize(
    ("validation", "patience", "epochs", "best"),
    [
        ([5, 4, 3, 2, 1], 2, 5, 5),  # improves to the end
        ([5, 4, 6, 7, 8], 2, 4, 2),  # two epochs without improvement
        ([5, 4, 6, 3, 7, 8, 0], 2, 6, 4),  # patience begins again at every improvement
        ([5, 4, 4, 4, 9, 9], 2, 6, 4),  # a tie is no worse, so the later epoch is the best, as in the official code
        ([1, 2, 3], 1, 2, 1),
        ([1, 2, 3, 4, 5], 3, 4, 1),
    ],
)
def test_patience_and_the_best_epoch(validation: list[float], patience: int, epochs: int, best: int) -> None:
    config = FitConfig(rate=0.5, epochs=len(validation), patience=patience, batch_size=10, decay=1.0)
    history, _, rates, model = recorded(config, validation=validation)
    assert len(history.training) == len(rates) == epochs
    assert history.validation == tuple(validation[:epochs])
    assert history.best_epoch == best
    assert model.factor.item() == -0.5 * best  # the model of the best epoch, not the last


def test_best_model_comes_back_with_its_optimizer() -> None:
    model = Scale()
    optimizer = make_optimizer("adam", model.parameters(), 0.1)
    states: list[dict] = []
    values = iter([3.0, 1.0, 2.0, 2.0])

    def validate() -> float:
        states.append(copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()}))
        return next(values)

    fit(
        model,
        optimizer,
        pairs(12),
        FitConfig(rate=0.1, epochs=10, patience=2, batch_size=4),
        loss=lambda x, y: functional.mse_loss(model(x), y),
        validate=validate,
    )
    assert len(states) == 4
    assert model.factor.item() == states[1]["model"]["factor"].item() != states[3]["model"]["factor"].item()
    restored, best = optimizer.state_dict()["state"][0], states[1]["optimizer"]["state"][0]
    assert restored["step"].item() == 6
    for name in ("exp_avg", "exp_avg_sq"):
        assert restored[name].item() == best[name].item() != states[3]["optimizer"]["state"][0][name].item()
    # The optimiser still drives this model.
    before = model.factor.item()
    model(torch.ones((), dtype=torch.float64)).backward()
    optimizer.step()
    assert model.factor.item() != before


def test_without_patience_validation_is_not_asked() -> None:
    model = Scale()
    history = fit(
        model,
        sgd(model),
        pairs(4),
        FitConfig(rate=1e-3, epochs=3, patience=None, batch_size=4),
        loss=lambda x, y: functional.mse_loss(model(x), y),
        validate=lambda: pytest.fail("asked"),
    )
    assert history.validation == ()


def test_history_is_the_mean_loss_and_fit_converges() -> None:
    model = Scale()
    seen: list[tuple[int, float]] = []
    losses: list[float] = []

    def loss(x: Tensor, y: Tensor) -> Tensor:
        value = functional.mse_loss(model(x), y)
        losses.append(value.item())
        return value

    history = fit(
        model,
        make_optimizer("adam", model.parameters(), 0.05),
        pairs(9),
        FitConfig(rate=0.05, epochs=100, patience=None, batch_size=3, decay=1.0),
        loss=loss,
        on_epoch=lambda epoch, value: seen.append((epoch, value)),
    )
    assert [epoch for epoch, _ in seen] == list(range(1, 101))
    assert tuple(value for _, value in seen) == history.training
    assert history.training[0] == pytest.approx(sum(losses[:3]) / 3, rel=1e-14)
    assert history.training[-1] == pytest.approx(sum(losses[-3:]) / 3, rel=1e-14)
    assert model.factor.item() == pytest.approx(2, abs=0.01)


def test_training_mode_is_set_for_every_epoch() -> None:
    model, modes = Scale(), []

    def loss(x: Tensor, y: Tensor) -> Tensor:
        modes.append(model.training)
        return model.factor * 1.0

    def validate() -> float:
        model.eval()
        return 1.0

    model.eval()
    fit(model, sgd(model), pairs(4), FitConfig(rate=0.1, epochs=3, batch_size=4), loss=loss, validate=validate)
    assert modes == [True] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss_that_is_not_finite_is_refused(bad: float) -> None:
    model = Scale()
    config = FitConfig(rate=7.0, epochs=3, patience=None, batch_size=2)
    with pytest.raises(ValueError, match=r"training loss of epoch 1 is (nan|inf); is the rate 7\.0 too large"):
        fit(model, sgd(model), pairs(4), config, loss=lambda x, y: model.factor * bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_validation_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=f"validation loss of epoch 2 is {bad}"):
        recorded(FitConfig(rate=0.5, epochs=5, patience=2, batch_size=10), validation=[1.0, bad, 0.5])


def test_patience_needs_validation() -> None:
    with pytest.raises(ValueError, match="patience needs validate"):
        recorded(FitConfig(rate=0.5, patience=2, batch_size=10))


def test_a_batch_must_fit() -> None:
    with pytest.raises(ValueError, match="a batch of 11 needs as many windows, got 10"):
        recorded(FitConfig(rate=0.5, patience=None, batch_size=11))
    recorded(FitConfig(rate=0.5, patience=None, batch_size=10, epochs=1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": 0.0}, r"rate must be positive, got 0\.0"),
        ({"rate": math.nan}, "rate must be positive, got nan"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"epochs": -1}, "epochs must be positive, got -1"),
        ({"decay": 0.0}, r"decay must be positive, got 0\.0"),
        ({"patience": 0}, "patience must be at least 1 or None, got 0"),
        ({"optimizer": "sgd"}, "optimizer must be adam or adamw, got 'sgd'"),
    ],
)
def test_bad_config_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FitConfig(**{"rate": 0.1} | changes)  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        # The first step of Adam is the rate, against the sign of the gradient; AdamW shrinks by rate * 0.01 before.
        ("adam", lambda value: value - 0.1),
        ("adamw", lambda value: value * (1 - 0.1 * 0.01) - 0.1),
    ],
)
def test_first_step_of_the_optimizers(name: str, step: Callable[[float], float]) -> None:
    model = Scale(5.0)
    optimizer = make_optimizer(name, model.parameters(), 0.1)  # ty: ignore[invalid-argument-type]
    (model.factor * 3.0).backward()
    optimizer.step()
    assert model.factor.item() == pytest.approx(step(5.0), rel=1e-8)


def test_set_rate_keeps_the_moments() -> None:
    model = Scale(5.0)
    optimizer = make_optimizer("adam", model.parameters(), 0.1)
    (model.factor * 3.0).backward()
    optimizer.step()
    moment = optimizer.state_dict()["state"][0]["exp_avg"].item()
    set_rate(optimizer, 1e-5)
    assert optimizer.param_groups[0]["lr"] == 1e-5
    assert optimizer.state_dict()["state"][0]["exp_avg"].item() == moment == pytest.approx(0.3)
