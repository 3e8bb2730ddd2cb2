"""Time the fused forward of the head for several tiles, beside the chunked forward, and print a table.

    python benchmarks/head_tiles.py                                 on CUDA, D = 896, 1024 and 2048
    python benchmarks/head_tiles.py --shapes 8192x896x151936
    TRITON_INTERPRET=1 python benchmarks/head_tiles.py --device cpu --shapes 16x32x300 --rounds 1    does it run?

The library has one tile per dtype (`corollary.kernels._triton_head.TILES`), since another tile gives other bits; this
is how to choose it. Candidates take turns in each round, with the second-level cache overwritten before each reading; a
figure is the median. Needs torch, triton, numpy and the core's source folder on the path.
"""

import argparse
import random
import statistics
from collections.abc import Callable

import torch
from kernels import Problem
from measuring import Clock, matrix_rate

from corollary.kernels import TokenStats, linear_token_stats
from corollary.kernels import _triton_head as head

CANDIDATES = (
    head.TILES[2][0],
    head.HeadTile(128, 256, 64, 8, 3, flat=True),
    head.HeadTile(128, 256, 64, 8, 4),
    head.HeadTile(128, 128, 64, 8, 3),
    head.HeadTile(128, 128, 64, 8, 3, registers=128),
    head.HeadTile(128, 128, 64, 8, 3, registers=128, flat=True),
    head.HeadTile(64, 256, 64, 4, 3),
    head.HeadTile(256, 128, 64, 8, 3),
)
STATS = ("log_prob", "entropy", "sum_p2", "sum_p2_log_p")


def main() -> None:
    """Parse the options and print a Markdown table per shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--shapes", nargs="+", default=[f"8192x{d}x131072" for d in (896, 1024, 2048)], metavar="NxDxV")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    clock = Clock(options.device)
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float16
    limit = matrix_rate(clock, options.device, dtype if options.device == "cuda" else torch.float32)
    for shape in options.shapes:
        sizes = [int(number) for number in shape.split("x")]
        problem = Problem.make(sizes, STATS, dtype, options.device)
        backend = "triton" if options.device == "cuda" else "torch"

        def run(forward: str, problem: Problem = problem, backend: str = backend) -> TokenStats:
            return linear_token_stats(*problem.inputs, problem.targets, stats=STATS, backend=backend, forward=forward)

        def with_tile(tile: head.HeadTile, run: Callable[[str], TokenStats] = run) -> TokenStats:
            head.TILES[2] = (tile,)
            return run("fused")

        calls: dict[str, Callable[[], TokenStats]] = {"chunked": lambda run=run: run("chunked")}
        calls |= {str(tile): lambda tile=tile, run=with_tile: run(tile) for tile in CANDIDATES}
        expected = run("chunked")
        errors, readings = {}, {}
        for name, call in list(calls.items()):
            try:
                found = call()
                assert found.entropy is not None
                assert expected.entropy is not None
                errors[name] = float((found.entropy - expected.entropy).abs().max())
                readings[name] = []
            except Exception as error:
                # A tile that does not fit this device must not end the others' run.
                print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        order = list(readings)
        for _ in range(options.rounds):
            random.shuffle(order)
            for name in order:
                readings[name].append(clock.read(calls[name]).wall_ms)
        print(f"\n{shape}, {', '.join(STATS)}, {dtype}; a matrix product reaches {limit / 1e12:.4g} TFLOP/s\n")
        print("| forward | ms | TFLOP/s | entropy: largest difference from chunked |\n|---|---:|---:|---:|")
        for name, times in sorted(readings.items(), key=lambda item: statistics.median(item[1])):
            ms = statistics.median(times)
            print(f"| {name} | {ms:.4g} | {2 * sizes[0] * sizes[1] * sizes[2] / ms / 1e9:.4g} | {errors[name]:.1e} |")


if __name__ == "__main__":
    main()
