"""Token statistics as an output of a model's own forward, so that they pass through what wraps the model."""

import functools
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from corollary.kernels import TokenStats
from corollary.rl.batch import Rollouts
from corollary.rl.scoring import score


@dataclass(frozen=True)
class Completions:
    """What a model with `add_scoring` is asked for: the arguments of `corollary.rl.score`."""

    rollouts: Rollouts
    stats: frozenset[str]
    temperature: float
    backend: str = "auto"
    head: str = "auto"


def add_scoring(model: nn.Module) -> None:
    """Let ``model(completions=Completions(...))`` return the statistics that `corollary.rl.score` gives.

    `score` may run a model's backbone and head apart, without the model's own forward. A wrapper such as
    `DistributedDataParallel`, which averages gradients, must see a forward of the model that it wraps: inside of it
    `score` may do as it likes. Without the argument the forward is what it was.
    """
    original = model.forward

    # Generation looks at the signature of the method, hence the old one, of a function with `self`.
    @functools.wraps(getattr(original, "__func__", original))
    def forward(self: nn.Module, *args: Any, completions: Completions | None = None, **kwargs: Any) -> Any:
        if completions is None:
            return original(*args, **kwargs)
        stats = score(
            self,
            completions.rollouts,
            temperature=completions.temperature,
            stats=completions.stats,
            backend=completions.backend,
            head=completions.head,
        )
        return {name: value for name, value in stats._asdict().items() if value is not None}

    model.forward = types.MethodType(forward, model)


def scored(model: nn.Module, completions: Completions) -> TokenStats:
    """The statistics of ``completions`` under a model with `add_scoring`, wrapped or not."""
    return TokenStats(**model(completions=completions))


def joined(parts: Sequence[TokenStats]) -> TokenStats:
    """The statistics of several sets of rows, one below the other."""
    return TokenStats(*(None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True)))


def detached(stats: TokenStats) -> TokenStats:
    """The same values without gradient."""
    return TokenStats(*(None if value is None else value.detach() for value in stats))
