"""Where a number came from: versions, machine and commit, without names of hosts, users or folders."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

VERSIONED_PACKAGES = ("torch", "transformers", "numpy", "corollary")
"""The packages whose versions decide numbers. A package that is not installed is left out."""


def describe_environment() -> dict[str, object]:
    """Versions and machine, as they are stored with every run."""
    return {"versions": describe_versions(), "machine": describe_machine()}


def describe_versions(*, also: tuple[str, ...] = ()) -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers.

    Args:
        also: Further distribution names to include.

    Returns:
        Name to version, `python` first. Packages that are not installed are left out.
    """
    versions = {"python": platform.python_version()}
    for name in (*VERSIONED_PACKAGES, *also):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_machine() -> dict[str, object]:
    """CPU model, usable cores, memory (GiB), GPU and operating system."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "gpu": _gpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def usable_cores() -> int:
    """Number of cores this process may use (its affinity, where the system has one), at least 1."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return max(1, os.process_cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def commit_of(folder: Path) -> str | None:
    """The git commit of the checkout that holds `folder`, or `None` outside a checkout.

    `-dirty` is appended when tracked files differ from the commit. Recorded results do not count as a
    difference, since they are written between two recordings from the same code.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(
        folder,
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":/",
        ":(top,exclude,glob)**/results/**",
    )
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str | None:
    # GIT_DIR and its kin point elsewhere inside a git hook; the checkout is asked, not the hook.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    if sys.platform == "darwin":
        try:
            answer = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"],
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            return answer.stdout.strip()
    return platform.processor() or platform.machine() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _gpu_model() -> str | None:
    """Model of the first NVIDIA GPU: as torch sees it where torch is loaded, otherwise as the driver tells.

    A process that has not needed torch so far is not made to import it for this.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None
