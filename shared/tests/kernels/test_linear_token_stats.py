"""The head without its logits: the same statistics and gradients as from the logits, in bounded memory."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from corollary.kernels import STATISTICS, linear_token_stats, token_stats


@pytest.fixture
def head():
    def make(rows: int | tuple[int, ...] = 7, width: int = 5, columns: int = 11, dtype=torch.float64, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        leading = (rows,) if isinstance(rows, int) else rows
        hidden = torch.randn(*leading, width, generator=generator, dtype=torch.float64).to(dtype)
        weight = torch.randn(columns, width, generator=generator, dtype=torch.float64).to(dtype)
        bias = torch.randn(columns, generator=generator, dtype=torch.float64).to(dtype)
        targets = torch.randint(columns, leading, generator=generator)
        return hidden, weight, bias, targets

    return make


def mixture(stats, *, seed: int = 3) -> Tensor:
    fields = [field for field in stats[:5] if field is not None]
    generator = torch.Generator().manual_seed(seed)
    return sum(((torch.randn(f.shape, generator=generator).to(f.dtype) * f).sum() for f in fields), torch.zeros(()))


def from_logits(hidden, weight, targets, *, bias=None, softcap=None, **options):
    logits = linear(hidden, weight, bias)
    return token_stats(logits if softcap is None else softcap * torch.tanh(logits / softcap), targets, **options)


CHUNKS = {"one chunk": 1 << 20, "chunks of two rows": 2 * 11 * 8, "chunks of one row": 1}


@pytest.mark.parametrize("chunk_bytes", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("temperature", [1.0, 0.6, "per token"])
def test_values_and_gradients_agree_with_those_from_the_logits(
    chunk_bytes: int, with_bias: bool, softcap: float | None, temperature, head
) -> None:
    hidden, weight, bias, targets = head()
    tau = torch.linspace(0.4, 2, 7).double() if temperature == "per token" else temperature
    leaves = [t.requires_grad_() for t in ([hidden, weight, bias] if with_bias else [hidden, weight])]
    options = {"bias": bias if with_bias else None, "softcap": softcap, "temperature": tau, "stats": STATISTICS}
    ours = linear_token_stats(hidden, weight, targets, chunk_bytes=chunk_bytes, **options)
    expected = from_logits(hidden, weight, targets, **options)
    torch.testing.assert_close(tuple(ours), tuple(expected), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(mixture(ours), leaves),
        torch.autograd.grad(mixture(expected), leaves),
        atol=1e-11,
        rtol=1e-11,
    )


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradients_agree_with_finite_differences(name: str, softcap: float | None, head) -> None:
    hidden, weight, bias, targets = head(4, 3, 6)

    def statistic(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        stats = linear_token_stats(
            h, w, targets, bias=b, softcap=softcap, temperature=0.8, stats=(name,), chunk_bytes=100
        )
        return getattr(stats, name)

    assert torch.autograd.gradcheck(statistic, tuple(t.requires_grad_() for t in (hidden, weight, bias)), atol=1e-7)


@pytest.mark.parametrize("needed", ["hidden", "weight", "bias"])
def test_a_gradient_is_computed_for_what_needs_one(needed: str, head, monkeypatch: pytest.MonkeyPatch) -> None:
    from corollary.kernels import _linear_function

    hidden, weight, bias, targets = head()
    tensors = {"hidden": hidden, "weight": weight, "bias": bias}
    products: list[int] = []
    original = _linear_function.add_product
    monkeypatch.setattr(_linear_function, "add_product", lambda *a: (products.append(1), original(*a))[0])
    tensors[needed].requires_grad_()
    linear_token_stats(**tensors, targets=targets).entropy.sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is not None] == [needed]
    assert bool(products) == (needed == "weight")


def test_masked_rows_are_neither_read_nor_written(head) -> None:
    hidden, weight, bias, targets = head((3, 4))
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]])
    options = {"bias": bias, "stats": STATISTICS, "chunk_bytes": 200}
    results = []
    for poison in (False, True):
        h, w, y = hidden.clone(), weight.clone().requires_grad_(), targets.clone()
        temperature = torch.ones(3, 4)
        if poison:
            h[mask == 0] = torch.nan
            y[mask == 0] = -100
            temperature[mask == 0] = torch.nan
        h.requires_grad_()
        stats = linear_token_stats(h, w, y, mask=mask, temperature=temperature, **options)
        results.append([*stats, *torch.autograd.grad(mixture(stats), [h, w])])
    clean, poisoned = results
    assert all(torch.equal(one, other) for one, other in zip(clean, poisoned, strict=True))
    assert all((field[mask == 0] == 0).all() for field in clean[:7])
    kept = mask.bool()
    whole = linear_token_stats(hidden[kept], weight, targets[kept], **options)
    torch.testing.assert_close([field[kept] for field in clean[:6]], list(whole))
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    expected = mixture(from_logits(hidden, weight, targets, bias=bias, mask=mask, stats=STATISTICS))
    torch.testing.assert_close(clean[6:], list(torch.autograd.grad(expected, leaves)))


def test_no_tensor_of_all_logits_is_ever_allocated(head, allocations) -> None:
    rows, width, columns, chunk = 512, 8, 1000, 40
    hidden, weight, bias, targets = head(rows, width, columns, torch.float32)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    chunk_bytes = chunk * columns * 4
    for softcap in (None, 3.0):
        with allocations() as seen:
            stats = linear_token_stats(
                hidden, weight, targets, bias=bias, softcap=softcap, stats=STATISTICS, chunk_bytes=chunk_bytes
            )
            torch.autograd.grad(mixture(stats), leaves)
        # The torch backend's own temporaries are at most CHUNK_BYTES; a chunk is at most chunk_bytes.
        assert seen.largest <= chunk_bytes
    with allocations() as seen:
        torch.autograd.grad(mixture(from_logits(hidden, weight, targets, bias=bias, stats=STATISTICS)), leaves)
    assert seen.largest == rows * columns * 4


def test_a_cap_shares_the_bytes_between_logits_and_gradient(head, allocations) -> None:
    hidden, weight, _, targets = head(64, 4, 4096, torch.float32)
    weight.requires_grad_()
    with allocations() as seen:
        stats = linear_token_stats(hidden, weight, targets, softcap=2.0, stats=("log_prob",), chunk_bytes=32 * 4096 * 4)
        stats.log_prob.sum().backward()
    assert seen.largest == 16 * 4096 * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_weight_gradient_of_many_low_precision_rows_is_summed_in_float32(dtype: torch.dtype, head) -> None:
    hidden, weight, _, targets = head(2000, 4, 6, dtype)
    hidden = (hidden.abs() + 1).detach()
    weight.requires_grad_()
    chunk_bytes = 8 * 6 * 2
    stats = linear_token_stats(hidden, weight, targets.clamp(max=0), stats=("log_prob",), chunk_bytes=chunk_bytes)
    stats.log_prob.sum().backward()
    exact = weight.detach().double().requires_grad_()
    logits = (hidden.double() @ exact.T).detach()
    p = (logits + (logits.to(dtype).double() - logits)).softmax(-1)
    expected = (torch.nn.functional.one_hot(targets.clamp(max=0), 6) - p).T @ hidden.double()
    # 250 chunks: with a low-precision running sum the error would be some per cent.
    torch.testing.assert_close(weight.grad.double(), expected, rtol=6e-3, atol=expected.abs().max().item() * 2e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_products_are_taken_in_column_blocks_and_not_rounded(
    dtype: torch.dtype, head, monkeypatch: pytest.MonkeyPatch
) -> None:
    from corollary.kernels import _linear_products

    assert not _linear_products.adds_into_wide(dtype, torch.device("cpu"))
    monkeypatch.setattr(_linear_products, "WIDEN_BYTES", 4 * 9 * 4)
    hidden, gradient, _, _ = head(9, 11, 5, dtype)
    gradient = gradient.repeat(2, 1)[:9, :11]
    total, written = torch.ones(11, 11), torch.empty(11, 11, dtype=dtype)
    _linear_products.add_product(total, gradient, hidden)
    _linear_products.write_product(written, gradient, hidden)
    torch.testing.assert_close(total, 1 + gradient.float().T @ hidden.float())
    torch.testing.assert_close(written, (gradient.float().T @ hidden.float()).to(dtype), rtol=1e-2, atol=0)


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 2 * 40 * 11, 1])
@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision_gradients_by_blocks_of_columns_are_those_of_the_rounded_logits(
    chunk_bytes: int, softcap: float | None, masked: bool, autocast: bool, head
) -> None:
    generator = torch.Generator().manual_seed(5)
    kind = torch.float32 if autocast else torch.bfloat16
    # Small integers, so that hidden states, weights and (without a cap) logits are exact in bfloat16.
    hidden = torch.randint(-3, 4, (3, 4, 10), generator=generator).to(kind)
    weight = torch.randint(-1, 2, (40, 10), generator=generator).to(kind)
    bias = torch.randint(-2, 3, (40,), generator=generator).to(kind)
    targets = torch.randint(40, (3, 4), generator=generator)
    mask = torch.arange(12).view(3, 4) % 5 != 1 if masked else None
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    options = {"mask": mask, "temperature": torch.linspace(2, 5, 12).view(3, 4), "stats": STATISTICS}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = linear_token_stats(
            *leaves[:2], targets, bias=leaves[2], softcap=softcap, chunk_bytes=chunk_bytes, **options
        )
    gradients = torch.autograd.grad(mixture(ours), leaves)
    assert [g.dtype for g in gradients] == [kind] * 3
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = mixture(from_logits(*exact[:2], targets, bias=exact[2], softcap=softcap, **options))
    for one, other in zip(gradients, torch.autograd.grad(expected, exact), strict=True):
        # Gradients of logits are rounded to bfloat16, of a cap logits too.
        atol = float(other.abs().max()) * (8e-3 if softcap is None else 3e-2)
        torch.testing.assert_close(one.double(), other, atol=atol, rtol=1e-2)


def test_a_low_precision_weight_gradient_takes_no_float32_memory_of_its_size(
    head, allocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    from corollary.kernels import _linear_products

    monkeypatch.setattr(_linear_products, "WIDEN_BYTES", 1 << 12)
    rows, width, columns = 32, 64, 2000
    hidden, weight, _, targets = head(rows, width, columns, torch.bfloat16)
    weight.requires_grad_()
    hidden.requires_grad_()
    chunk_bytes = 4 * columns * 2
    stats = linear_token_stats(hidden, weight, targets, stats=("log_prob",), chunk_bytes=chunk_bytes)
    with allocations() as seen:
        torch.autograd.grad(stats.log_prob.sum(), [hidden, weight])
    gradient = columns * width * 2
    assert seen.largest == gradient
    # The gradient itself; all else is small, and the logits that exist at one time are chunk_bytes at most.
    others = sorted(seen.sizes)[:-1]
    assert max(others) <= max(chunk_bytes, 250 * width * 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_agrees_with_the_logits_of_that_precision(dtype: torch.dtype, head) -> None:
    hidden, weight, bias, targets = head(6, 16, 50, dtype)
    ours = linear_token_stats(hidden, weight, targets, bias=bias, stats=STATISTICS)
    expected = from_logits(hidden, weight, targets, bias=bias, stats=STATISTICS)
    assert {field.dtype for field in ours} == {torch.float32}
    torch.testing.assert_close(tuple(ours), tuple(expected), atol=1e-5, rtol=1e-5)


def test_autocast_takes_products_in_its_dtype_and_sums_in_float32(head) -> None:
    hidden, weight, bias, targets = head(6, 16, 50, torch.float32)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_token_stats(hidden, weight, targets, bias=bias, stats=STATISTICS, chunk_bytes=300)
        gradients = torch.autograd.grad(mixture(ours), leaves)
        expected = from_logits(hidden, weight, targets, bias=bias, stats=STATISTICS)
        assert linear(hidden, weight, bias).dtype == torch.bfloat16
    assert [g.dtype for g in gradients] == [torch.float32] * 3
    torch.testing.assert_close(tuple(ours), tuple(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients, torch.autograd.grad(mixture(expected), leaves), atol=0.05, rtol=0.02)


def test_a_wide_position_slice_and_no_rows_work(head) -> None:
    hidden, weight, _, targets = head((3, 6))
    sliced = linear_token_stats(hidden[:, 1:-1], weight, targets[:, 1:-1])
    whole = linear_token_stats(hidden, weight, targets)
    torch.testing.assert_close(sliced.entropy, whole.entropy[:, 1:-1])
    weight.requires_grad_()
    nothing = linear_token_stats(hidden[:0], weight, targets[:0], stats=STATISTICS)
    mixture(nothing).backward()
    assert nothing.entropy.shape == (0, 6)
    assert (weight.grad == 0).all()


def test_backward_runs_twice_on_a_retained_graph_and_refuses_a_second_derivative(head) -> None:
    hidden, weight, _, targets = head()
    total = mixture(linear_token_stats(hidden.requires_grad_(), weight, targets)).square()
    (first,) = torch.autograd.grad(total, hidden, retain_graph=True)
    (second,) = torch.autograd.grad(total, hidden, create_graph=True)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()


def test_an_impossible_token_pulls_at_nothing(head) -> None:
    hidden, weight, bias, targets = head()
    bias[targets[2]] = -torch.inf
    hidden.requires_grad_()
    log_prob = linear_token_stats(hidden, weight, targets, bias=bias, stats=("log_prob",)).log_prob
    log_prob.sum().backward()
    assert log_prob[2] == -torch.inf
    assert (hidden.grad[2] == 0).all()


def test_it_agrees_with_the_formulas_of_verl_and_of_liger(head) -> None:
    # Both sum raw logits: H = log sum e^z - sum p z (verl's entropy_from_logits, Liger's fallback of its fused head).
    hidden, weight, _, targets = head(30, 16, 300, torch.float32)
    ours = linear_token_stats(hidden, weight, targets, chunk_bytes=7 * 300 * 4)
    z = hidden @ weight.T
    log_prob = z.gather(1, targets[:, None]).squeeze(1) - z.logsumexp(1)
    torch.testing.assert_close(ours.log_prob, log_prob, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(ours.entropy, z.logsumexp(1) - (z.softmax(1) * z).sum(1), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_it_agrees_with_ligers_fused_head_where_that_is_installed(head) -> None:
    operators = pytest.importorskip("liger_kernel.ops")
    hidden, weight, _, targets = head(30, 16, 300, torch.float32)
    leaves = [t.requires_grad_() for t in (hidden, weight)]
    loss, entropy = operators.LigerFusedLinearScaledCrossEntropyFunction.apply(*leaves, targets, 0.7, -100, 1, True)
    ours = linear_token_stats(*leaves, targets, temperature=0.7)
    torch.testing.assert_close(ours.log_prob, -loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.entropy, entropy, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad((ours.log_prob - 0.1 * ours.entropy).sum(), leaves),
        torch.autograd.grad((-loss - 0.1 * entropy).sum(), leaves),
        atol=1e-4,
        rtol=1e-4,
    )


H, W, B, Y = torch.zeros(2, 3, 4), torch.zeros(5, 4), torch.zeros(5), torch.zeros(2, 3, dtype=torch.long)
CASES = {
    "integer hidden": ({"hidden": H.long()}, r"hidden must be a floating tensor, got torch\.int64"),
    "no tensor": ({"weight": [1.0]}, "weight must be a floating tensor, got list"),
    "transposed weight": ({"weight": W.T}, r"weight must be \(V, D\) = \(V >= 1, 4\), got shape \(4, 5\)"),
    "weight of one axis": ({"weight": W[0]}, r"got shape \(4,\)"),
    "no vocabulary": ({"weight": W[:0]}, r"got shape \(0, 4\)"),
    "no width": ({"hidden": H[..., :0]}, r"hidden must be \(\.\.\., D\) with D >= 1"),
    "dtype": ({"weight": W.double()}, r"weight must have the dtype of hidden, torch\.float32, got torch\.float64"),
    "bias shape": ({"bias": B[:4]}, r"bias must be \(V,\) = \(5,\), got shape \(4,\)"),
    "targets shape": ({"targets": Y[:, :2]}, r"shape of hidden without its last axis, \(2, 3\), got \(2, 2\)"),
    "target too large": ({"targets": Y + 5}, r"0\.\.4 on valid tokens, got 5"),
    "cap zero": ({"softcap": 0.0}, r"softcap must be finite and > 0, or None, got 0\.0"),
    "cap nan": ({"softcap": float("nan")}, "softcap must be finite"),
    "chunk": ({"chunk_bytes": 0}, "chunk_bytes must be at least 1, got 0"),
    "temperature": ({"temperature": -1.0}, "temperature must be finite and > 0"),
    "statistic": ({"stats": ("skew",)}, "got 'skew'"),
    "backend": ({"backend": "numpy"}, "got 'numpy'"),
    "hidden nan": ({"hidden": H + torch.nan}, r"hidden states that are not finite on a valid token: row \(0, 0\)"),
    "bias nan": ({"bias": B + torch.nan}, r"bad logits on a valid token: row \(0, 0\) \(and 5 more\)"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_refused_with_expected_and_got(case) -> None:
    change, message = case
    with pytest.raises(ValueError, match=message):
        linear_token_stats(**{"hidden": H, "weight": W, "targets": Y, **change})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_device_it_agrees_with_the_logits(dtype: torch.dtype, head) -> None:
    hidden, weight, bias, targets = (t.cuda() for t in head(300, 64, 1001, dtype))
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    ours = linear_token_stats(hidden, weight, targets, bias=bias, stats=STATISTICS, chunk_bytes=1 << 16)
    expected = from_logits(hidden, weight, targets, bias=bias, stats=STATISTICS)
    torch.testing.assert_close(tuple(ours), tuple(expected), atol=1e-3, rtol=1e-3)
    gradients = torch.autograd.grad(mixture(ours.__class__(*(f.cpu() for f in ours))), leaves)
    wanted = torch.autograd.grad(mixture(expected.__class__(*(f.cpu() for f in expected))), leaves)
    torch.testing.assert_close(gradients, wanted, atol=0.1, rtol=0.05)
