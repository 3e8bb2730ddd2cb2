"""Training on synthetic drift: consecutive random mini-batches are far apart in time, so their concepts differ."""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.evaluation import prequential
from corollary.forecasting import (
    FitConfig,
    FitHistory,
    Pretrain,
    Problem,
    Setting,
    fit,
    make_optimizer,
    set_rate,
)
from corollary.runs import Recipe, Run, RunDirectory, RunStore, load_checkpoint, save_checkpoint, write_atomically
from corollary_proceed.forecaster import ProceedForecaster
from corollary_proceed.model import Drift, Proceed

MODEL = "proceed.pt"


@dataclass(frozen=True, kw_only=True)
class ProceedConfig:
    """Hyper-parameters of the method; defaults for the TCN on ETTh2, H = 24, in the official scripts."""

    concept_dim: int = 50
    """d_c."""
    bottleneck_dim: int = 32
    """r."""
    clip: bool = True
    """Clip the drift's norm at 1; off only for PatchTST on ETTm1."""
    share: bool = True
    """One bottleneck for all layers of the same name and width."""
    ema: float = 0.0
    """Weight of the past in the reference concept."""
    freeze_backbone: bool = False
    drift: Drift = "difference"
    """What the generator is fed; all but the default are controls."""

    def wrap(self, backbone: nn.Module, problem: Problem) -> Proceed:
        """The adapted network for a problem."""
        options = asdict(self)
        return Proceed(
            backbone, lookback=problem.lookback, horizon=problem.horizon, variates=problem.variates, **options
        )


def tune(
    model: Proceed,
    problem: Problem,
    config: FitConfig,
    *,
    online_rate: float,
    on_epoch: Callable[[int, float], None] | None = None,
) -> tuple[torch.optim.Optimizer, FitHistory]:
    r"""Train backbone, encoders and generator together on shuffled mini-batches of the training rows (section 4.3).

    The reference of a mini-batch is the mini-batch before it, zeros at first:

    .. math:: \delta = E'(X) - \mathrm{mean}_b E(R), \qquad \min\ \lVert F(X; \hat\theta(\delta)) - Y \rVert^2, \qquad
        R \leftarrow [X; Y]

    The gradient goes through both encoders. With patience, every epoch is judged by the *online* protocol over the
    validation rows at the online rate, after which model and optimiser are put back.

    Args:
        model: a wrapped, pre-trained backbone.
        problem: the data.
        config: rate, batch size, epochs, schedule, patience. The optimiser is fresh and has one rate for everything:
            in the official code too, where the restored optimiser refers to modules that wrapping has replaced.
        online_rate: of the online steps in the validation.
        on_epoch: called with the epoch and its training loss.

    Returns:
        The optimiser, whose moments the online phase goes on with, and the history.
    """
    model.train_only(backbone=True, generator=True)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(config.optimizer, learning, config.rate)
    model.reset_reference(problem.variates)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        value = functional.mse_loss(model(x), y)
        model.set_reference(x, y)
        return value

    def validate() -> float:
        state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        set_rate(optimizer, online_rate)
        forecaster = ProceedForecaster(model, optimizer)
        error = prequential(forecaster, problem.stream(), problem.validation_origins).mse
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
        model.train_only(backbone=True, generator=True)
        return error

    history = fit(
        model,
        optimizer,
        problem.windows(problem.training_origins),
        config,
        loss=loss,
        validate=validate if config.patience is not None else None,
        on_epoch=on_epoch,
    )
    return optimizer, history


@dataclass(frozen=True, kw_only=True)
class ProceedTuning(Recipe):
    """Wrap the pre-trained backbone of a setting and tune it; the result is kept with its optimiser."""

    name: ClassVar[str] = "proceed-tuning"
    version: ClassVar[int] = 1

    setting: Setting
    fit: FitConfig
    method: ProceedConfig
    online_rate: float

    @property
    def label(self) -> str:
        """What the display calls it."""
        control = "" if self.method.drift == "difference" else f", drift: {self.method.drift}"
        return f"tuning of proceed{control} ({self.setting.label})"

    def requires(self, seed: int) -> tuple[Run, ...]:
        """The pre-trained backbone."""
        return (Run(Pretrain(setting=self.setting), seed),)

    def execute(self, seed: int, directory: RunDirectory) -> None:
        """Tune; an interrupted run starts again, to the same numbers."""
        torch.manual_seed(seed)
        problem = self.setting.problem(seed)
        model = self.method.wrap(Pretrain(setting=self.setting).load(directory.store, seed=seed)[0], problem)
        optimizer, history = tune(
            model,
            problem,
            self.fit,
            online_rate=self.online_rate,
            on_epoch=lambda epoch, value: directory.progress(epoch, self.fit.epochs, f"loss {value:.3f}"),
        )
        save_checkpoint(directory.path / MODEL, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        write_atomically(directory.path / "history.json", json.dumps(asdict(history)))
        directory.progress(self.fit.epochs, self.fit.epochs)

    def load(self, problem: Problem, store: RunStore, *, seed: int) -> tuple[Proceed, torch.optim.Optimizer]:
        """The tuned model and its optimiser, from a store that holds the complete run."""
        model = self.method.wrap(Pretrain(setting=self.setting).load(store, seed=seed)[0], problem)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = make_optimizer(self.fit.optimizer, learning, self.fit.rate)
        state = load_checkpoint(store.open(Run(self, seed)) / MODEL)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return model, optimizer
