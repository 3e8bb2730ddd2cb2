"""Training on shuffled windows with early stopping: pre-training of every backbone, and the tuning stage of methods."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from corollary.forecasting.problem import Windows

OptimizerName = Literal["adam", "adamw"]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a model is fitted."""

    rate: float
    """Learning rate of the first epochs."""
    optimizer: OptimizerName = "adam"
    """AdamW decays with 0.01, torch's default."""
    batch_size: int = 32
    epochs: int = 100
    """At most so many."""
    patience: int | None = 3
    """Epochs without improvement on the validation rows before training stops and the best state is restored; None
    trains all epochs and keeps the last state."""
    decay: float = 0.9
    """Epoch e trains with ``rate * decay ** max(0, e - 4)``, the official schedule ``type3``; 1 keeps the rate."""
    shuffle: bool = True
    """Whether the windows come in random order. In time order, the batches of an epoch show small drifts only."""

    def __post_init__(self) -> None:
        for name in ("rate", "batch_size", "epochs", "decay"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1 or None, got {self.patience}")
        if self.optimizer not in ("adam", "adamw"):
            raise ValueError(f"optimizer must be adam or adamw, got {self.optimizer!r}")

    def rate_of(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 1."""
        return self.rate * self.decay ** max(0, epoch - 4)


@dataclass(frozen=True, kw_only=True)
class FitHistory:
    """What happened: one entry an epoch."""

    training: tuple[float, ...]
    validation: tuple[float, ...]
    """Empty without validation."""
    best_epoch: int
    """From 1."""


def make_optimizer(name: OptimizerName, parameters: Any, rate: float) -> torch.optim.Optimizer:
    """Adam, or AdamW with weight decay 0.01, in torch's fused form, which is the fastest on the CPU too."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(parameters, lr=rate, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Replace the learning rate of all groups; moments stay."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def narrowed(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimiser of the same kind and rate over some of the parameters, going on with the same moments.

    A step looks at every parameter of its groups, with or without a gradient; where most are frozen that is most of a
    short step's time. The moments are shared, not copied.
    """
    kind: Any = type(optimizer)
    narrow: torch.optim.Optimizer = kind(list(parameters))
    narrow.param_groups[0].update({k: v for k, v in optimizer.param_groups[0].items() if k != "params"})
    for parameter in narrow.param_groups[0]["params"]:
        if parameter in optimizer.state:
            narrow.state[parameter] = optimizer.state[parameter]
    return narrow


def mean_squared_error(model: nn.Module, windows: Windows, *, part: int = 256) -> float:
    """Error of a model in evaluation mode over all windows, ``part`` of them at a time: activations may be large."""
    model.eval()
    with torch.no_grad():
        parts = zip(windows.x.split(part), windows.y.split(part), strict=True)
        errors = [(model(x) - y).square().sum() for x, y in parts]
    return torch.stack(errors).sum().item() / windows.y.numel()


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    windows: Windows,
    config: FitConfig,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    validate: Callable[[], float] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> FitHistory:
    """Descend ``loss`` on mini-batches, the last incomplete one dropped.

    Random order comes from the global generator, which the caller seeds.

    Args:
        model: put into training mode for every epoch; its best state is restored at the end.
        optimizer: over its parameters; its state of the best epoch is restored likewise.
        windows: the pairs to learn from.
        config: batch size, epochs, schedule, patience.
        loss: of a batch, inputs (B, L, N + C) and labels (B, H, N).
        validate: what early stopping watches; must leave model and optimiser as it found them. Needed with patience.
        on_epoch: called after every epoch with its number, from 1, and its mean training loss.

    Raises:
        ValueError: fewer windows than one batch, patience without ``validate``, or a training or validation loss that
            is not finite.
    """
    if config.patience is not None and validate is None:
        raise ValueError("patience needs validate")
    count, size = len(windows.x), config.batch_size
    if count < size:
        raise ValueError(f"a batch of {size} needs as many windows, got {count}")
    training: list[float] = []
    validation: list[float] = []
    best: tuple[float, int, Any] | None = None
    for epoch in range(1, config.epochs + 1):
        set_rate(optimizer, config.rate_of(epoch))
        model.train()
        order = torch.randperm(count) if config.shuffle else torch.arange(count)
        total = 0.0
        batches = order[: count // size * size].split(size)
        for batch in batches:
            optimizer.zero_grad()
            value = loss(windows.x[batch], windows.y[batch])
            value.backward()
            optimizer.step()
            total = total + value.detach()  # a tensor: reading the number would wait for the device
        training.append(float(total) / len(batches))
        if not math.isfinite(training[-1]):
            raise ValueError(
                f"the training loss of epoch {epoch} is {training[-1]}; is the rate {config.rate} too large?"
            )
        if config.patience is not None and validate is not None:
            validation.append(validate())
            if not math.isfinite(validation[-1]):  # no later epoch would compare as better than NaN
                raise ValueError(f"the validation loss of epoch {epoch} is {validation[-1]}")
            if best is None or validation[-1] <= best[0]:
                best = validation[-1], epoch, copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        if on_epoch is not None:
            on_epoch(epoch, training[-1])
        if best is not None and config.patience is not None and epoch - best[1] >= config.patience:
            break
    if best is not None:
        model.load_state_dict(best[2][0])
        optimizer.load_state_dict(best[2][1])
    return FitHistory(
        training=tuple(training), validation=tuple(validation), best_epoch=best[1] if best else config.epochs
    )
