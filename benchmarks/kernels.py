"""Time token statistics side by side with what others offer, and write the figures to a CSV.

    python benchmarks/kernels.py                     on CUDA if there is a device, else on one CPU thread
    python benchmarks/kernels.py --shapes 1024x32000 --linear-shapes 512x256x32000 --stats lp all
    python benchmarks/kernels.py --page              draw docs/benchmarks/kernels.md and its plot from the CSVs

Every provider runs once per round, in a new order each round, so that a change of the machine's load or clock meets
all of them; the second-level cache of a device is overwritten before each reading. A figure is the median over the
rounds, with the 20th and 80th percentile. Timed are forward, and forward with the backward pass of all statistics.
The limit is measured in the same run: the bandwidth of a copy for `token_stats` (one read of the logits forward; one
more read and one write backward), and the rate of a matrix product for `linear_token_stats` (2NDV operations forward,
8NDV with the backward pass that recomputes; also for providers that do less, so that ratios stay ratios of times).
Errors are the largest absolute difference from float64 on up to 32 rows, over statistics and over gradients.
Needs torch, triton, numpy and the core's source folder on the path; matplotlib for `--page`.
"""

import argparse
import csv
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measuring import Clock, Reading, copy_bandwidth, machine, matrix_rate, peak_extra_bytes
from providers import STATISTICS, Provider, providers, textbook
from torch import Tensor

CHECKED_ROWS = 32
MODES = ("forward", "forward+backward")
FIGURES = (
    *("ms", "p20_ms", "p80_ms", "cpu_ms", "ratio", "cpu_ratio", "rate", "unit", "limit", "percent_of_limit"),
    *("peak_extra_bytes", "value_error", "gradient_error"),
)
HERE = Path(__file__).parent
DEFAULTS = {
    "cpu": {
        "shapes": ["4096x32000", "1024x14", "256x14"],
        "linear_shapes": ["1024x256x32000"],
        "stats": ["all"],
        "rounds": 5,
        "dtype": "float32",
    },
    "cuda": {
        "shapes": ["1024x151936", "8192x32000", "8192x128256", "8192x151936", "65536x32000"],
        "linear_shapes": [f"{n}x{d}x131072" for n in (1024, 8192) for d in (896, 1024, 2048, 4096)],
        "stats": list(STATISTICS),
        "rounds": 30,
        "dtype": "bfloat16",
    },
}


class Problem(NamedTuple):
    """Inputs, taken tokens, and an upstream gradient for each statistic."""

    inputs: tuple[Tensor, ...]
    targets: Tensor
    weights: tuple[Tensor, ...]

    @classmethod
    def make(cls, sizes: Sequence[int], names: Sequence[str], dtype: torch.dtype, device: str) -> "Problem":
        """Logits ``(N, V)`` from two sizes; hidden states ``(N, D)`` and weight ``(V, D)`` from three."""
        generator = torch.Generator(device).manual_seed(0)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(*shape, generator=generator, device=device) * scale).to(dtype)

        rows, columns = sizes[0], sizes[-1]
        if len(sizes) == 2:
            inputs: tuple[Tensor, ...] = (normal(rows, columns, scale=2.0),)
        else:
            inputs = (normal(rows, sizes[1]), normal(columns, sizes[1], scale=2.0 / sizes[1] ** 0.5))
        targets = torch.randint(columns, (rows,), generator=generator, device=device)
        return cls(inputs, targets, tuple(torch.randn(rows, generator=generator, device=device) for _ in names))


def once(provider: Provider, problem: Problem, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """Run forward, and backward if the inputs ask for it; return the gradients."""
    outputs = provider.run(problem.inputs, problem.targets, names)
    if not problem.inputs[0].requires_grad:
        return ()
    upstream = [w[: len(out)].to(out.dtype) for w, out in zip(problem.weights, outputs, strict=True)]
    return torch.autograd.grad(outputs, problem.inputs, upstream)


def largest_errors(provider: Provider, problem: Problem, names: tuple[str, ...]) -> tuple[float, float]:
    """Return the largest error of the statistics and of the gradients on the first rows, against float64."""
    few = slice(0, CHECKED_ROWS)
    rows, *head = (t.detach() for t in problem.inputs)
    inputs = (rows[few].clone(), *head)
    exact = [t.double().requires_grad_() for t in inputs]
    taken = problem.targets[few]
    if provider.backward:
        inputs = tuple(t.requires_grad_() for t in inputs)
    actual = provider.run(inputs, taken, names)
    # Some leave out the last row.
    given = len(actual[0])
    upstream = [w[:given] for w in problem.weights]
    expected = textbook(exact[0] if len(exact) == 1 else exact[0] @ exact[1].t(), taken, names)
    expected = [column[:given] for column in expected]
    wanted = torch.autograd.grad(expected, exact, [w.double() for w in upstream])
    value = max(float((a - e).detach().abs().max()) for a, e in zip(actual, expected, strict=True))
    if not provider.backward:
        return value, float("nan")
    gradients = torch.autograd.grad(actual, inputs, [w.to(a.dtype) for w, a in zip(upstream, actual, strict=True)])
    return value, max(float((g - w).abs().max()) for g, w in zip(gradients, wanted, strict=True))


def measure(
    sizes: Sequence[int], stats: str, options: argparse.Namespace, clock: Clock, limit: float
) -> list[dict[str, object]]:
    """Time all providers on one problem; return a record for each provider and mode, absent ones included."""
    # The compiler allows few specialisations of a function and then runs it uncompiled; each problem starts anew.
    if options.compile:
        torch.compiler.reset()
    operation = "token_stats" if len(sizes) == 2 else "linear_token_stats"
    names, dtype = STATISTICS[stats], getattr(torch, options.dtype)
    problem = Problem.make(sizes, names, dtype, options.device)
    known = [p for p in providers(operation) if options.compile or "compile" not in p.name]
    notes = {p.name: p.absent(options.device, names) for p in known}
    present = [p for p in known if not notes[p.name]]
    rows, columns = sizes[0], sizes[-1]
    repeats = 1 if options.device == "cuda" else max(1, 4_000_000 // int(np.prod(sizes)))
    errors: dict[str, tuple[float, float]] = {}
    records: list[dict[str, object]] = []
    for mode in MODES:
        for tensor in problem.inputs:
            tensor.requires_grad_(mode != "forward")
        running, failed = [], {}
        for provider in present:
            if mode != "forward" and not provider.backward:
                continue
            # One that fails, or needs more memory than there is, must not end the run of the others.
            try:
                if provider.name not in errors:
                    errors[provider.name] = largest_errors(provider, problem, names)
                once(provider, problem, names)
                running.append(provider)
            except Exception as error:
                failed[provider.name] = f"failed: {type(error).__name__}"
            if options.device == "cuda":
                torch.cuda.empty_cache()
        peaks = {
            p.name: "" if options.device == "cpu" and "compile" in p.name
            else peak_extra_bytes(lambda p=p: once(p, problem, names), options.device)
            for p in running
        }  # fmt: skip
        readings: dict[str, list[Reading]] = {p.name: [] for p in running}
        order, shuffle = list(running), random.Random(0).shuffle
        for _ in range(options.rounds):
            shuffle(order)
            for provider in order:
                reading = clock.read(lambda p=provider: once(p, problem, names), repeats)
                readings[provider.name].append(reading)
        if operation == "token_stats":
            work = rows * columns * dtype.itemsize * (1 if mode == "forward" else 3)
        else:
            work = rows * sizes[1] * columns * (2 if mode == "forward" else 8)
        for provider in known:
            name = provider.name
            record: dict[str, object] = {
                "operation": operation,
                "provider": name,
                "mode": mode,
                "stats": stats,
                "N": rows,
                "D": sizes[1] if len(sizes) == 3 else "",
                "V": columns,
                "dtype": options.dtype,
                "rounds": options.rounds,
                "repeats": repeats,
            }
            figures = dict.fromkeys(FIGURES, "")
            note = notes[name] or failed.get(name, "")
            if name in readings:
                wall = [r.wall_ms for r in readings[name]]
                eager = readings.get("eager", [])
                base = statistics.median([r.wall_ms for r in eager] or [float("nan")])
                ms, cpu = statistics.median(wall), statistics.median(r.cpu_ms for r in readings[name])
                cpu_base = statistics.median([r.cpu_ms for r in eager] or [float("nan")])
                rate = work / (ms / 1e3)
                figures = {
                    "ms": f"{ms:.4g}",
                    "p20_ms": f"{np.percentile(wall, 20):.4g}",
                    "p80_ms": f"{np.percentile(wall, 80):.4g}",
                    "cpu_ms": f"{cpu:.4g}" if cpu else "",
                    "ratio": f"{base / ms:.2f}",
                    "cpu_ratio": f"{cpu_base / cpu:.2f}" if cpu else "",
                    "rate": f"{rate / 1e12:.4g}",
                    "unit": "TB/s" if operation == "token_stats" else "TFLOP/s",
                    "limit": f"{limit / 1e12:.4g}",
                    "percent_of_limit": f"{100 * rate / limit:.1f}",
                    "peak_extra_bytes": peaks[name],
                    "value_error": f"{errors[name][0]:.2g}",
                    "gradient_error": f"{errors[name][1]:.2g}",
                }
            elif not note:
                note = "no backward pass"
            records.append({**record, **figures, "note": note})
            told = f"{figures['ms']} ms (x{figures['ratio']}), {figures['percent_of_limit']} % of the limit"
            shape = "x".join(map(str, sizes))
            print(f"{shape:>18} {mode:<17} {stats:<5} {name:<14} {note or told}", flush=True)
    return records


def main() -> None:
    """Parse the options, measure, write the CSV; or draw the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="*", metavar="NxV", help="problems of token_stats")
    parser.add_argument("--linear-shapes", nargs="*", metavar="NxDxV", help="problems of linear_token_stats")
    parser.add_argument("--stats", nargs="+", choices=list(STATISTICS), help="which statistics")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rounds", type=int, help="interleaved rounds per problem and mode")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on a CPU")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out what torch.compile makes")
    parser.add_argument("--csv", type=Path, help="file to write; kernels-cpu.csv or kernels-cuda.csv by default")
    parser.add_argument("--page", action="store_true", help="measure nothing; draw the page from the CSVs in git")
    options = parser.parse_args()
    if options.page:
        from page import write_page

        write_page()
        return
    for name, value in DEFAULTS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    # Before measuring, so that the load is that of the others.
    where = machine(options.device)
    clock = Clock(options.device)
    bandwidth = copy_bandwidth(clock, options.device)
    rate = matrix_rate(clock, options.device, getattr(torch, options.dtype))
    print(f"measured limits: copy {bandwidth / 1e12:.4g} TB/s, matrix product {rate / 1e12:.4g} TFLOP/s", flush=True)
    records: list[dict[str, object]] = []
    for shape in [*options.shapes, *options.linear_shapes]:
        sizes = [int(number) for number in shape.split("x")]
        for stats in options.stats:
            records += measure(sizes, stats, options, clock, bandwidth if len(sizes) == 2 else rate)
    path = options.csv or HERE / f"kernels-{options.device}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*records[0], *where], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**record, **where} for record in records)
    print(f"wrote {len(records)} lines to {path}")


if __name__ == "__main__":
    main()
