"""A paper for tests: counting runs with checkpoints. Environment variables make it slow or faulty."""

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from corollary.papers import Budget, Claim, Gate, Level, Measurement, Paper, PlotInputs
from corollary.runs import Recipe, Run, RunDirectory, write_atomically


@dataclass(frozen=True)
class Base(Recipe):
    """What a warm start is to real runs."""

    name: ClassVar[str] = "toy-base"
    version: ClassVar[int] = 1

    def execute(self, seed: int, directory: RunDirectory) -> None:
        write_atomically(directory.path / "base.json", json.dumps(seed + 1))


@dataclass(frozen=True)
class Counting(Recipe):
    """A chain of numbers, one per step, with a checkpoint after each."""

    name: ClassVar[str] = "toy-count"
    version: ClassVar[int] = 1
    gain: int = 3
    steps: int = 20

    @property
    def label(self) -> str:
        return f"count by {self.gain}"

    def requires(self, seed: int) -> tuple[Run, ...]:
        return (Run(Base(), seed),)

    def execute(self, seed: int, directory: RunDirectory) -> None:
        if os.environ.get("TOY_FAIL") == str(self.gain):
            raise RuntimeError(f"cannot count by {self.gain}\nat all")
        if os.environ.get("TOY_CRASH") == f"{self.gain}/{seed}":
            os.kill(os.getpid(), signal.SIGKILL)
        print("noise of a worker")
        base = json.loads((directory.store.open(Run(Base(), seed)) / "base.json").read_text())
        checkpoint = directory.path / "checkpoint.json"
        history = json.loads(checkpoint.read_text()) if checkpoint.exists() else [base]
        with open(directory.path / "attempts", "a") as file:
            file.write(f"{os.getpid()}\n")
        while len(history) <= self.steps:
            time.sleep(float(os.environ.get("TOY_STEP_S", "0")))
            history.append((history[-1] * 31 + self.gain) % 1009)
            write_atomically(checkpoint, json.dumps(history))
            directory.progress(len(history) - 1, self.steps, f"value {history[-1]}")
        write_atomically(directory.path / "history.json", json.dumps(history))


def counts(budget: Budget, seed: int) -> Mapping[str, Run]:
    steps = {Budget.SMOKE: 2, Budget.QUICK: 10, Budget.FULL: 20}[budget]
    return {name: Run(Counting(gain=gain, steps=steps), seed) for name, gain in (("three", 3), ("five", 5))}


def only_three(budget: Budget, seed: int) -> Mapping[str, Run]:
    return {"three": counts(budget, seed)["three"]}


def difference(measurement: Measurement) -> Mapping[str, float]:
    last = {name: json.loads((path / "history.json").read_text())[-1] for name, path in measurement.runs.items()}
    return {"gap": abs(last["five"] - last["three"]) + 1.0, "five": float(last["five"])}


def length(measurement: Measurement) -> Mapping[str, float]:
    return {"length": float(len(json.loads((measurement.runs["three"] / "history.json").read_text())))}


def rounding(measurement: Measurement) -> Mapping[str, float]:
    if os.environ.get("TOY_EXACT") == "raise":
        raise ArithmeticError("no rounding today")
    return {"error": 1.0 if os.environ.get("TOY_EXACT") == "wrong" else abs(0.1 + 0.2 - 0.3)}


def identities(measurement: Measurement) -> Mapping[str, float]:
    return {"largest": 2e-13, "order": 1.98, "cases": 300.0}


def plots(inputs: PlotInputs) -> Sequence[Path]:
    if os.environ.get("TOY_PLOTS") == "raise":
        raise RuntimeError("no ink")
    path = inputs.out / "counts.png"
    write_atomically(path, b"PNG " + ",".join(sorted(inputs.results)).encode())
    for seeds in inputs.runs.values():
        for named in seeds.values():
            for folder in named.values():
                (folder / "history.json").read_text()
    return [path]


SEEDS = {Budget.SMOKE: (0,), Budget.QUICK: (0, 1), Budget.FULL: (0, 1, 2, 3, 4)}

PAPER = Paper(
    slug="toy-paper",
    title="Counting | A Toy",
    authors=("A. Author", "B. Author"),
    arxiv="2601.00001",
    year=2026,
    url_code="https://example.org/toy",
    bibtex="@article{toy2026,\n  title = {Counting: A Toy}\n}",
    summary="Counting rises.",
    plots=plots,
    claims=(
        Claim(
            id="C1",
            statement="Sums of decimals are right to rounding, for every decimal that a reader could name.",
            source="Eq. 1",
            level=Level.EXACT,
            gates=(Gate("error", "largest error", below=1e-12),),
            measure=rounding,
        ),
        Claim(
            id="C2",
            statement="Identities hold",
            source="Lemma 2",
            level=Level.EXACT,
            gates=(
                Gate("largest", "largest residual", below=1e-8),
                Gate("order", "order of the residual", above=1.9),
                Gate("cases", "random cases"),
            ),
            measure=identities,
        ),
        Claim(
            id="C3",
            statement="Counting by five ends elsewhere than counting by three: |gap| > 0",
            source="Figure 3",
            level=Level.SCALED,
            paper="elsewhere in 3 of 3 runs",
            gates=(Gate("gap", "gap", above=0.0, unit="steps"), Gate("five", "last value by five")),
            measure=difference,
            runs=counts,
            seeds=SEEDS,
        ),
        Claim(
            id="C4",
            statement="Counting by three takes its time",
            source="Table 1",
            level=Level.SCALED,
            gates=(Gate("length", "steps counted", above=1.0),),
            measure=length,
            runs=only_three,
            seeds=SEEDS,
        ),
        Claim(
            id="C5",
            statement="Counting scales to large numbers",
            source="Table 2",
            level=Level.PAPER,
            paper="10^9",
            needs="8 GPUs and a week",
        ),
    ),
)
