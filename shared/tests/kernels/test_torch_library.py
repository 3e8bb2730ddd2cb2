"""One graph under torch.compile with the same results, operators as torch checks them, and eager calls unchanged."""

import pytest
import torch
from torch import Tensor

from corollary.kernels import STATISTICS, TokenStats, linear_token_stats, token_stats

# The tracer's own imports and caches warn; none of it is ours.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

MASK = torch.tensor([[1, 0, 1], [1, 1, 1]])
TEMPERATURES = {"number": 0.7, "per token": torch.tensor([[0.5, 1.0, 2.0], [1.0, 0.3, 1.0]])}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def mixture(stats: TokenStats) -> Tensor:
    return sum((i + 1) * field.square().sum() for i, field in enumerate(stats[:5]) if field is not None)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("temperature", TEMPERATURES.values(), ids=TEMPERATURES)
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("stats", [("entropy", "log_prob"), STATISTICS], ids=["two", "all statistics"])
def test_token_stats_keeps_one_graph_with_the_bits_of_an_eager_call(
    compiler: str, temperature, mask: Tensor | None, stats: tuple[str, ...], problem
) -> None:
    logits, targets = problem(2, 3, 20)

    def loss(weights: Tensor) -> tuple[Tensor, TokenStats]:
        found = token_stats(weights * 2, targets, stats=stats, temperature=temperature, mask=mask)
        return mixture(found), found

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend=compiler)):
        weights = logits.clone().requires_grad_()
        total, found = function(weights)
        results.append([*(f for f in found if f is not None), torch.autograd.grad(total, weights)[0]])
        assert not found.log_z.requires_grad
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("autocast", [False, True])
def test_linear_token_stats_keeps_one_graph(compiler: str, autocast: bool, problem) -> None:
    hidden, _ = problem(2, 3, 6)
    weight, _ = problem(20, 6, seed=1)
    bias, _ = problem(20, seed=2)
    targets = torch.tensor([[0, 19, 3], [4, 5, 6]])

    def loss(h: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, TokenStats]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = linear_token_stats(
                h, w, targets, bias=b, softcap=3.0, mask=MASK, stats=STATISTICS, chunk_bytes=2 * 2 * 20 * 4
            )
        return mixture(found), found

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend=compiler)):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
        total, found = function(*leaves)
        results.append([*found, *torch.autograd.grad(total, leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_a_frozen_head_needs_no_weight_gradient_in_the_graph(problem) -> None:
    hidden, targets = problem(4, 6)
    weight, _ = problem(9, 6, seed=1)
    hidden.requires_grad_()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(h: Tensor) -> Tensor:
        return linear_token_stats(h, weight, targets).entropy.sum()

    loss(hidden).backward()
    expected = hidden.detach().requires_grad_()
    linear_token_stats(expected, weight, targets).entropy.sum().backward()
    assert torch.equal(hidden.grad, expected.grad)


def test_values_are_checked_when_the_graph_runs(problem) -> None:
    logits, targets = problem(2, 3, 20)
    compiled = torch.compile(lambda z, y: token_stats(z, y).entropy, fullgraph=True, backend="eager")
    compiled(logits, targets)
    with pytest.raises(ValueError, match=r"0\.\.19 on valid tokens, got 39"):
        compiled(logits, targets * 0 + 39)
    logits[0, 1] = torch.nan
    with pytest.raises(ValueError, match=r"NaN logits on a valid token: row \(0, 1\)"):
        compiled(logits, targets)


@pytest.mark.parametrize("masked", [False, True])
def test_the_operators_pass_torchs_own_checks(masked: bool, problem) -> None:
    logits, targets = problem(2, 3, 20)
    mask = MASK if masked else None
    tau = TEMPERATURES["per token"]
    for sample in (
        (logits.clone().requires_grad_(), targets, None, 0.7, mask, "entropy,sum_p2", "torch"),
        (logits.clone().requires_grad_(), targets, tau, 1.0, mask, ",".join(STATISTICS), "torch"),
    ):
        torch.library.opcheck(torch.ops.corollary.token_stats.default, sample)
    weight, _ = problem(9, 20, seed=1)
    bias, _ = problem(9, seed=2)
    leaves = [t.requires_grad_() for t in (logits, weight, bias)]
    options = (targets.clamp(max=8), tau, 1.0, 2.0, mask, ",".join(STATISTICS), 2, torch.float32, "torch")
    torch.library.opcheck(torch.ops.corollary.linear_token_stats.default, (*leaves, *options))


def test_eager_calls_do_not_go_through_the_dispatcher(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    from corollary.kernels import _token_stats

    def fail(*_: object) -> None:
        raise AssertionError("an eager call took the traced path")

    monkeypatch.setattr(_token_stats, "traced_result", fail)
    logits, targets = problem(4, 9)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        token_stats(logits.requires_grad_(), targets).entropy.sum().backward()
    assert not [event.key for event in profile.key_averages() if "corollary" in event.key]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_changes_no_bit_of_token_stats(dtype: torch.dtype, problem) -> None:
    logits, targets = problem(5, 300)
    results = []
    for enabled in (False, True):
        z = logits.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = token_stats(z, targets, stats=STATISTICS)
            gradient = torch.autograd.grad(mixture(found), z)[0]
        results.append([*found, gradient])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert {field.dtype for field in results[1][:6]} == {torch.float32}
