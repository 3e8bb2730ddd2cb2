"""Online experiments as runs of the store: a setting, its pre-trained backbone, a method, and the errors it made."""

import json
import time
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch.nn import functional

from corollary.evaluation import OnlineForecaster, OnlineResult, Prequential
from corollary.forecasting.backbones import backbone, make_backbone
from corollary.forecasting.fitting import FitConfig, fit, make_optimizer, mean_squared_error, set_rate
from corollary.forecasting.online import restore_streaming_state, streaming_state
from corollary.forecasting.problem import Problem, make_problem
from corollary.papers.matching import unknown
from corollary.runs import (
    Recipe,
    Run,
    RunDirectory,
    RunStore,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)

ENTRY_POINTS = "corollary.forecasters"
CHECKPOINT_EVERY_S = 20.0
MODEL = "model.pt"
RESULT = "result.npz"
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all methods of a comparison share: data, backbone, sizes and pre-training."""

    data: str
    backbone: str
    lookback: int
    horizon: int
    fit: FitConfig

    @property
    def label(self) -> str:
        """What displays call it."""
        return f"{self.data}, {self.backbone}, H = {self.horizon}"

    def problem(self, seed: int) -> Problem:
        """The data, with the calendar if the backbone reads it."""
        return _problem(self.data, self.lookback, self.horizon, seed, backbone(self.backbone).calendar)


@cache
def _problem(data: str, lookback: int, horizon: int, seed: int, with_calendar: bool) -> Problem:
    return make_problem(data, lookback=lookback, horizon=horizon, seed=seed, with_calendar=with_calendar)


@dataclass(frozen=True, kw_only=True)
class Pretrain(Recipe):
    """Train a backbone on the training rows, early-stopped on the validation rows; weights and optimiser are kept."""

    name: ClassVar[str] = "forecaster"
    version: ClassVar[int] = 1

    setting: Setting

    @property
    def label(self) -> str:
        """What the display calls it."""
        return f"pre-training ({self.setting.label})"

    def execute(self, seed: int, directory: RunDirectory) -> None:
        """Train; an interrupted run starts again, to the same numbers."""
        torch.manual_seed(seed)
        problem, config = self.setting.problem(seed), self.setting.fit
        model = make_backbone(self.setting.backbone, problem)
        optimizer = make_optimizer(config.optimizer, model.parameters(), config.rate)
        held_out = problem.windows(problem.validation_origins)

        history = fit(
            model,
            optimizer,
            problem.windows(problem.training_origins),
            config,
            loss=lambda x, y: functional.mse_loss(model(x), y),
            validate=(lambda: mean_squared_error(model, held_out)) if config.patience is not None else None,
            on_epoch=lambda epoch, value: directory.progress(epoch, config.epochs, f"loss {value:.3f}"),
        )
        save_checkpoint(directory.path / MODEL, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        write_atomically(directory.path / "history.json", json.dumps(asdict(history)))
        directory.progress(config.epochs, config.epochs)

    def load(self, store: RunStore, *, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The trained model with the optimiser that trained it, from a store that holds the complete run."""
        state = load_checkpoint(store.open(Run(self, seed)) / MODEL)
        model = make_backbone(self.setting.backbone, self.setting.problem(seed))
        model.load_state_dict(state["model"])
        optimizer = make_optimizer(self.setting.fit.optimizer, model.parameters(), self.setting.fit.rate)
        optimizer.load_state_dict(state["optimizer"])
        return model, optimizer


class OnlineMethod:
    """Base of frozen dataclasses that say how a method is set up; their fields are its options.

    An installed package offers one by an entry point in the group ``corollary.forecasters``.
    """

    @classmethod
    def preset(cls, setting: Setting) -> Self:
        """The method with the options published for this setting, or its defaults."""
        return cls()

    def requires(self, setting: Setting, seed: int) -> tuple[Run, ...]:
        """Runs that must be complete before: the pre-trained backbone."""
        return (Run(Pretrain(setting=setting), seed),)

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """The forecaster as it stands at the end of the training rows."""
        raise NotImplementedError

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """Fields that differ from their default, as sorted pairs: what an `Online` recipe holds."""
        return tuple(
            sorted(
                (item.name, getattr(self, item.name))
                for item in fields(self)  # ty: ignore[invalid-argument-type]
                if getattr(self, item.name) != item.default
            )
        )


@dataclass(frozen=True, kw_only=True)
class Online(Recipe):
    """One method on one setting: the walk through the validation rows, then the whole online test."""

    name: ClassVar[str] = "online"
    version: ClassVar[int] = 1

    setting: Setting
    method: str
    """A name from `method_names`."""
    options: tuple[tuple[str, Any], ...] = ()
    """Fields of the method, as sorted pairs; see `corollary.runs.options_of`."""
    leaky: bool = False
    """The leaky protocol: labels are used before their last value is observed. For comparison only."""

    @property
    def label(self) -> str:
        """What the display calls it."""
        options = [
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in self.options
        ]
        notes = ", ".join(options + ["leaky"] * self.leaky)
        return f"{self.method}{f' ({notes})' if notes else ''} on {self.setting.label}"

    def requires(self, seed: int) -> tuple[Run, ...]:
        """What the method needs, usually the pre-trained backbone."""
        return make_method(self.method, **dict(self.options)).requires(self.setting, seed)

    def execute(self, seed: int, directory: RunDirectory) -> None:
        """Prepare and evaluate; goes on from the last checkpoint if there is one, to the same numbers."""
        torch.manual_seed(seed)
        problem = self.setting.problem(seed)
        method = make_method(self.method, **dict(self.options))
        forecaster = method.build(problem, self.setting, seed, directory.store)
        origins = problem.test_origins

        def stream():
            return problem.leaky_stream() if self.leaky else problem.stream()

        run = Prequential(forecaster, stream(), origins, traced=problem.variates - 1)
        checkpoint = directory.path / CHECKPOINT
        if checkpoint.exists():
            state = load_checkpoint(checkpoint)
            run.load_state_dict(state["run"])
            restore_streaming_state(forecaster, state)
        else:
            prepare_online(forecaster, problem, stream())
        saved = time.monotonic()
        while not run.finished:
            run.step()
            if run.done % 100 == 0:
                directory.progress(run.done, run.count, f"MSE {run.result().mse:.3f}")
                if time.monotonic() - saved > CHECKPOINT_EVERY_S and hasattr(forecaster, "state_dict"):
                    save_checkpoint(checkpoint, {"run": run.state_dict(), **streaming_state(forecaster)})
                    saved = time.monotonic()
        run.result().save(directory.path / RESULT)
        directory.progress(run.count, run.count)
        checkpoint.unlink(missing_ok=True)


def prepare_online(forecaster: OnlineForecaster, problem: Problem, stream: Any = None) -> None:
    """The walk through the validation rows, for forecasters that have ``prepare``.

    The clock stands at the first test origin: every label that is released ends before the first test row.
    """
    prepare = getattr(forecaster, "prepare", None)
    if prepare is None:
        return
    stream = problem.stream() if stream is None else stream
    stream.advance(problem.test_origins[0])
    prepare(stream, problem.preparation_origins)


def read_result(directory: Path) -> OnlineResult:
    """What an `Online` run measured."""
    return OnlineResult.load(directory / RESULT)


def method_names() -> list[str]:
    """Names of the installed online methods."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})


def method_class(name: str) -> type[OnlineMethod]:
    """The class of an installed method.

    Raises:
        ValueError: there is none of this name.
    """
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise ValueError(unknown("online method", name, sorted(found)))
    return found[name].load()


def make_method(name: str, **options: Any) -> OnlineMethod:
    """The installed method of this name with these options.

    Raises:
        ValueError: no such method, or an option that it does not have.
    """
    kind = method_class(name)
    known = [item.name for item in fields(kind)]  # ty: ignore[invalid-argument-type]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    return kind(**options)


def pretrained(setting: Setting, seed: int, store: RunStore, *, rate: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The pre-trained backbone and its optimiser, moments kept, with the online rate."""
    model, optimizer = Pretrain(setting=setting).load(store, seed=seed)
    set_rate(optimizer, rate)
    return model, optimizer
