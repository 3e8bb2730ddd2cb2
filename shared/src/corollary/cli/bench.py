"""`corollary bench`: methods side by side."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from corollary.cli.choices import choose, split, whole_number
from corollary.cli.errors import UsageError, as_usage_error

if TYPE_CHECKING:
    from corollary.benchmarks import Selection

Words = tyro.conf.UseAppendAction[tuple[str, ...]]


class Executor(StrEnum):
    """Where runs train."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class Bench:
    """Compare methods on the same data, budget and seeds.

    Every installed method takes part: a package that is installed adds its own. Training runs are shared with the
    claims of papers and kept: a stopped command goes on where it stopped. At the end stands a table per setting;
    the record, its page and plots are files.
    """

    suite: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SUITE")]
    """What to compare: online-forecasting, or rlvr, which is reinforcement learning with verifiable rewards."""
    methods: Annotated[Words, tyro.conf.arg(metavar="NAMES")] = ()
    """Only these methods, beside what is always there: the baseline, and the naive forecasters or the untrained
    policy. Several: give the option again, or join them with commas."""
    baseline: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """The method that the others are compared with, instead of gd (online-forecasting) or grpo (rlvr)."""
    tasks: Annotated[Words, tyro.conf.arg(metavar="NAMES")] = ()
    """Only rlvr: tasks, such as digit-sum,countdown, instead of the budget's."""
    data: Annotated[Words, tyro.conf.arg(metavar="NAMES")] = ()
    """Only online-forecasting: data sets beside the embedded stream, such as ETTh2, instead of the budget's. They are
    looked for in the folder COROLLARY_DATA, and downloaded if they are not there."""
    backbones: Annotated[Words, tyro.conf.arg(metavar="NAMES")] = ()
    """Only online-forecasting: backbones of these data sets, such as nlinear,tcn, instead of the budget's."""
    horizons: Annotated[Words, tyro.conf.arg(metavar="STEPS")] = ()
    """Only online-forecasting: horizons of these data sets, such as 24,48, instead of the budget's."""
    seeds: Annotated[str, tyro.conf.arg(metavar="N")] = "auto"
    """How many seeds for every setting; auto = as many as the budget says."""
    budget: Annotated[str, tyro.conf.arg(metavar="{smoke,quick,full}")] = "quick"
    """How much work: smoke = is everything wired up; quick = a first look in minutes; full = what is published."""
    workers: Annotated[str, tyro.conf.arg(metavar="N")] = "auto"
    """Runs to train at the same time; auto = one per usable core. The errors do not depend on it, the times do."""
    executor: Annotated[str, tyro.conf.arg(metavar="{local,ray}")] = "local"
    """Where runs train: processes of this machine, or a Ray cluster that shares the folder of the run store."""
    out: Path = Path("reproductions") / "benchmarks"
    """Folder for the record, its page and plots."""
    record: bool = False
    """Write into docs/benchmarks of this checkout instead, from which `corollary tables` generates the page. Not
    with budget smoke."""
    join: bool = False
    """Add what the record in docs/benchmarks lacks of --methods, and keep the rest of it. It must be of the same
    budget, and what runs beside them, as the baseline does, must have its recorded errors. Only online-forecasting."""
    fresh: bool = False
    """Train again what the run store already has. A stored run is replaced when its successor is complete."""

    def run(self) -> int:
        """Run the suite; status 1 when a method failed."""
        from rich.console import Console

        from corollary.benchmarks import NotRecorded, SelectionError, bench, find_suite
        from corollary.benchmarks.engine import recorded_folder
        from corollary.reproduce import OutputError, StorageError
        from corollary.reproduce.summary import wide_enough

        workers = whole_number("--workers", self.workers)
        selection = self._selection()
        with as_usage_error(ValueError, ImportError):
            suite = find_suite(self.suite)
            if self.record or self.join:
                recorded_folder(selection.budget)
            pool = _pool(choose(Executor, self.executor))
        try:
            with as_usage_error(SelectionError, OutputError, StorageError):
                content = bench(
                    suite,
                    selection,
                    workers=workers,
                    out=self.out,
                    record=self.record,
                    join=self.join,
                    fresh=self.fresh,
                    pool=pool,
                    console=wide_enough(Console()),
                )
        except NotRecorded as error:
            return _failed(str(error))
        failures = suite.failures(content)
        return _failed("; ".join(failures)) if failures else 0

    def _selection(self) -> "Selection":
        from corollary.benchmarks import Selection
        from corollary.papers import Budget

        horizons = split(self.horizons)
        wrong = [word for word in horizons if not word.isdecimal() or int(word) < 1]
        if wrong:
            raise UsageError(f"--horizons must be whole numbers from 1 on, got {wrong[0]!r}")
        return Selection(
            budget=choose(Budget, self.budget),
            methods=tuple(split(self.methods)),
            baseline=self.baseline or None,
            data=tuple(split(self.data)),
            backbones=tuple(split(self.backbones)),
            horizons=tuple(int(word) for word in horizons),
            tasks=tuple(split(self.tasks)),
            seeds=whole_number("--seeds", self.seeds),
        )


def _pool(executor: Executor) -> "Callable[..., Any]":
    from corollary.reproduce.workers import Workers

    if executor is Executor.LOCAL:
        return Workers
    from corollary.reproduce.cluster import ray_pool

    return ray_pool()


def _failed(text: str) -> int:
    print(f"corollary: {text}", file=sys.stderr)
    return 1
