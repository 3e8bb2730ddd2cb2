"""Time token_stats on a CPU against full-size eager autograd, side by side, and append the figures to a CSV.

    python benchmarks/kernels.py                              N = 4096, V = 32000 and N = 1024, V = 14, one
    thread python benchmarks/kernels.py --compile --shapes 1024x32000

Every provider runs once per round, in a new order each round, so that a change of the machine's load meets
all of them. A figure is the median over the rounds: wall time, and CPU time (user + system of all threads),
which a busy machine disturbs less. A ratio is the median of eager divided by the median of the provider.
Timed are the statistics log_prob, entropy, sum_p2, sum_p2_log_p of float32 logits, forward alone and forward
with the backward pass of all four. Errors are the largest absolute difference from float64 on up to 32 rows,
over the statistics and over the gradient.
"""

import argparse
import csv
import datetime
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from corollary.kernels import token_stats

STATS = ("log_prob", "entropy", "sum_p2", "sum_p2_log_p")
CHECKED_ROWS = 32
Provider = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def eager(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """The usual formulas, each over the full logits; autograd keeps what it needs."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    square = p * p
    return (
        log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1),
        -(p * log_p).sum(-1),
        square.sum(-1),
        (square * log_p).sum(-1),
    )


def ours(backend: str) -> Provider:
    """Return token_stats with one backend, as a provider."""

    def compute(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        result = token_stats(logits, targets, stats=STATS, backend=backend)
        return tuple(getattr(result, name) for name in STATS)

    return compute


def once(provider: Provider, logits: Tensor, targets: Tensor, weights: Sequence[Tensor]) -> Tensor | None:
    """Run forward, and backward if the logits ask for it; return the gradient."""
    outputs = provider(logits, targets)
    if not logits.requires_grad:
        return None
    return torch.autograd.grad(outputs, logits, weights)[0]


def largest_errors(
    provider: Provider, logits: Tensor, targets: Tensor, weights: Sequence[Tensor]
) -> tuple[float, float]:
    """Return the largest error of the statistics and of the gradient on the first rows, against float64."""
    few = slice(0, CHECKED_ROWS)
    z, y, upstream = logits.detach()[few], targets[few], [w[few] for w in weights]
    exact_z, z = z.double().requires_grad_(), z.clone().requires_grad_()
    exact, actual = eager(exact_z, y), provider(z, y)
    (exact_gradient,) = torch.autograd.grad(exact, exact_z, [w.double() for w in upstream])
    (gradient,) = torch.autograd.grad(actual, z, upstream)
    value_error = max(float((a - e).detach().abs().max()) for a, e in zip(actual, exact, strict=True))
    return value_error, float((gradient - exact_gradient).abs().max())


def measure(
    providers: dict[str, Provider], rows: int, columns: int, rounds: int, repeats: int
) -> list[dict[str, object]]:
    """Time all providers on one shape; return a record for each provider and mode."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, columns, generator=generator) * 2
    targets = torch.randint(columns, (rows,), generator=generator)
    weights = [torch.randn(rows, generator=generator) for _ in STATS]
    errors = {name: largest_errors(run, logits, targets, weights) for name, run in providers.items()}
    records: list[dict[str, object]] = []
    order = list(providers)
    shuffle = random.Random(0).shuffle
    for mode in ("forward", "forward+backward"):
        logits.requires_grad_(mode != "forward")
        for run in providers.values():
            once(run, logits, targets, weights)
        wall: dict[str, list[float]] = {name: [] for name in providers}
        cpu: dict[str, list[float]] = {name: [] for name in providers}
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                start_wall, start_cpu = time.perf_counter(), time.process_time()
                for _ in range(repeats):
                    once(providers[name], logits, targets, weights)
                cpu[name].append((time.process_time() - start_cpu) / repeats * 1e3)
                wall[name].append((time.perf_counter() - start_wall) / repeats * 1e3)
        for name in providers:
            wall_ms, cpu_ms = statistics.median(wall[name]), statistics.median(cpu[name])
            records.append(
                {
                    "provider": name,
                    "mode": mode,
                    "N": rows,
                    "V": columns,
                    "rounds": rounds,
                    "repeats": repeats,
                    "wall_ms": f"{wall_ms:.4g}",
                    "cpu_ms": f"{cpu_ms:.4g}",
                    "wall_ratio": f"{statistics.median(wall['eager']) / wall_ms:.2f}",
                    "cpu_ratio": f"{statistics.median(cpu['eager']) / cpu_ms:.2f}",
                    "value_error": f"{errors[name][0]:.2g}",
                    "gradient_error": f"{errors[name][1]:.2g}",
                }
            )
            line = records[-1]
            print(
                f"{rows:>6} x {columns:<7} {mode:<17} {name:<8} wall {line['wall_ms']:>8} ms (x{line['wall_ratio']})  "
                f"cpu {line['cpu_ms']:>8} ms (x{line['cpu_ratio']})  error {line['value_error']} / "
                f"{line['gradient_error']}",
                flush=True,
            )
    return records


def machine() -> dict[str, object]:
    """Describe where and when the figures were taken."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    head = [*git, "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip()
    sources = ["../shared/src/corollary/kernels", "kernels.py"]
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *sources], check=False).returncode != 0
    commit += "-dirty" if changed else ""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "cpu": f"{model} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    """Parse the options, measure, append to the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["4096x32000", "1024x14", "256x14"], metavar="NxV")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds per shape and mode")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--compile", action="store_true", help="also time the compiled backend")
    csv_default = Path(__file__).with_name("kernels-cpu.csv")
    parser.add_argument("--csv", type=Path, default=csv_default, help="file to append to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Before measuring, so that the load is that of the others.
    where = machine()
    providers = {"eager": eager, "torch": ours("torch")}
    if options.compile:
        providers["compile"] = ours("compile")
    records: list[dict[str, object]] = []
    for shape in options.shapes:
        rows, columns = (int(number) for number in shape.split("x"))
        # Small problems are repeated until one reading takes some 10 ms, far above the clock's resolution.
        repeats = max(1, 4_000_000 // (rows * columns))
        records += measure(providers, rows, columns, options.rounds, repeats)
    new = not options.csv.exists()
    with options.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*records[0], *where], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({**record, **where} for record in records)
    print(f"appended {len(records)} lines to {options.csv}")


if __name__ == "__main__":
    main()
