"""Proceed in an online run: the pass over the validation rows and the online phase."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from corollary.evaluation import Stream
from corollary.forecasting import OnlineGD, narrowed
from corollary_proceed.concepts import clip_norm
from corollary_proceed.model import Proceed

ValidationPass = Literal["alternate", "joint", "online"]
"""Steps at each pair of the validation pass: backbone, then generator, as in the official scripts; one step of
everything (``joint_update_valid``); or the online phase's own step, the generator staying as tuned."""


class ProceedForecaster(OnlineGD):
    """Update the adapted network on the freshest complete pair, make the pair the reference, adapt, forecast.

    For every time step t, with encoders and generator frozen:

    1. one optimiser step on the mean squared error of the *adapted* forecast of (X_{t-H}, Y_{t-H}), its drift taken
       against the previous reference;
    2. the pair becomes the reference;
    3. forecast X_t with the drift against it.

    As a control the network can be adapted to the drift of a random other time instead, so to a drift as large and as
    probable as its own that says nothing about the present: in updates and forecasts of the online phase every drift
    is replaced by one drawn from those that earlier forecasts have met. Tuning and `prepare` are the same.

    Args:
        model: tuned, for example by `corollary_proceed.tune`.
        optimizer: over its parameters, with the online rate. Online, an optimiser over what still learns goes on with
            its moments.
        learn_offsets: False keeps the generator's offsets fixed online (a control).
        validation_pass: what `prepare` does at each pair.
        other_times: adapt to the drift of a random other time (a control). The global generator is drawn from.

    Raises:
        ValueError: an unknown validation pass.
    """

    def __init__(
        self,
        model: Proceed,
        optimizer: torch.optim.Optimizer,
        *,
        learn_offsets: bool = True,
        validation_pass: ValidationPass = "alternate",
        other_times: bool = False,
    ) -> None:
        if validation_pass not in get_args(ValidationPass):
            raise ValueError(
                f"validation_pass must be one of {', '.join(get_args(ValidationPass))}, got {validation_pass!r}"
            )
        super().__init__(model, optimizer)
        self.model: Proceed = model
        self._whole_optimizer = optimizer
        self.learn_offsets, self.validation_pass = learn_offsets, validation_pass
        self.other_times = other_times
        self._met: list[Tensor] = []
        self._drift: Tensor | None = None
        self._go_online()

    def prepare(self, stream: Stream, origins: Sequence[int]) -> None:
        """The pass over the validation rows.

        At every origin k: backbone and offsets step on the pair of k - H, which becomes the reference; then encoders
        and generator step on the pair of k, which becomes the reference. The second is history as long as the stream
        releases it: the official code goes on into labels that reach H - 1 rows into the test rows, this does not.
        """
        model = self.model
        self.optimizer = self._whole_optimizer
        for origin in origins:
            recent, current = origin - stream.delay, origin
            if stream.released(recent):
                model.train_only(backbone=True, generator=self.validation_pass == "joint")
                super().update(*stream.pair(recent))
            if self.validation_pass == "alternate" and stream.released(current):
                model.train_only(backbone=False, generator=True)
                super().update(*stream.pair(current))
        self._go_online()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared error of the adapted forecast, against the reference so far; then the pair is the reference."""
        value = functional.mse_loss(self.model(x.unsqueeze(0)).squeeze(0), y)
        self.model.set_reference(x, y)
        return value

    def update(self, x: Tensor, y: Tensor) -> None:
        """One step of backbone and offsets, then the pair is the reference."""
        self.train(True)
        # What zero_grad does, without the profiler's hooks, which take most of its time.
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        self.model.online_loss_gradients(x, y, self._drift_of_another_time() if self.other_times else None)
        self.optimizer.step()
        self.model.set_reference(x, y)

    def predict(self, x: Tensor) -> Tensor:
        """Adapt to the window and forecast (H, N)."""
        self.train(False)
        with torch.no_grad():
            window = x.unsqueeze(0)
            drift = self._drift = self.model.estimated_drift(window)
            if self.other_times:
                other = self._drift_of_another_time()
                self._met.append(drift)
                return self.model(window, other).squeeze(0)
            return self.model(window, clip_norm(drift) if self.model.clip else drift).squeeze(0)

    def _drift_of_another_time(self) -> Tensor | None:
        """One of the drifts that forecasts have met so far, (1, d_c), all as likely; at the first one its own."""
        if not self._met:
            return None
        drift = self._met[int(torch.randint(len(self._met), ()))]
        return clip_norm(drift) if self.model.clip else drift

    def observe(self) -> Mapping[str, float]:
        """The norm of the last forecast's drift, before the clip."""
        return {} if self._drift is None else {"drift_norm": float(torch.linalg.vector_norm(self._drift))}

    def state_dict(self) -> dict[str, Any]:
        """The model with its reference, and the moments of everything, so that `prepare` can still follow."""
        self._whole_optimizer.state.update(self.optimizer.state)  # moments that began online
        met = {"met": torch.cat(self._met)} if self._met else {}
        return {"model": self.model.state_dict(), "optimizer": self._whole_optimizer.state_dict(), **met}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.model.load_state_dict(state["model"])
        self._whole_optimizer.load_state_dict(state["optimizer"])
        self._met = list(state["met"].split(1)) if "met" in state else []
        self._go_online()

    def _go_online(self) -> None:
        self.model.freeze_generator()
        if not self.learn_offsets:
            for offset in self.model.generator.offsets():
                offset.requires_grad_(False)
        learning = (parameter for parameter in self.model.online_parameters() if parameter.requires_grad)
        self.optimizer = narrowed(self._whole_optimizer, learning)
