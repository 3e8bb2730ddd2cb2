"""The benchmark's page says what its CSVs say, and the script runs."""

import csv
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "page", raising=False)
    yield importlib.import_module("page")
    sys.modules.pop("page", None)


def test_the_page_is_written_from_the_figures_in_git(page):
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
    assert page.PLOT.stat().st_size > 10_000


def test_targets_are_judged_by_the_figures_and_not_without_them(page):
    forward = {
        **{"operation": "token_stats", "provider": "ours-triton", "mode": "forward", "stats": "all"},
        **{"N": "8192", "D": "", "V": "151936", "dtype": "bfloat16", "ms": "1.0", "limit": "4.0"},
        "percent_of_limit": "84.9",
    }
    bytes_moved = 2 * 8192 * 151936 * 2
    both = {**forward, "mode": "forward+backward", "ms": str(1.0 + 1e3 * bytes_moved / 0.8e12 / 4)}
    share, backward = (t for t in page.TARGETS if t.operation == "token_stats" and t.device == "cuda")
    assert share.verdict([]) == "not run on a GPU yet"
    assert share.verdict([forward]) == "**missed**: 84.9"
    assert share.verdict([{**forward, "percent_of_limit": "85.0"}]) == "**met**: 85"
    assert backward.verdict([forward]) == "not run"
    assert backward.value([forward, both]) == pytest.approx(80)
    *_, memory = page.TARGETS
    head = {**forward, "operation": "linear_token_stats", "mode": "forward+backward", "stats": "lp+H"}
    head |= {"D": "4096", "V": "131072", "peak_extra_bytes": str(2**29 + (8192 + 131072) * 4096 * 2)}
    assert memory.verdict([head]) == "**met**: 512"
    assert memory.verdict([{**head, "peak_extra_bytes": str(2**31 + 2**30)}]).startswith("**missed**")


def test_the_script_measures_a_small_problem_and_lists_what_is_absent(tmp_path):
    target = tmp_path / "small.csv"
    command = [sys.executable, str(BENCHMARKS / "kernels.py"), "--device", "cpu", "--no-compile", "--rounds", "1"]
    command += ["--shapes", "8x50", "--linear-shapes", "8x4x50", "--stats", "lp+H", "--csv", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with target.open(newline="") as file:
        lines = list(csv.DictReader(file))
    timed = {(r["operation"], r["provider"], r["mode"]) for r in lines if r["ms"]}
    for operation in ("token_stats", "linear_token_stats"):
        for provider in ("eager", "chunked", "ours-torch"):
            assert {(operation, provider, mode) for mode in ("forward", "forward+backward")} <= timed
    notes = {r["provider"]: r["note"] for r in lines}
    assert notes["liger-flsce"] == notes["ours-fused"] == "needs cuda"
    assert notes["cce"] == notes["liger-grpo"] == "computes log_prob only"
    assert all(float(r["value_error"]) < 1e-5 for r in lines if r["ms"])
    assert all(r["note"] for r in lines if not r["ms"])


# The compiler's own imports warn.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_provider_that_leaves_out_the_last_row_is_compared_on_the_others(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("kernels", "providers", "measuring"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    kernels, providers = (importlib.import_module(name) for name in ("kernels", "providers"))

    def all_but_the_last(inputs, targets, names):
        return tuple(column[:-1] for column in providers.textbook(inputs[0], targets, names))

    names = providers.STATISTICS["lp+H"]
    problem = kernels.Problem.make([5, 20], names, kernels.torch.float32, "cpu")
    value, gradient = kernels.largest_errors(providers.Provider("short", all_but_the_last), problem, names)
    assert value < 1e-5
    assert gradient < 1e-5
    problem.inputs[0].requires_grad_()
    (whole,) = kernels.once(providers.Provider("short", all_but_the_last), problem, names)
    assert (whole[-1] == 0).all()
    for name in ("kernels", "providers", "measuring"):
        sys.modules.pop(name, None)


# The compiler's own imports warn.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_provider_that_fails_is_listed_and_ends_nothing(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("kernels", "providers", "measuring"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    kernels = importlib.import_module("kernels")
    providers = importlib.import_module("providers")

    def fail(*_: object) -> None:
        raise MemoryError

    known = [providers.Provider("eager", fail), providers.providers("token_stats")[1]]
    monkeypatch.setattr(kernels, "providers", lambda operation: known)
    options = [
        "--device",
        "cpu",
        "--rounds",
        "1",
        "--shapes",
        "8x50",
        "--linear-shapes",
        "--csv",
        str(tmp_path / "x.csv"),
    ]
    monkeypatch.setattr(sys, "argv", ["kernels.py", *options])
    kernels.main()
    with (tmp_path / "x.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(r["provider"], r["note"], bool(r["ms"])) for r in lines[:2]] == [
        ("eager", "failed: MemoryError", False),
        ("chunked", "", True),
    ]
    assert lines[1]["ratio"] == "nan"
    for name in ("kernels", "providers", "measuring"):
        sys.modules.pop(name, None)
