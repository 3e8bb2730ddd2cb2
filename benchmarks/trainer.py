"""Time the reference trainer beside TRL's `GRPOTrainer` and beside a bare loop; write a CSV.

    python benchmarks/trainer.py                                    all problems, 5 runs of each trainer
    python benchmarks/trainer.py --problems small --runs 1
    python benchmarks/trainer.py --problems small --profile corollary     where one trainer's time goes

What is timed is rollout batches with all their optimiser steps, after a warm-up: a model with random weights answers
prompts of 6 random tokens with 6 tokens, 8 times each; then rewards, log-probabilities at the behaviour policy, and the
optimiser steps. `trainer_loops.py` says how the work is made the same, and each run checks that it was.

"64 x 6 tokens in groups of 8" may mean 64 completions (8 prompts) or 64 prompts (512 completions): `small` is the
first, `small-512` the second. With one optimiser step for each rollout batch (`small-on-policy`) TRL scores nothing at
the behaviour policy, since nothing is clipped; we do, for the entropy of the log.

One thread, and one process for each trainer, which lives through all runs, so that what one imports or patches is not
in another's way. Trainers take turns, in a new order each round. Figures are medians over the runs; the ratio is ours
by TRL's optimiser steps per second, with the smallest and largest of the rounds, and again in processor time, which
depends less on what else the machine does; and by those of TRL as it comes.
"""

import argparse
import cProfile
import csv
import importlib.metadata
import multiprocessing
import pstats
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import torch
from measuring import machine
from trainer_loops import PHASES, TRAINERS, Problem, Timing, absent, run

from corollary.models import SmallModel

HERE = Path(__file__).parent
SOURCES = ("../shared/src/corollary/rl", "../shared/src/corollary/rollout", "../shared/src/corollary/models")
BASE, DEFAULTS = "trl", "trl, its defaults"
OURS = tuple(name for name in TRAINERS if name.startswith("corollary"))

LARGE = SmallModel(hidden_size=256, layers=6, heads=4, intermediate_size=688)
PROBLEMS = {
    "small": Problem(name="small", model=SmallModel(), vocab_size=14, prompts=8),
    "small-512": Problem(name="small-512", model=SmallModel(), vocab_size=14, prompts=64, warm=2, timed=6),
    "small-on-policy": Problem(name="small-on-policy", model=SmallModel(), vocab_size=14, prompts=8, updates=1),
    "large": Problem(name="large", model=LARGE, vocab_size=512, prompts=8, warm=1, timed=4),
}
TARGETS = {"small": 4.0, "large": 1.3}
"""Our optimiser steps per second are to be at least this many times TRL's."""

Run = Callable[[str, Problem], Timing]


def measure(problem: Problem, names: Sequence[str], runs: int, call: Run) -> list[dict[str, object]]:
    """Time all trainers on one problem; a record for each."""
    notes = {name: absent(name) for name in names}
    present = [name for name in names if not notes[name]]
    timings: dict[str, list[Timing]] = {name: [] for name in present}
    shuffle = random.Random(0).shuffle
    for _ in range(runs):
        shuffle(present)
        for name in present:
            timings[name].append(call(name, problem))
    parameters = sum(p.numel() for p in problem.build().parameters())
    shape = {k: v for k, v in asdict(problem).items() if k not in ("model", "name")}
    records = []
    for name in names:
        record: dict[str, object] = {"problem": problem.name, "parameters": parameters, **shape, "trainer": name}
        record |= {"runs": runs, **dict.fromkeys(COLUMNS, "")}
        if name in timings:
            record |= figures(timings[name], timings.get(BASE, []), timings.get(DEFAULTS, []), problem)
            record["target"] = TARGETS.get(problem.name, "") if name in OURS else ""
        records.append({**record, "note": notes[name]})
        told = f"{record['steps_per_s']:>7} steps/s  {record['cpu_ms']:>7} ms of processor time a step"
        told += f"  x{record['ratio']} ({record['ratio_min']} to {record['ratio_max']})" if record["ratio"] else ""
        told += f", processor time x{record['cpu_ratio']}" if record["cpu_ratio"] else ""
        told += f", x{record['ratio_to_defaults']} of its defaults" if record["ratio_to_defaults"] else ""
        told += f"  (target {record['target']})" if record["target"] else ""
        print(f"{problem.name:<16} {name:<26} {notes[name] or told}", flush=True)
    return records


FIGURES = (
    "steps_per_s",
    "steps_per_s_min",
    "steps_per_s_max",
    "cpu_ms",
    "ratio",
    "ratio_min",
    "ratio_max",
    "cpu_ratio",
    "ratio_to_defaults",
)
COLUMNS = (*FIGURES, "target", *(f"{phase}_ms" for phase in PHASES), "weights_moved")


def figures(
    timings: Sequence[Timing], base: Sequence[Timing], defaults: Sequence[Timing], problem: Problem
) -> dict[str, object]:
    """Medians, extremes and ratios. ``cpu_ms`` is of an optimiser step, the phases are of a rollout batch."""
    rates = [t.optimiser_steps / t.wall_s for t in timings]
    cpu = statistics.median(t.cpu_s / t.optimiser_steps for t in timings)
    found: dict[str, object] = {
        "steps_per_s": f"{statistics.median(rates):.4g}",
        "steps_per_s_min": f"{min(rates):.4g}",
        "steps_per_s_max": f"{max(rates):.4g}",
        "cpu_ms": f"{cpu * 1e3:.4g}",
        "weights_moved": f"{statistics.median(t.moved for t in timings):.2g}",
    }
    for phase in timings[0].phases:
        found[f"{phase}_ms"] = f"{statistics.median(t.phases[phase] for t in timings) / problem.timed * 1e3:.4g}"
    if defaults:
        as_it_comes = statistics.median(t.optimiser_steps / t.wall_s for t in defaults)
        found["ratio_to_defaults"] = f"{statistics.median(rates) / as_it_comes:.2f}"
    if base:
        theirs = [t.optimiser_steps / t.wall_s for t in base]
        paired = [our / their for our, their in zip(rates, theirs, strict=True)]
        found["ratio"] = f"{statistics.median(rates) / statistics.median(theirs):.2f}"
        found["ratio_min"], found["ratio_max"] = f"{min(paired):.2f}", f"{max(paired):.2f}"
        found["cpu_ratio"] = f"{statistics.median(t.cpu_s / t.optimiser_steps for t in base) / cpu:.2f}"
    return found


def versions() -> dict[str, str]:
    """Of what the trainers stand on."""
    found = {}
    for name in ("trl", "transformers", "accelerate"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def profile(name: str, problem: Problem) -> None:
    """Print the functions in which a run spends most time, each without and with what it calls."""
    run(name, replace(problem, timed=1))
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(run, name, problem)
    for order in ("tottime", "cumtime"):
        pstats.Stats(profiler).sort_stats(order).print_stats(40)


def main() -> None:
    """Parse the options, measure, write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS, help="what to train")
    parser.add_argument("--trainers", nargs="+", default=list(TRAINERS), choices=TRAINERS, help="what to time")
    parser.add_argument("--runs", type=int, default=5, help="of each trainer")
    parser.add_argument("--profile", choices=TRAINERS, help="print where this trainer's time goes, and measure nothing")
    parser.add_argument("--csv", type=Path, default=HERE / "trainer-cpu.csv", help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problems = [PROBLEMS[name] for name in options.problems]
    if options.profile:
        for problem in problems:
            profile(options.profile, problem)
        return
    where = {**machine("cpu", sources=SOURCES), **versions()}  # before measuring: the load is that of the others
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        workers = {
            name: stack.enter_context(ProcessPoolExecutor(max_workers=1, mp_context=spawn)) for name in options.trainers
        }

        def apart(name: str, problem: Problem) -> Timing:
            return workers[name].submit(run, name, problem).result()

        records = [r for problem in problems for r in measure(problem, options.trainers, options.runs, apart)]
    with options.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*records[0], *where], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**record, **where} for record in records)
    print(f"wrote {len(records)} lines to {options.csv}")


if __name__ == "__main__":
    main()
