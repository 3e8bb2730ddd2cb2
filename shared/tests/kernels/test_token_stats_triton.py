"""The Triton kernels under the interpreter, against float64 and against the torch backend."""

import importlib.util
import os
from importlib.metadata import version

import pytest
import torch
from torch import Tensor

from corollary.kernels import STATISTICS, token_stats

HAS_TRITON = importlib.util.find_spec("triton") is not None
# Triton 3.6, which torch 2.11 brings, converts arrays to numbers in a way that numpy 2.4 refuses.
OLD_INTERPRETER = HAS_TRITON and tuple(map(int, version("triton").split(".")[:2])) < (3, 7)

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed"),
    pytest.mark.skipif(OLD_INTERPRETER, reason="the interpreter of Triton before 3.7 does not work with numpy 2.4"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET is not 1"),
]


def values_and_gradients(logits: Tensor, targets: Tensor, *, backend: str, **options) -> list[Tensor]:
    """All statistics, the gradient of each alone, and that of a mixture."""
    stats = options.pop("stats", STATISTICS)
    z = logits.detach().requires_grad_()
    result = token_stats(z, targets, stats=stats, backend=backend, **options)
    outputs = [getattr(result, name) for name in stats]
    weights = torch.linspace(-1, 2, targets.numel()).view(targets.shape).to(result.log_z.dtype)
    gradients = [torch.autograd.grad(out, z, weights, retain_graph=True)[0] for out in outputs]
    mixed = sum((i + 1) * (weights * out).sum() for i, out in enumerate(outputs))
    return [*(out.detach() for out in outputs), result.log_z, *gradients, torch.autograd.grad(mixed, z)[0]]


def assert_backends_agree(logits: Tensor, targets: Tensor, *, atol: float, rtol: float = 1e-5, **options) -> None:
    ours = values_and_gradients(logits, targets, backend="triton", **options)
    expected = values_and_gradients(logits, targets, backend="torch", **options)
    for i, (one, other) in enumerate(zip(ours, expected, strict=True)):
        torch.testing.assert_close(one, other, atol=atol, rtol=rtol, msg=lambda m, i=i: f"result {i}: {m}")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 128 columns, so that few columns already need several, and a ragged last one."""
    monkeypatch.setattr("corollary.kernels._triton.MAX_BLOCK", 128)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("columns", [1, 2, 3, 127, 128, 129, 1000, 5003])
def test_every_vocabulary_size_is_summed_completely(columns: int, problem) -> None:
    logits, targets = problem(4, columns)
    targets[-1] = columns - 1
    assert_backends_agree(logits.double(), targets, temperature=0.7, atol=1e-12)


@pytest.mark.parametrize("columns", [1000, 5003])
def test_the_default_tile_in_float32_is_near_float64(columns: int, problem, reference) -> None:
    logits, targets = problem(4, columns)
    ours = token_stats(logits, targets, stats=STATISTICS, backend="triton")
    for name, tolerance in zip(STATISTICS, (1e-5, 1e-5, 1e-6, 1e-6, 5e-5), strict=True):
        actual, expected = getattr(ours, name), getattr(reference(logits, targets), name)
        torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=1e-6)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_a_maximum_that_rises_with_every_tile_is_carried_over(order: str, problem) -> None:
    logits, targets = problem(3, 700, scale=4.0)
    logits = logits.double().sort(-1, descending=order == "descending").values
    assert_backends_agree(logits, targets, temperature=0.5, atol=1e-12)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("offset", [0.0, 5000.0])
def test_entropy_error_does_not_grow_with_a_constant_offset(offset: float, problem, reference) -> None:
    logits, targets = problem(4, 1000)
    logits = logits + offset
    ours = token_stats(logits, targets, stats=("entropy",), backend="triton").entropy
    torch.testing.assert_close(ours.double(), reference(logits, targets).entropy, atol=3e-6, rtol=0)


@pytest.mark.usefixtures("small_tiles")
def test_one_hot_rows_are_certain() -> None:
    logits = torch.zeros(2, 300)
    logits[0, 4] = logits[1, 299] = 1000.0
    stats = token_stats(logits, torch.tensor([4, 299]), stats=STATISTICS, backend="triton")
    torch.testing.assert_close(
        torch.stack(list(stats)), torch.tensor([0.0, 0, 1, 0, 0, 1000])[:, None].expand(6, 2), atol=0, rtol=0
    )


@pytest.mark.usefixtures("small_tiles")
def test_minus_infinity_adds_nothing_even_in_whole_tiles(problem) -> None:
    logits, targets = problem(4, 600)
    logits = logits.double()
    logits[0, :130] = -torch.inf
    logits[1, 128:384] = -torch.inf
    logits[2, 500:] = -torch.inf
    logits[3, 1:] = -torch.inf
    targets = torch.tensor([135, 2, 0, 0])
    assert_backends_agree(logits, targets, atol=1e-12)


def test_an_impossible_token_has_log_probability_minus_infinity_and_no_gradient(problem) -> None:
    logits, targets = problem(3, 20)
    logits[1, targets[1]] = -torch.inf
    z = logits.requires_grad_()
    log_prob = token_stats(z, targets, backend="triton").log_prob
    (gradient,) = torch.autograd.grad(log_prob, z, torch.tensor([1.0, torch.nan, 1.0]))
    assert log_prob.isneginf().tolist() == [False, True, False]
    assert (gradient[1] == 0).all()
    assert (gradient[0] != 0).all()


# numpy, which carries the interpreter, warns of what the kernel does on purpose here.
@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero):RuntimeWarning")
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("bad", ["nan", "plus infinity", "only minus infinity"])
def test_a_row_without_a_distribution_is_nan_and_only_that_row(bad: str, problem) -> None:
    logits, targets = problem(3, 300)
    if bad == "nan":
        logits[1, 200] = torch.nan
    elif bad == "plus infinity":
        logits[1, 200] = torch.inf
    else:
        logits[1] = -torch.inf
    stats = token_stats(logits, targets, stats=STATISTICS, backend="triton")
    assert [field.isnan().tolist() for field in stats] == [[False, True, False]] * 6


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("temperature", ["scalar", "per token", "per sample"])
@pytest.mark.parametrize("masked", [False, True])
def test_masks_and_temperatures(temperature: str, masked: bool, problem) -> None:
    logits, targets = problem(2, 4, 150)
    logits = logits.double()
    per_token = torch.linspace(0.3, 3, 8).view(2, 4)
    tau = {"scalar": 0.7, "per token": per_token, "per sample": per_token[:, :1]}[temperature]
    mask = None
    if masked:
        mask = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1]])
        logits[mask == 0] = torch.nan
        targets[mask == 0] = -100
    assert_backends_agree(logits, targets, temperature=tau, mask=mask, atol=1e-12)


@pytest.mark.parametrize("layout", ["sequence slice", "vocabulary first", "expanded"])
def test_strides_do_not_matter(layout: str, problem) -> None:
    logits, targets = problem(3, 4, 20)
    if layout == "sequence slice":
        logits, targets = logits[:, :-1], targets[:, :-1]
    elif layout == "vocabulary first":
        logits = logits.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    else:
        logits = logits[:1].expand(3, -1, -1)
    ours = values_and_gradients(logits, targets, backend="triton")
    expected = values_and_gradients(logits.contiguous(), targets, backend="triton")
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype: torch.dtype, problem) -> None:
    logits, targets = problem(3, 200)
    # One unit in the last place: the interpreter cuts where hardware rounds.
    assert_backends_agree(logits.to(dtype), targets, atol=2e-5, rtol=8e-3)


@pytest.mark.parametrize("name", STATISTICS)
def test_one_statistic_alone(name: str, problem) -> None:
    logits, targets = problem(3, 50)
    assert_backends_agree(logits.double(), targets, stats=(name,), atol=1e-12)


@pytest.mark.parametrize("transposed", [False, True])
def test_inplace_backward_writes_into_the_logits(transposed: bool, problem) -> None:
    weights, targets = problem(4, 30)
    weights.requires_grad_()
    mask = torch.tensor([1, 0, 1, 1])
    results = []
    for inplace in (False, True):
        logits = (weights.t() * 1.5).t() if transposed else weights * 1.5
        stats = token_stats(logits, targets, mask=mask, backend="triton", inplace_backward=inplace)
        results.append(torch.autograd.grad(stats.entropy.sum(), [logits, weights]))
    assert results[1][0].data_ptr() == logits.data_ptr()
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_row_has_the_same_bits_in_every_company(problem) -> None:
    logits, targets = problem(5, 300)
    together = values_and_gradients(logits, targets, backend="triton")
    shorter = token_stats(logits[2:4], targets[2:4], stats=STATISTICS, backend="triton")
    for one, other in zip(together[:6], shorter, strict=True):
        assert torch.equal(one[2:4], other)


def test_no_rows_give_no_results() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    stats = token_stats(logits, torch.zeros(0, dtype=torch.long), backend="triton")
    stats.entropy.sum().backward()
    assert logits.grad.shape == (0, 5)


def test_without_the_interpreter_cpu_tensors_are_refused(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corollary.kernels._triton.INTERPRETED", False)
    logits, targets = problem(2, 3)
    with pytest.raises(ValueError, match="expected CUDA tensors, got cpu"):
        token_stats(logits, targets, backend="triton")


def test_a_missing_triton_is_named(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    from corollary.kernels import _token_stats

    _token_stats._make_backend.cache_clear()
    monkeypatch.setattr(_token_stats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install triton"):
        token_stats(*problem(2, 3), backend="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_on_a_device_agree_with_the_torch_backend(problem) -> None:
    logits, targets = problem(64, 50257)
    assert_backends_agree(logits.cuda(), targets.cuda(), atol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("columns", [50257, 151936])
def test_on_a_device_a_row_has_the_same_bits_in_every_company_and_run(columns: int, problem) -> None:
    logits, targets = problem(40, columns)
    logits, targets = logits.cuda().bfloat16(), targets.cuda()
    together = values_and_gradients(logits, targets, backend="triton")
    again = values_and_gradients(logits, targets, backend="triton")
    assert all(torch.equal(one, other) for one, other in zip(together, again, strict=True))
    for rows in (slice(2, 4), slice(39, 40)):
        alone = token_stats(logits[rows], targets[rows], stats=STATISTICS, backend="triton")
        assert all(torch.equal(one[rows], other) for one, other in zip(together[:6], alone, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_logits_beyond_2_to_the_31_are_read_and_written_in_place(problem) -> None:
    rows, columns = 14400, 151936
    if rows * columns * 2 > 0.3 * torch.cuda.get_device_properties(0).total_memory:
        pytest.skip("needs 15 GB of memory")
    assert rows * columns > 2**31
    small, targets = problem(8, columns)
    last = small.cuda().bfloat16().requires_grad_()
    logits = torch.zeros(rows, columns, dtype=torch.bfloat16, device="cuda")
    logits[-8:] = last.detach()
    taken = torch.zeros(rows, dtype=torch.int64, device="cuda")
    taken[-8:] = targets.cuda()
    # As if a model had computed them: in-place gradients are refused for leaves.
    logits = logits.requires_grad_().mul(1.0)
    found = token_stats(logits, taken, stats=STATISTICS, backend="triton", inplace_backward=True)
    expected = token_stats(last, taken[-8:], stats=STATISTICS, backend="triton")
    assert all(torch.equal(one[-8:], other) for one, other in zip(found, expected, strict=True))
    (gradient,) = torch.autograd.grad(found.entropy.sum() + found.log_prob.sum(), logits)
    (wanted,) = torch.autograd.grad(expected.entropy.sum() + expected.log_prob.sum(), last)
    assert gradient.data_ptr() == logits.data_ptr()
    assert torch.equal(gradient[-8:], wanted)
