"""Time one online step of the forecasting methods beside a bare training step of the same backbone; write a CSV.

    python benchmarks/online.py                                  every installed method of the list, NLinear and TCN
    python benchmarks/online.py --methods gd proceed --backbones nlinear --rounds 20

A step is what the prequential loop does at every origin: `update` on the pair that has just become complete, then
`predict` from the newest window. Beside it stand, for the same backbone on the same windows, a bare forward, backward
and fused AdamW step in training mode, and a bare forward in evaluation mode without gradients; the ratio is the
method's step by the sum of these two. Shapes are those of ETTh2 with H = 24: 7 variates, L = 336 for NLinear, 60 (and 7
columns of calendar) for the TCN. The values are random, since speed does not depend on them, but everything else is
real: backbones are pre-trained for one epoch, methods are built from a run store and walk through validation rows.

One thread. Providers take turns, in a new order each round; a turn is a few steps to warm up and then ten readings.
Figures are medians over all readings, with the 20th and 80th percentile; the ratio of processor times hardly depends on
what else the machine does.
"""

import argparse
import csv
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from measuring import Clock, Reading, machine
from torch import Tensor
from torch.nn import functional

from corollary.forecasting import (
    FitConfig,
    Problem,
    Setting,
    Split,
    make_backbone,
    make_setting,
    method_class,
    method_names,
    prepare_online,
    set_rate,
)
from corollary.forecasting.backbones import backbone
from corollary.runs import RunStore

HERE = Path(__file__).parent
METHODS = ("frozen", "gd", "er", "fsnet", "proceed")
TARGETS = {"gd": 1.2, "proceed": 2.5}
"""The ratio of a method's step is to be at most this."""
OWN_NETWORK = {"fsnet": "tcn", "onenet": "tcn"}
"""Methods that ignore the backbone are timed only beside the one that their network resembles."""
VARIATES, HORIZON, CALENDAR = 7, 24, 7
WARM, READ = 3, 10
SOURCES = ("../shared/src/corollary/forecasting", "../packages/proceed/src")

Turn = Callable[[], dict[str, Reading]]
"""Times one step, part by part."""


@dataclass(frozen=True, kw_only=True)
class RandomSetting(Setting):
    """A setting with the shapes and options of its data set, and random values."""

    def problem(self, seed: int) -> Problem:
        """Few rows for training and validation, so that building takes seconds; 2,000 to time steps on."""
        train = self.lookback + 2 * self.horizon + 160
        split = Split(train, train + 2 * self.horizon + 40, train + 2 * self.horizon + 2040)
        values = np.random.default_rng(seed).standard_normal((split.test, VARIATES)).cumsum(0) / 10
        if backbone(self.backbone).calendar:
            values = np.column_stack([values, np.random.default_rng(seed).integers(0, 24, (split.test, CALENDAR))])
        return Problem(
            name=self.data,
            values=torch.from_numpy(values.astype(np.float32)),
            variates=VARIATES,
            split=split,
            lookback=self.lookback,
            horizon=self.horizon,
            period=24,
        )

    @classmethod
    def like_etth2(cls, name: str) -> "RandomSetting":
        """The setting of this backbone on ETTh2, with one epoch of pre-training."""
        real = make_setting("ETTh2", name, HORIZON)
        fit = FitConfig(rate=1e-3, optimizer=real.fit.optimizer, epochs=1, patience=None)
        return cls(data=real.data, backbone=name, lookback=real.lookback, horizon=HORIZON, fit=fit)


@dataclass(frozen=True)
class Windows:
    """Released pairs and newest windows of the test origins, as the evaluator hands them over, again and again."""

    problem: Problem

    @cached_property
    def triples(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Input and label that have become complete, and the window to forecast from, of every origin."""
        stream, found = self.problem.stream(), []
        for origin in self.problem.test_origins:
            stream.advance(origin)
            found.append((*stream.pair(origin - HORIZON), stream.window(origin)))
        return found


def bare_turn(setting: RandomSetting, problem: Problem, windows: Windows, clock: Clock) -> Turn:
    """The least that an update and a forecast can cost with torch: a training step, and a forward pass."""
    torch.manual_seed(0)
    model = make_backbone(setting.backbone, problem)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    triples = cycle(windows.triples)

    def turn() -> dict[str, Reading]:
        x, y, newest = (tensor[None] for tensor in next(triples))

        def step() -> None:
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            optimizer.step()

        def forward() -> None:
            with torch.no_grad():
                model(newest)

        model.train()
        stepped = clock.read(step)
        model.eval()
        return {"update": stepped, "forecast": clock.read(forward)}

    return turn


def method_turn(name: str, setting: RandomSetting, problem: Problem, windows: Windows, clock: Clock) -> Turn:
    """An installed method, built and prepared as the suite does it, with the options published for ETTh2."""
    method = method_class(name).preset(setting)
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(folder)
        for run in method.requires(setting, 0):
            store.execute(run)
        torch.manual_seed(0)
        forecaster = method.build(problem, setting, 0, store)
    optimizer = getattr(forecaster, "optimizer", None)
    if isinstance(optimizer, torch.optim.Optimizer):
        set_rate(optimizer, 1e-6)  # the same few windows over and over must not lead anywhere
    prepare_online(forecaster, problem)
    triples = cycle(windows.triples)

    def turn() -> dict[str, Reading]:
        x, y, newest = next(triples)
        return {
            "update": clock.read(lambda: forecaster.update(x, y)),
            "forecast": clock.read(lambda: forecaster.predict(newest)),
        }

    return turn


def measure(name: str, methods: Sequence[str], rounds: int, clock: Clock) -> list[dict[str, object]]:
    """Time all providers on one backbone; a record for each provider and part."""
    setting = RandomSetting.like_etth2(name)
    problem = setting.problem(0)
    windows = Windows(problem)
    turns: dict[str, Turn] = {"bare": bare_turn(setting, problem, windows, clock)}
    notes: dict[str, str] = {}
    for method in methods:
        if OWN_NETWORK.get(method, name) != name:
            notes[method] = f"brings its own network: timed with {OWN_NETWORK[method]}"
            continue
        try:
            turns[method] = method_turn(method, setting, problem, windows, clock)
        except Exception as error:  # a method that does not fit a backbone must not end the run of the others
            notes[method] = " ".join(f"{type(error).__name__}: {error}".split())
    readings: dict[tuple[str, str], list[Reading]] = {}
    order, shuffle = list(turns), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for provider in order:
            for i in range(WARM + READ):
                parts = turns[provider]()
                parts["step"] = Reading(*(sum(times) for times in zip(*parts.values(), strict=True)))
                if i >= WARM:
                    for part, reading in parts.items():
                        readings.setdefault((provider, part), []).append(reading)
    shape = {"backbone": name, "L": setting.lookback, "H": HORIZON, "N": VARIATES, "rounds": rounds}
    records: list[dict[str, object]] = []
    for provider in ("bare", *methods):
        for part in ("update", "forecast", "step"):
            record: dict[str, object] = {**shape, "provider": provider, "part": part}
            record |= dict.fromkeys(("ms", "p20_ms", "p80_ms", "cpu_ms", "ratio", "cpu_ratio", "target"), "")
            if (provider, part) in readings:
                record |= figures(readings[provider, part], readings["bare", "step"] if part == "step" else [])
                record["target"] = TARGETS.get(provider, "") if part == "step" else ""
            records.append({**record, "note": notes.get(provider, "")})
        last = records[-1]
        told = f"{last['ms']:>7} ms  x{last['ratio']}, processor time x{last['cpu_ratio']}"
        told += f"  (target {last['target']})" if last["target"] else ""
        print(f"{name:<8} {provider:<10} {notes.get(provider) or told}", flush=True)
    return records


def figures(readings: Sequence[Reading], base: Sequence[Reading]) -> dict[str, object]:
    """Median and percentiles of readings, and the ratio of their median to that of ``base``, if there is one."""
    wall, cpu = ([reading[i] for reading in readings] for i in (0, 1))
    found: dict[str, object] = {
        "ms": f"{statistics.median(wall):.4g}",
        "p20_ms": f"{np.percentile(wall, 20):.4g}",
        "p80_ms": f"{np.percentile(wall, 80):.4g}",
        "cpu_ms": f"{statistics.median(cpu):.4g}",
    }
    if base:
        for column, values, i in (("ratio", wall, 0), ("cpu_ratio", cpu, 1)):
            found[column] = f"{statistics.median(values) / statistics.median(reading[i] for reading in base):.2f}"
    return found


def main() -> None:
    """Parse the options, measure, write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in METHODS if name in method_names()]
    parser.add_argument("--methods", nargs="*", default=known, choices=method_names(), help="installed methods")
    parser.add_argument("--backbones", nargs="+", default=["nlinear", "tcn"], help="with a published setting")
    parser.add_argument("--rounds", type=int, default=40, help=f"turns of {READ} readings per provider")
    parser.add_argument("--csv", type=Path, default=HERE / "online-cpu.csv", help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = machine("cpu", sources=SOURCES)  # before measuring, so that the load is that of the others
    clock = Clock("cpu")
    records = [record for name in options.backbones for record in measure(name, options.methods, options.rounds, clock)]
    with options.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*records[0], *where], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**record, **where} for record in records)
    print(f"wrote {len(records)} lines to {options.csv}")


if __name__ == "__main__":
    main()
