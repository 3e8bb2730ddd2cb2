"""Forecasters around a `torch.nn.Module`: the base of the online methods, and the way their state is kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.evaluation import OnlineForecaster, Stream


class Frozen:
    """The model as it is: no update. Base class of the methods that learn.

    Args:
        model: maps a batch of windows (B, L, N + C) to forecasts (B, H, N).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._modules = list(model.modules())  # collected once: walking the tree at every step would show
        model.eval()

    def prepare(self, stream: Stream, origins: Sequence[int]) -> None:
        """Walk through history before the online phase: at each of ``origins``, learn from the pair just complete.

        The stream's clock stands at the last row before the first forecast; nothing later is released.
        """
        for origin in origins:
            if stream.released(origin - stream.delay):
                self.update(*stream.pair(origin - stream.delay))

    def update(self, x: Tensor, y: Tensor) -> None:
        """Nothing is learned."""

    def predict(self, x: Tensor) -> Tensor:
        """The model's forecast (H, N) in evaluation mode."""
        self.train(False)
        with torch.no_grad():
            return self.model(x.unsqueeze(0)).squeeze(0)

    def train(self, mode: bool) -> None:
        """Put the model into training or evaluation mode."""
        for module in self._modules:
            vars(module)["training"] = mode  # without the checks of nn.Module.__setattr__, which a step would notice

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update and forecast depend on, except the global random generator."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.model.load_state_dict(state["model"])


class OnlineGD(Frozen):
    """Online gradient descent: one optimiser step a time step on the mean squared error of the freshest complete pair.

    The optimiser is whatever is passed, usually Adam with the moments of pre-training and a rate of its own. Training
    mode (dropout on) for the update, evaluation mode for the forecast.

    Args:
        model: maps (B, L, N + C) to (B, H, N).
        optimizer: over the parameters that learn.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model)
        self.optimizer = optimizer

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """What one update descends: the mean squared error of one pair."""
        return functional.mse_loss(self.model(x.unsqueeze(0)).squeeze(0), y)

    def update(self, x: Tensor, y: Tensor) -> None:
        """One step."""
        self.train(True)
        self.optimizer.zero_grad()
        self.loss(x, y).backward()
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Model and optimiser."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def streaming_state(forecaster: OnlineForecaster) -> dict[str, Any]:
    """The forecaster's state with that of the global generator, which dropout draws from.

    Save it with `corollary.runs.save_checkpoint`; after `restore_streaming_state` the next steps are bit-identical.

    Raises:
        ValueError: the forecaster has no ``state_dict``.
    """
    state_dict = getattr(forecaster, "state_dict", None)
    if state_dict is None:
        raise ValueError(f"{type(forecaster).__name__} has no state_dict, so its state cannot be saved")
    return {"forecaster": state_dict(), "generator": torch.get_rng_state()}


def restore_streaming_state(forecaster: OnlineForecaster, state: Mapping[str, Any]) -> None:
    """Put a forecaster, built the same way, and the global generator back to what `streaming_state` gave."""
    forecaster.load_state_dict(state["forecaster"])  # ty: ignore[missing-attribute]
    torch.set_rng_state(state["generator"])
