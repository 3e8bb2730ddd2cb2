"""Readings of time, of memory and of the machine's own limits, on a CPU and on CUDA."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FLUSH_BYTES = 256 << 20
"""Written before each reading on a device, so that the second-level cache holds nothing of the problem."""


class Reading(NamedTuple):
    """One timed call."""

    wall_ms: float
    cpu_ms: float
    """User and system time of all threads; on a device 0."""


class Clock:
    """Times calls on one device."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device) if self.cuda else None

    def read(self, call: Callable[[], object], repeats: int = 1) -> Reading:
        """Run the call ``repeats`` times; the reading is per call."""
        if self.flush is not None:
            self.flush.zero_()
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(repeats):
                call()
            stop.record()
            torch.cuda.synchronize()
            return Reading(start.elapsed_time(stop) / repeats, 0.0)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            call()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return Reading(wall / repeats * 1e3, cpu / repeats * 1e3)


def copy_bandwidth(clock: Clock, device: str, rounds: int = 15) -> float:
    """Bytes per second, read and written, of a copy too large for any cache."""
    size = (1 << 30) if clock.cuda else (256 << 20)
    source = torch.zeros(size, dtype=torch.int8, device=device)
    target = torch.zeros_like(source)
    times = [clock.read(lambda: target.copy_(source)).wall_ms for _ in range(rounds)]
    return 2 * size / (statistics.median(times[2:]) / 1e3)


def matrix_rate(clock: Clock, device: str, dtype: torch.dtype, rounds: int = 9) -> float:
    """Floating-point operations per second of a square matrix product."""
    width = 8192 if clock.cuda else 1024
    left = torch.randn(width, width, device=device).to(dtype)
    out = torch.empty_like(left)
    times = [clock.read(lambda: torch.mm(left, left, out=out)).wall_ms for _ in range(rounds)]
    return 2 * width**3 / (statistics.median(times[2:]) / 1e3)


class LiveBytes(TorchDispatchMode):
    """Follows the memory of tensors that operations make, and the most that was alive at one time.

    What compiled code allocates inside is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def peak_extra_bytes(call: Callable[[], object], device: str) -> int:
    """The most memory beyond the inputs that the call holds at one time, gradients and results included."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with LiveBytes() as seen:
        call()
    return seen.peak


KERNELS = ("../shared/src/corollary/kernels",)


def machine(device: str, *, sources: Sequence[str] = KERNELS) -> dict[str, object]:
    """Describe where and when the figures were taken, and from which commit of these sources and the benchmarks."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    hardware, driver = f"{model} ({torch.backends.cpu.get_cpu_capability()})", ""
    if device == "cuda":
        hardware = torch.cuda.get_device_name()
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[0]
        except FileNotFoundError:
            driver = "unknown"
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "absent"
    return {
        "date": date.today().isoformat(),
        "commit": _commit(sources),
        "hardware": hardware,
        "driver": driver,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
        "torch": torch.__version__,
        "triton": triton_version,
        "python": platform.python_version(),
    }


def _commit(sources: Sequence[str]) -> str:
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
        watched = [*sources, *(path.name for path in here.glob("*.py"))]
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *watched], check=False, capture_output=True)
    except FileNotFoundError:
        return "unknown"
    if head.returncode:
        return "unknown"
    return head.stdout.strip() + ("-dirty" if changed.returncode else "")
