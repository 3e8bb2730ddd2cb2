"""Gradients: finite differences, autograd of the textbook formulas, single outputs, special rows."""

from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

import corollary.kernels._torch as torch_backend
from corollary.kernels import STATISTICS, token_stats
from corollary.kernels._function import row_coefficients

EXPECTED_TERMS = {
    "log_prob": {"a0", "target"},
    "entropy": {"a0", "a1"},
    "sum_p2": {"a0", "b0"},
    "sum_p2_log_p": {"a0", "b0", "b1"},
    "varentropy": {"a0", "a1", "a2"},
}


@pytest.fixture(params=["one chunk", "many chunks"])
def chunking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk keeps its exponentials for the backward pass, several compute them again."""
    if request.param == "many chunks":
        monkeypatch.setattr(torch_backend, "CHUNK_BYTES", 1)
        monkeypatch.setattr(torch_backend, "MIN_ROWS", 2)


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("names", [c for r in (1, 2, 5) for c in combinations(STATISTICS, r)], ids="+".join)
def test_gradient_agrees_with_finite_differences(names: tuple[str, ...], problem) -> None:
    logits, targets = problem(5, 6)
    logits = logits.double().requires_grad_()
    temperature = torch.linspace(0.5, 2.0, 5).double()

    def statistics(z: Tensor) -> tuple[Tensor, ...]:
        stats = token_stats(z, targets, stats=names, temperature=temperature)
        return tuple(getattr(stats, name) for name in names)

    assert torch.autograd.gradcheck(statistics, (logits,), atol=1e-7)


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradient_of_a_random_mixture_agrees_with_autograd(seed: int, temperature: float, problem, reference) -> None:
    logits, targets = problem(4, 3, 50, scale=3.0, seed=seed)
    logits = logits.double().requires_grad_()
    weights = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(seed)).double()

    def gradient(stats) -> Tensor:
        total = sum((w * value).sum() for w, value in zip(weights, stats[:5], strict=True))
        return torch.autograd.grad(total, logits)[0]

    ours = gradient(token_stats(logits, targets, temperature=temperature, stats=STATISTICS))
    torch.testing.assert_close(ours, gradient(reference(logits, targets, temperature)), atol=1e-13, rtol=1e-11)


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("offset", [0.0, 5000.0])
def test_float32_gradient_stays_near_float64_whatever_the_offset(offset: float, problem, reference) -> None:
    logits, targets = problem(6, 2000)
    logits = (logits + offset).requires_grad_()
    weights = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    ours = token_stats(logits, targets, stats=STATISTICS)
    (gradient,) = torch.autograd.grad(ours[:5], logits, list(weights))
    assert gradient.dtype == torch.float32
    exact = reference(logits, targets)
    (expected,) = torch.autograd.grad(exact[:5], logits, list(weights.double()))
    torch.testing.assert_close(gradient, expected, atol=3e-6, rtol=1e-5)
    # Adding a constant to a row changes no statistic.
    assert gradient.double().sum(-1).abs().max() < 2e-5


@pytest.mark.parametrize("name", STATISTICS)
def test_each_gradient_row_sums_to_zero(name: str, problem) -> None:
    logits, targets = problem(7, 60)
    logits = logits.double().requires_grad_()
    getattr(token_stats(logits, targets, stats=(name,)), name).sum().backward()
    assert logits.grad.abs().max() > 1e-3
    assert logits.grad.sum(-1).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gradient_is_the_rounded_float32_one(dtype: torch.dtype, problem) -> None:
    logits, targets = problem(5, 300)
    low = logits.to(dtype).requires_grad_()
    wide = low.detach().float().requires_grad_()
    for z in (low, wide):
        stats = token_stats(z, targets)
        (stats.log_prob - 2 * stats.entropy).sum().backward()
    assert low.grad.dtype == dtype
    assert torch.equal(low.grad, wide.grad.to(dtype))


@pytest.mark.parametrize("name", STATISTICS)
def test_a_gradient_at_one_output_computes_only_its_terms(name: str, problem, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def spy(rows, sums, gradients, *, impossible):
        coefficients = row_coefficients(rows, sums, gradients, impossible=impossible)
        assert set(gradients) == {name}
        seen.append({key for key, value in coefficients._asdict().items() if value is not None})
        return coefficients

    monkeypatch.setattr("corollary.kernels._function.row_coefficients", spy)
    logits, targets = problem(3, 9)
    logits.requires_grad_()
    getattr(token_stats(logits, targets, stats=STATISTICS), name).sum().backward()
    assert seen == [EXPECTED_TERMS[name]]


def test_requesting_more_does_not_change_a_gradient(problem) -> None:
    logits, targets = problem(3, 9)
    logits.requires_grad_()
    one = token_stats(logits, targets, stats=STATISTICS)
    (alone,) = torch.autograd.grad(one.log_prob.sum(), logits)
    two = token_stats(logits, targets, stats=("log_prob",))
    (expected,) = torch.autograd.grad(two.log_prob.sum(), logits)
    assert torch.equal(alone, expected)


def test_the_normaliser_carries_no_gradient(problem) -> None:
    logits, targets = problem(3, 9)
    stats = token_stats(logits.requires_grad_(), targets, stats=STATISTICS)
    assert not stats.log_z.requires_grad
    assert all(field.requires_grad for field in stats[:5])


def test_no_graph_is_built_without_need(problem) -> None:
    logits, targets = problem(3, 9)
    assert not token_stats(logits, targets).entropy.requires_grad
    with torch.no_grad():
        assert not token_stats(logits.requires_grad_(), targets).entropy.requires_grad


def test_a_second_derivative_is_refused(problem) -> None:
    logits, targets = problem(3, 9)
    logits.requires_grad_()
    entropy = token_stats(logits, targets).entropy
    (gradient,) = torch.autograd.grad(entropy.square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_backward_may_run_twice_on_a_retained_graph(problem) -> None:
    logits, targets = problem(3, 9)
    logits.requires_grad_()
    stats = token_stats(logits, targets, stats=STATISTICS)
    total = sum(field.sum() for field in stats[:5])
    (first,) = torch.autograd.grad(total, logits, retain_graph=True)
    (second,) = torch.autograd.grad(total, logits)
    assert torch.equal(first, second)


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("name", STATISTICS)
def test_minus_infinity_has_no_gradient_and_leaves_that_of_the_others_alone(name: str, problem) -> None:
    logits, targets = problem(5, 12)
    allowed = torch.arange(12) % 4 != 3
    targets = targets // 4 * 4
    full = logits.double().masked_fill(~allowed, -torch.inf).requires_grad_()
    getattr(token_stats(full, targets, stats=(name,), temperature=0.8), name).sum().backward()
    short = logits.double()[:, allowed].requires_grad_()
    position = allowed.long().cumsum(0) - 1
    getattr(token_stats(short, position[targets], stats=(name,), temperature=0.8), name).sum().backward()
    assert (full.grad[:, ~allowed] == 0).all()
    torch.testing.assert_close(full.grad[:, allowed], short.grad, atol=1e-15, rtol=1e-12)


@pytest.mark.usefixtures("chunking")
@pytest.mark.parametrize("upstream", [1.0, float("nan"), float("inf")])
def test_log_probability_of_an_impossible_token_pulls_at_nothing(upstream: float, problem) -> None:
    logits, targets = problem(3, 8)
    logits[1, targets[1]] = -torch.inf
    logits.requires_grad_()
    stats = token_stats(logits, targets)
    weights = torch.tensor([1.0, upstream, 1.0])
    (both,) = torch.autograd.grad([stats.log_prob, stats.entropy], logits, [weights, torch.ones(3)], retain_graph=True)
    (entropy_only,) = torch.autograd.grad(stats.entropy.sum(), logits)
    assert torch.equal(both[1], entropy_only[1])
    assert both[1].abs().max() > 0
    assert both[1, targets[1]] == 0
    assert not torch.equal(both[0], entropy_only[0])


def test_inplace_backward_writes_the_same_gradient_into_the_logits(problem) -> None:
    weights, targets = problem(6, 30)
    weights.requires_grad_()
    mask = torch.tensor([1, 0, 1, 1, 0, 1])
    expected, actual = [], []
    for inplace, results in ((False, expected), (True, actual)):
        logits = weights * 1.5
        stats = token_stats(logits, targets, mask=mask, stats=STATISTICS, inplace_backward=inplace)
        total = sum(field.sum() for field in stats[:5])
        results += torch.autograd.grad(total, [logits, weights])
        if inplace:
            assert results[0].data_ptr() == logits.data_ptr()
    for one, other in zip(expected, actual, strict=True):
        assert torch.equal(one, other)


def test_inplace_backward_is_noticed_by_an_operation_that_saved_the_logits(problem) -> None:
    weights, targets = problem(6, 30)
    logits = weights.requires_grad_() * 1.5
    square = logits.square().sum()
    entropy = token_stats(logits, targets, inplace_backward=True).entropy.sum()
    torch.autograd.grad(entropy, logits, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (square + entropy).backward()


def test_a_changed_logit_is_noticed_before_a_wrong_gradient_is_made(problem) -> None:
    weights, targets = problem(6, 30)
    logits = weights.requires_grad_() * 1.5
    entropy = token_stats(logits, targets).entropy.sum()
    logits.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        entropy.backward()


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("masked", [False, True])
def test_results_may_be_changed_in_place(name: str, masked: bool, problem) -> None:
    logits, targets = problem(6, 9)
    logits.requires_grad_()
    mask = torch.tensor([1, 0, 1, 1, 1, 1]) if masked else None
    gradients = []
    for inplace in (False, True):
        stats = token_stats(logits, targets, stats=STATISTICS, mask=mask)
        field = getattr(stats, name)
        doubled = field.mul_(2.0) if inplace else field * 2.0
        total = doubled.sum() + sum(other.sum() for other in stats[:5] if other is not field)
        gradients.append(torch.autograd.grad(total, logits)[0])
    assert torch.equal(*gradients)


def test_a_kept_loss_does_not_keep_the_logits_alive(problem) -> None:
    weights, targets = problem(6, 9)
    logits = weights.requires_grad_() * 1.0
    memory = StorageWeakRef(logits.untyped_storage())
    loss = token_stats(logits, targets).entropy.sum()
    loss.backward()
    del logits
    assert memory.expired()
    assert loss.grad_fn is not None
