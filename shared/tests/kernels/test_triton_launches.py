"""How the Triton kernels are launched: rows over several programs, offsets beyond 2^31, alignment, code for a GPU."""

import importlib.util
import math
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corollary.kernels import STATISTICS, linear_token_stats, token_stats
from corollary.kernels._rows import row_offsets

HAS_TRITON = importlib.util.find_spec("triton") is not None
OLD_INTERPRETER = HAS_TRITON and tuple(map(int, version("triton").split(".")[:2])) < (3, 7)
RESOURCES = Path(__file__).parents[3] / "benchmarks" / "kernel_resources.py"

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
interpreted = pytest.mark.skipif(
    OLD_INTERPRETER or os.environ.get("TRITON_INTERPRET") != "1", reason="no working interpreter of Triton"
)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corollary.kernels._triton.MAX_BLOCK", 64)


def mixture(stats) -> torch.Tensor:
    return sum((i + 1) * field.sum() for i, field in enumerate(stats[:5]))


@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("splits", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
def test_programs_that_share_a_row_give_its_statistics(splits: int, order: str, problem) -> None:
    logits, targets = problem(3, 333, scale=4.0)
    logits = logits.double()
    if order != "random":
        logits = logits.sort(-1, descending=order == "descending").values
    logits[1, 64:200] = -torch.inf
    targets = torch.tensor([332, 0, 64])
    options = {"stats": STATISTICS, "temperature": torch.tensor([0.5, 1.0, 2.0])}
    results = []
    for backend in ("triton", "torch"):
        z = logits.clone().requires_grad_()
        found = token_stats(z, targets, backend=backend, row_splits=splits, **options)
        results.append([*found, torch.autograd.grad(mixture(found), z)[0]])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-11)


@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero):RuntimeWarning")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_shared_row_without_a_distribution_is_nan(bad: float, problem) -> None:
    logits, targets = problem(3, 200)
    logits[1, 0 if bad == -torch.inf else 150 :] = bad
    found = token_stats(logits, targets, stats=STATISTICS, backend="triton", row_splits=3)
    assert [field.isnan().tolist() for field in found] == [[False, True, False]] * 6


@interpreted
@pytest.mark.usefixtures("small_tiles")
def test_the_vocabulary_and_not_the_number_of_rows_decides_about_sharing(problem, monkeypatch) -> None:
    from corollary.kernels import _triton

    seen: list[int] = []
    original = _triton.row_programs
    monkeypatch.setattr(_triton, "row_programs", lambda rows: (seen.append(original(rows)), seen[-1])[1])
    monkeypatch.setattr(_triton, "SPLIT_COLUMNS", 128)
    logits, targets = problem(4, 300)
    together = token_stats(logits, targets, stats=STATISTICS, backend="triton")
    alone = token_stats(logits[2:3], targets[2:3], stats=STATISTICS, backend="triton")
    small = token_stats(logits[:1, :128], targets[:1] % 128, stats=STATISTICS, backend="triton")
    assert seen == [3, 3, 1]
    assert small.entropy.isfinite().all()
    assert all(torch.equal(one[2:3], other) for one, other in zip(together, alone, strict=True))


@interpreted
@pytest.mark.parametrize("programs", [1, 2, 64])
def test_splitting_the_backward_pass_changes_no_bit(programs: int, problem, monkeypatch: pytest.MonkeyPatch) -> None:
    from corollary.kernels import _triton

    logits, targets = problem(2, 333)
    logits.requires_grad_()
    monkeypatch.setattr(_triton, "MAX_BLOCK", 64)
    gradients = []
    for count in (1, programs):
        monkeypatch.setattr(_triton, "BACKWARD_PROGRAMS", count)
        found = token_stats(logits, targets, stats=STATISTICS, backend="triton")
        gradients.append(torch.autograd.grad(mixture(found), logits)[0])
    assert torch.equal(*gradients)


@interpreted
@pytest.mark.parametrize("columns", [50257, 129920, 151936])
def test_large_ragged_vocabularies_keep_their_bounds_and_their_precision(columns: int, problem, reference) -> None:
    logits, targets = problem(2, columns)
    targets[0] = columns - 1
    ours = token_stats(logits, targets, stats=STATISTICS, backend="triton")
    exact = reference(logits, targets)
    assert (ours.log_prob <= 0).all()
    for name, tolerance in zip(STATISTICS, (1e-5, 1e-5, 1e-6, 1e-6, 5e-5), strict=True):
        torch.testing.assert_close(getattr(ours, name).double(), getattr(exact, name), atol=tolerance, rtol=1e-6)


@interpreted
@pytest.mark.usefixtures("small_tiles")
@given(
    st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=150),
    st.floats(0.1, 10),
    st.integers(1, 3),
)
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_statistics_respect_their_bounds(values: list[float], temperature: float, splits: int) -> None:
    logits, columns = torch.tensor([values], dtype=torch.float32), len(values)
    targets = torch.tensor([columns // 2])
    found = token_stats(logits, targets, temperature=temperature, stats=STATISTICS, backend="triton", row_splits=splits)
    slack = 1e-5
    assert found.log_prob.item() <= slack
    assert -slack <= found.entropy.item() <= math.log(columns) + slack
    assert (1 - slack) / columns <= found.sum_p2.item() <= 1 + slack
    assert -math.exp(-1) - slack <= found.sum_p2_log_p.item() <= slack
    assert found.varentropy.item() >= 0


# A difference of 3e38 overflows to -inf on the way to the floor, which numpy reports.
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@interpreted
@pytest.mark.usefixtures("small_tiles")
def test_a_jump_of_the_maximum_beyond_float32_squares_is_no_nan() -> None:
    logits = torch.zeros(1, 200)
    logits[0, :64], logits[0, 64:128] = -3e38, -1e25
    found = token_stats(logits, torch.tensor([150]), stats=STATISTICS, backend="triton", row_splits=1)
    shared = token_stats(logits, torch.tensor([150]), stats=STATISTICS, backend="triton", row_splits=4)
    assert torch.stack(list(found)).isfinite().all()
    torch.testing.assert_close(tuple(found), tuple(shared))
    torch.testing.assert_close(found.entropy, torch.tensor([math.log(72)]))


@interpreted
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_the_head_works_with_the_kernels(softcap: float | None, problem) -> None:
    hidden, targets = problem(2, 3, 4)
    weight, _ = problem(50, 4, seed=1)
    mask = torch.tensor([[1, 0, 1], [1, 1, 1]])
    results = []
    for backend in ("triton", "torch"):
        leaves = [t.double().requires_grad_() for t in (hidden, weight)]
        options = {"softcap": softcap, "mask": mask, "temperature": 0.7, "chunk_bytes": 4 * 50 * 8}
        found = linear_token_stats(*leaves, targets, stats=STATISTICS, backend=backend, **options)
        results.append([*found, *torch.autograd.grad(mixture(found), leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-11)


def test_bad_numbers_of_programs_are_refused(problem) -> None:
    with pytest.raises(ValueError, match="row_splits must be at least 1, or None, got 0"):
        token_stats(*problem(2, 3), row_splits=0)


def test_offsets_of_rows_are_exact_beyond_32_bits() -> None:
    shape, strides = (3, 70_000), (70_000 * 151_936 + 8, 151_936)
    offsets = row_offsets(shape, strides, torch.device("cpu"))
    assert offsets.dtype == torch.int64
    for b, t in ((0, 0), (0, 69_999), (2, 3), (2, 69_999)):
        assert offsets[b * shape[1] + t].item() == b * strides[0] + t * strides[1]
    assert offsets[-1] > 2**34


@interpreted
def test_the_kernels_reach_rows_beyond_2_to_the_31(problem, tmp_path: Path) -> None:
    # A sparse file: addresses without memory behind them, except for the rows that are used.
    stride, rows = 2**30 + 8, 4
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate((stride * (rows - 1) + 200) * 2)
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=stride * 3 + 200, dtype=torch.bfloat16)
    logits, targets = problem(rows, 200)
    far = torch.as_strided(memory, (rows, 200), (stride, 1))
    far.copy_(logits)
    near = far.clone()
    assert torch.equal(near, logits.bfloat16())
    expected, actual = (token_stats(z, targets, stats=STATISTICS, backend="triton") for z in (near, far))
    assert all(torch.equal(one, other) for one, other in zip(expected, actual, strict=True))
    weight = torch.ones((), requires_grad=True)
    gradients = []
    for z, inplace in ((near, False), (far, True)):
        moved = z.requires_grad_(False)
        moved = _Scaled.apply(weight, moved)
        found = token_stats(moved, targets, stats=STATISTICS, backend="triton", inplace_backward=inplace)
        gradients.append(torch.autograd.grad(mixture(found), moved)[0])
    assert gradients[1].data_ptr() == far.data_ptr()
    assert torch.equal(*gradients)


class _Scaled(torch.autograd.Function):
    """Logits in given memory that look as if a model had computed them."""

    @staticmethod
    def forward(ctx, weight, memory):
        return memory.view_as(memory)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.float().sum(), None


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [
        ((4, 32), (32, 1), 16),
        ((4, 32), (40, 1), 8),
        ((4, 33), (33, 1), 1),
        ((2, 3, 16), (64, 16, 1), 16),
        ((1, 33), (33, 1), 16),
        ((33,), (1,), 16),
    ],
)
def test_alignment_is_what_all_rows_share(shape: tuple[int, ...], strides: tuple[int, ...], expected: int) -> None:
    from corollary.kernels._triton import alignment

    assert alignment(torch.empty(2000).as_strided(shape, strides)) == expected


def test_the_kernels_compile_for_a_gpu_without_spilling_and_with_wide_pipelined_loads() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(RESOURCES)], capture_output=True, text=True, check=False, env=environment, timeout=280
    )
    if "ptxas" in done.stderr and done.returncode:
        pytest.skip("this build of Triton brings no assembler")
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 21
    for row in rows:
        assert row[4] == "0", row
        assert "cp.async 16 bytes" in row[7], row
    registers = {tuple(row[:3]): int(row[3]) for row in rows}
    # A statistic that is not asked for costs nothing, registers included.
    assert registers["forward", "bf16", "log_prob"] < registers["forward", "bf16", "all five"] <= 96
    assert all("wgmma" in row[7] for row in rows if row[:2] == ["fused head", "bf16"])
