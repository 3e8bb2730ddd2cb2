"""Exact claims about an online run: the phases step by step, what is frozen, and that nothing leaks."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from corollary.evaluation import LeakyStream, Stream, prequential
from corollary.forecasting import NLinear, OnlineGD, make_optimizer
from corollary.papers import Measurement
from corollary_proceed.exact_adaptation import HORIZON, LOOKBACK, VARIATES, backbones, batch, wrapped
from corollary_proceed.forecaster import ProceedForecaster
from corollary_proceed.model import Proceed

ROWS, START = 160, 90
"""Rows of the series, and its first test origin."""


def series(seed: int = 0) -> Tensor:
    """A random walk with jumps, float64."""
    random = np.random.default_rng(seed)
    steps = random.standard_normal((ROWS, VARIATES)) * np.where(random.random((ROWS, 1)) < 0.03, 4.0, 0.2)
    return torch.from_numpy(steps.cumsum(0))


def make_forecaster(kind: str = "linear", **options: Any) -> ProceedForecaster:
    """A wrapped network with generator and moments that are not at their start any more."""
    model = wrapped(backbones()[kind], disturb=0.2, **options)
    model.train_only(backbone=True, generator=True)
    optimizer = make_optimizer("adam", [p for p in model.parameters() if p.requires_grad], 1e-2)
    for step in range(3):
        optimizer.zero_grad()
        x, y = batch(4, seed=20 + step)
        functional.mse_loss(model(x), y).backward()
        model.set_reference(x, y)
        optimizer.step()
    return ProceedForecaster(model, optimizer)


def forecasts(make: Callable[[], OnlineGD], stream: Stream, *, last: int = ROWS - HORIZON - 1) -> Tensor:
    """Every forecast of an online run after the pass over 30 rows of history, (origins, H, N)."""
    torch.manual_seed(0)
    forecaster = make()
    stream.advance(START)
    forecaster.prepare(stream, range(START - 30, START))
    seen: list[Tensor] = []
    predict = forecaster.predict

    def recorded(x: Tensor) -> Tensor:
        seen.append(predict(x))
        return seen[-1]

    forecaster.predict = recorded
    prequential(forecaster, stream, range(START, last + 1))
    return torch.stack(seen)


def written_out(forecaster: ProceedForecaster, values: Tensor) -> Tensor:
    """The validation pass and the online phase written out: autograd, one Adam, windows cut by hand."""
    model: Proceed = copy.deepcopy(forecaster.model)
    learning = [p for p in model.parameters() if p is not None]
    optimizer = torch.optim.Adam(learning, lr=1e-2, fused=True)
    given = [p for p in forecaster.model.parameters() if p in forecaster._whole_optimizer.state]
    place = {id(p): i for i, p in enumerate(forecaster.model.parameters())}
    own = list(model.parameters())
    for parameter in given:
        state = forecaster._whole_optimizer.state[parameter]
        optimizer.state[own[place[id(parameter)]]] = {k: v.clone() for k, v in state.items()}
    window = lambda k: values[k - LOOKBACK + 1 : k + 1].unsqueeze(0)  # noqa: E731
    label = lambda k: values[k + 1 : k + 1 + HORIZON].unsqueeze(0)  # noqa: E731
    mapping = [*model.current_encoder.parameters(), *model.reference_encoder.parameters()]
    (group,) = model.generator.groups
    mapping.extend((group.down.weight, group.up.weight, group.bias))
    layer = cast("NLinear", model.backbone).linear
    fixed = [layer.bias]
    base = [p for p in own if not any(p is other for other in mapping + fixed)]
    reference = model._reference

    def adapted(x: Tensor) -> Tensor:
        concept = model.reference_encoder(reference).mean(0)
        drift = model.current_encoder(x)[0] - concept
        drift = drift / drift.norm() if float(drift.detach().norm()) > 1 else drift
        hidden = torch.sigmoid(group.down.weight @ drift + group.bias[0])
        vector = group.up.weight @ hidden + group.offset[0]
        beta, alpha, gamma = vector[:HORIZON] + 1, vector[HORIZON:-HORIZON] + 1, vector[-HORIZON:]
        last = x[:, -1:]
        return ((x - last).mT @ (torch.outer(beta, alpha) * layer.weight).mT + layer.bias + gamma).mT + last

    def step(k: int, parameters: Sequence[Tensor]) -> None:
        nonlocal reference
        for parameter in own:
            parameter.requires_grad_(any(parameter is p for p in parameters))
            parameter.grad = None
        (adapted(window(k)) - label(k)).square().mean().backward()
        optimizer.step()
        reference = torch.cat([window(k), label(k)], 1)

    for k in range(START - 30, START):
        step(k - HORIZON, base)
        if k + HORIZON <= START:
            step(k, mapping)
    outputs = []
    for t in range(START, ROWS - HORIZON):
        step(t - HORIZON, base)
        with torch.no_grad():
            outputs.append(adapted(window(t))[0])
    return torch.stack(outputs)


def online_algorithm(_: Measurement) -> Mapping[str, float]:
    """The forecaster against its algorithm written out step by step."""
    values = series()
    expected = written_out(make_forecaster(), values)
    found = forecasts(make_forecaster, Stream(values, lookback=LOOKBACK, horizon=HORIZON))
    return {"error": float((found - expected).abs().max())}


def frozen_set(_: Measurement) -> Mapping[str, float]:
    """Encoders, W1, W2, b and the biases of adapted layers before and after the online phase; the rest moves."""
    forecaster = make_forecaster("convolution")
    model = forecaster.model
    stream = Stream(series(), lookback=LOOKBACK, horizon=HORIZON)
    offsets = {id(offset) for offset in model.generator.offsets()}
    biases = {id(layer.bias) for layer in model._layers.values()}
    mapping = {id(p) for p in model.generator_parameters()}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    prequential(forecaster, stream, range(START, ROWS - HORIZON))
    fixed, moved = 0.0, 1e9
    for name, parameter in model.named_parameters():
        change = float((parameter - before[name]).detach().abs().max())
        if id(parameter) in mapping or id(parameter) in biases:
            fixed = max(fixed, change)
        elif id(parameter) in offsets or parameter.numel() > 1:
            moved = min(moved, change)
    return {"frozen": fixed, "moving": moved}


def make_gradient_descent() -> OnlineGD:
    """Plain online gradient descent on a linear network."""
    torch.manual_seed(0)
    model = NLinear(LOOKBACK, HORIZON, VARIATES).double()
    return OnlineGD(model, make_optimizer("adam", model.parameters(), 1e-2))


def poisoned(make: Callable[[], OnlineGD], stream: type[Stream], *, at: int) -> float:
    """Largest change of the forecasts of origins up to ``at`` when every later value becomes a million."""
    values = series()
    bad = values.clone()
    bad[at + 1 :] = 1e6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the leaky protocol warns, and is wanted here
        clean, dirty = (
            forecasts(make, stream(rows, lookback=LOOKBACK, horizon=HORIZON), last=at) for rows in (values, bad)
        )
    change = (clean - dirty).abs().max()
    return float(change) if torch.isfinite(change) else 1e9


def no_leakage(_: Measurement) -> Mapping[str, float]:
    """C7: the poison test, in the middle of the run and at the border to the history; leaky protocols must fail it."""
    honest = [poisoned(make, Stream, at=at) for make in (make_forecaster, make_gradient_descent) for at in (START, 110)]
    return {
        "change": max(honest),
        "leaky gradient descent": poisoned(make_gradient_descent, LeakyStream, at=110),
        "leaky validation pass": poisoned(make_forecaster, LeakyStream, at=START),
    }


def coinciding_protocols(_: Measurement) -> Mapping[str, float]:
    """C1 at H = 1: the delayed and the leaky protocol are one."""
    values = series()

    def run(stream: type[Stream]) -> float:
        torch.manual_seed(0)
        model = NLinear(LOOKBACK, 1, VARIATES).double()
        forecaster = OnlineGD(model, make_optimizer("adam", model.parameters(), 1e-2))
        return prequential(forecaster, stream(values, lookback=LOOKBACK, horizon=1), range(START, ROWS - 1)).mse

    return {"difference": abs(run(Stream) - run(LeakyStream))}
