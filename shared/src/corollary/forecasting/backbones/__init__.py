"""Forecasters that map windows (B, L, N + C) to forecasts (B, H, N)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from corollary.forecasting.backbones.fsnet import FSNet, make_fsnet
from corollary.forecasting.backbones.linear import DLinear, Linear, NLinear, RevIN
from corollary.forecasting.backbones.tcn import TCN
from corollary.forecasting.problem import Problem
from corollary.papers.matching import unknown

__all__ = ["BACKBONES", "TCN", "Backbone", "DLinear", "FSNet", "Linear", "NLinear", "RevIN", "make_backbone"]


@dataclass(frozen=True)
class Backbone:
    """How a named forecaster is built for a problem."""

    build: Callable[[Problem], nn.Module]
    calendar: bool = False
    """Whether it reads the calendar."""


def _tcn(problem: Problem) -> nn.Module:
    return RevIN(TCN(problem.values.shape[1], problem.horizon, problem.variates), problem.variates)


def _fsnet(problem: Problem) -> nn.Module:
    return make_fsnet(problem.values.shape[1], problem.horizon, problem.variates)


def _patchtst(problem: Problem) -> nn.Module:
    from corollary.forecasting.backbones.patchtst import patchtst  # needs transformers

    return patchtst(problem)


def _itransformer(problem: Problem) -> nn.Module:
    from corollary.forecasting.backbones.itransformer import itransformer

    return itransformer(problem)


BACKBONES = {
    "linear": Backbone(lambda p: Linear(p.lookback, p.horizon, p.variates)),
    "nlinear": Backbone(lambda p: NLinear(p.lookback, p.horizon, p.variates)),
    "dlinear": Backbone(lambda p: DLinear(p.lookback, p.horizon, p.variates)),
    "tcn": Backbone(_tcn, calendar=True),
    "fsnet": Backbone(_fsnet, calendar=True),
    "fsnet-plain": Backbone(_fsnet),
    "patchtst": Backbone(_patchtst),
    "itransformer": Backbone(_itransformer, calendar=True),
}


def make_backbone(name: str, problem: Problem) -> nn.Module:
    """The forecaster of this name, freshly initialised from the global generator.

    Raises:
        ValueError: there is none of this name.
    """
    return backbone(name).build(problem)


def backbone(name: str) -> Backbone:
    """How the forecaster of this name is built.

    Raises:
        ValueError: there is none.
    """
    if name not in BACKBONES:
        raise ValueError(unknown("backbone", name, list(BACKBONES)))
    return BACKBONES[name]
