"""The fused forward of the head: the chunked path's numbers, without logits, for every kind of row and memory."""

import importlib.util
import math
import os
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear

from corollary.kernels import STATISTICS, TokenStats, linear_token_stats

HAS_TRITON = importlib.util.find_spec("triton") is not None
OLD_INTERPRETER = HAS_TRITON and tuple(map(int, version("triton").split(".")[:2])) < (3, 7)

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
interpreted = pytest.mark.skipif(
    OLD_INTERPRETER or os.environ.get("TRITON_INTERPRET") != "1", reason="no working interpreter of Triton"
)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 and spans of 48 columns, so that a small problem has several of each, and ragged last ones."""
    from corollary.kernels import _triton_head

    tile = _triton_head.HeadTile(16, 16, 16, 4, 2)
    monkeypatch.setattr(_triton_head, "TILES", dict.fromkeys((2, 4, 8), (tile,)))
    monkeypatch.setattr(_triton_head, "SPAN_COLUMNS", 48)


@pytest.fixture
def head():
    def make(rows: int | tuple[int, ...] = 19, width: int = 21, columns: int = 133, dtype=torch.float64):
        generator = torch.Generator().manual_seed(0)
        leading = (rows,) if isinstance(rows, int) else rows
        hidden = torch.randn(*leading, width, generator=generator, dtype=torch.float64)
        weight = torch.randn(columns, width, generator=generator, dtype=torch.float64)
        bias = torch.randn(columns, generator=generator, dtype=torch.float64)
        targets = torch.randint(columns, leading, generator=generator)
        return hidden.to(dtype), weight.to(dtype), bias.to(dtype), targets

    return make


def mixture(stats: TokenStats) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    fields = [field for field in stats[:5] if field is not None]
    return sum(((torch.randn(f.shape, generator=generator).to(f) * f).sum() for f in fields), torch.zeros(()))


def values_and_gradients(hidden: Tensor, weight: Tensor, targets: Tensor, *, forward: str, bias=None, **options):
    leaves = [t.detach().requires_grad_() for t in (hidden, weight, *([] if bias is None else [bias]))]
    found = linear_token_stats(
        *leaves[:2],
        targets,
        bias=None if bias is None else leaves[2],
        stats=STATISTICS,
        backend="torch",
        forward=forward,
        **options,
    )
    return [*(field.detach() for field in found), *torch.autograd.grad(mixture(found), leaves)]


def assert_same_as_chunked(hidden: Tensor, weight: Tensor, targets: Tensor, *, atol: float = 1e-11, **options) -> None:
    ours, expected = (
        values_and_gradients(hidden, weight, targets, forward=forward, **options) for forward in ("fused", "chunked")
    )
    for i, (one, other) in enumerate(zip(ours, expected, strict=True)):
        torch.testing.assert_close(one, other, atol=atol, rtol=atol, msg=lambda m, i=i: f"result {i}: {m}")


@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.5])
@pytest.mark.parametrize("temperature", [1.0, "per token"])
def test_values_and_gradients_are_those_of_the_chunked_path(
    masked: bool, with_bias: bool, softcap: float | None, temperature, head
) -> None:
    hidden, weight, bias, targets = head()
    tau = torch.linspace(0.4, 2, 19).double() if temperature == "per token" else temperature
    mask = None
    if masked:
        mask = torch.arange(19) % 3 != 1
        hidden[~mask], targets[~mask] = torch.nan, -100
    assert_same_as_chunked(
        hidden, weight, targets, bias=bias if with_bias else None, softcap=softcap, temperature=tau, mask=mask
    )


@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("columns", [1, 2, 15, 16, 17, 48, 49, 97])
@pytest.mark.parametrize("width", [1, 16, 35])
def test_every_vocabulary_and_width_is_summed_completely(columns: int, width: int, head, reference) -> None:
    hidden, weight, _, targets = head(3, width, columns)
    targets[-1] = columns - 1
    ours = linear_token_stats(hidden, weight, targets, stats=STATISTICS, forward="fused")
    torch.testing.assert_close(tuple(ours), tuple(reference(linear(hidden, weight), targets)), atol=1e-11, rtol=1e-11)
    assert (ours.log_prob <= 0).all()


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_default_tiles_are_near_float64(dtype: torch.dtype, head, reference) -> None:
    hidden, weight, bias, targets = head(5, 70, 5003, dtype)
    ours = linear_token_stats(hidden, weight * 0.3, targets, bias=bias, stats=STATISTICS, forward="fused")
    # The logits as the head rounds them: what is summed, not what is multiplied, is compared here.
    exact = reference(linear(hidden, weight * 0.3, bias), targets)
    for name, tolerance in zip(STATISTICS, (1e-5, 1e-5, 1e-6, 1e-6, 5e-5), strict=True):
        actual = getattr(ours, name).double()
        torch.testing.assert_close(actual, getattr(exact, name), atol=tolerance, rtol=1e-5, msg=lambda m, n=name: n + m)


@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_a_maximum_that_rises_with_every_tile_and_span_is_carried_over(order: str, head) -> None:
    hidden, weight, bias, targets = head()
    bias = (bias * 10).sort(descending=order == "descending").values
    assert_same_as_chunked(hidden, weight, targets, bias=bias, temperature=0.5)


@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("offset", [0, 4096])
def test_entropy_error_does_not_grow_with_a_constant_offset(offset: int, reference) -> None:
    # Multiples of 1/8: products, sums and the offset are exact in float32.
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randint(-8, 8, (4, 20), generator=generator) / 8
    weight = torch.randint(-8, 8, (1000, 20), generator=generator) / 8
    bias, targets = torch.full((1000,), float(offset)), torch.randint(1000, (4,), generator=generator)
    ours = linear_token_stats(hidden, weight, targets, bias=bias, stats=("entropy",), forward="fused").entropy
    exact = reference(linear(hidden.double(), weight.double(), bias.double()), targets).entropy
    torch.testing.assert_close(ours.double(), exact, atol=3e-6, rtol=0)


@interpreted
@pytest.mark.usefixtures("small_tiles")
def test_minus_infinity_adds_nothing_even_in_whole_tiles_and_spans(head) -> None:
    hidden, weight, bias, targets = head()
    bias[:60], bias[100:120], bias[130] = -torch.inf, -torch.inf, -torch.inf
    targets = targets % 40 + 60
    assert_same_as_chunked(hidden, weight, targets, bias=bias)
    only = torch.full_like(bias, -torch.inf)
    only[70] = 0.0
    certain = linear_token_stats(hidden, weight, targets * 0 + 70, bias=only, stats=STATISTICS, forward="fused")
    for name, value in zip(STATISTICS, (0.0, 0.0, 1.0, 0.0, 0.0), strict=True):
        assert (getattr(certain, name) == value).all(), name


@interpreted
@pytest.mark.usefixtures("small_tiles")
def test_an_impossible_token_has_log_probability_minus_infinity_and_no_gradient(head) -> None:
    hidden, weight, bias, targets = head()
    bias[targets[2]] = -torch.inf
    hidden.requires_grad_()
    found = linear_token_stats(hidden, weight, targets, bias=bias, stats=("log_prob",), forward="fused")
    found.log_prob.sum().backward()
    assert found.log_prob[2] == -torch.inf
    assert (hidden.grad[2] == 0).all()
    assert (hidden.grad[0] != 0).any()


# numpy, which carries the interpreter, warns of what the kernel does on purpose here.
@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|All-NaN):RuntimeWarning")
@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("bad", ["nan", "infinity", "only minus infinity"])
def test_a_row_without_a_distribution_is_nan_and_only_that_row(bad: str, head) -> None:
    hidden, weight, bias, targets = head(4)
    weight, rows = weight.abs(), [False, True, False, False]
    if bad == "only minus infinity":
        bias, rows = torch.full_like(bias, -torch.inf), [True] * 4
    else:
        hidden[1, 3] = torch.nan if bad == "nan" else torch.inf
    found = linear_token_stats(hidden, weight, targets, bias=bias, stats=STATISTICS, forward="fused")
    assert [field.isnan().tolist() for field in found] == [rows] * 6


@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_alone_has_the_bits_it_has_among_others(name: str, head) -> None:
    hidden, weight, _, targets = head()
    alone = linear_token_stats(hidden, weight, targets, stats=(name,), forward="fused")
    together = linear_token_stats(hidden, weight, targets, stats=STATISTICS, forward="fused")
    assert torch.equal(getattr(alone, name), getattr(together, name))
    assert sum(field is not None for field in alone) == 2


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("softcap", [None, 64.0])
def test_low_precision_logits_are_those_of_the_head(dtype: torch.dtype, softcap: float | None) -> None:
    # Small integers: sums are exact in both dtypes, since the interpreter cuts where hardware rounds. (The cap's tanh
    # is not exact, so with a cap float16 alone is compared.)
    if softcap and dtype == torch.bfloat16:
        pytest.skip("the interpreter does not round to bfloat16")
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randint(-3, 4, (6, 20), generator=generator).to(dtype)
    weight = torch.randint(-1, 2, (150, 20), generator=generator).to(dtype)
    targets = torch.randint(150, (6,), generator=generator)
    ours, expected = (
        values_and_gradients(hidden, weight, targets, forward=forward, softcap=softcap, temperature=4.0)
        for forward in ("fused", "chunked")
    )
    assert {field.dtype for field in ours[:6]} == {torch.float32}
    torch.testing.assert_close(ours[:6], expected[:6], atol=2e-5 if softcap is None else 2e-2, rtol=1e-5)
    torch.testing.assert_close(ours[6:], expected[6:], atol=2e-3 if softcap is None else 2e-2, rtol=1e-2)


@interpreted
def test_logits_are_rounded_as_the_head_rounds_them(reference) -> None:
    # 2048 + 1 is no float16 number. Unrounded, the second logit would be the larger.
    hidden = torch.tensor([[1.0, 1.0]], dtype=torch.float16)
    weight = torch.tensor([[2048.0, 0.0], [2048.0, 1.0]], dtype=torch.float16)
    found = linear_token_stats(hidden, weight, torch.tensor([0]), forward="fused")
    torch.testing.assert_close(found.entropy, torch.tensor([math.log(2.0)]))


@interpreted
@pytest.mark.usefixtures("small_tiles")
def test_autocast_takes_products_in_its_dtype(head) -> None:
    hidden = torch.randint(-3, 4, (6, 20), generator=torch.Generator().manual_seed(2)).float()
    # Rounded to bfloat16 the weight is +-1, so that the logits are exact in it.
    weight = torch.randint(0, 2, (50, 20), generator=torch.Generator().manual_seed(3)).mul(2).sub(1) * (1 + 2**-20)
    targets = torch.arange(6)
    with torch.autocast("cpu", torch.bfloat16):
        ours = values_and_gradients(hidden, weight, targets, forward="fused")
        expected = values_and_gradients(hidden, weight, targets, forward="chunked")
    assert {tensor.dtype for tensor in ours} == {torch.float32}
    torch.testing.assert_close(ours[:6], expected[:6], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[6:], expected[6:], atol=1e-3, rtol=1e-2)


@interpreted
@pytest.mark.usefixtures("small_tiles")
def test_a_row_has_the_same_bits_in_every_company(head) -> None:
    hidden, weight, _, targets = head(40, 21, 133, torch.float32)
    together = linear_token_stats(hidden, weight, targets, stats=STATISTICS, forward="fused")
    for rows in (slice(2, 4), slice(16, 40), slice(39, 40)):
        alone = linear_token_stats(hidden[rows], weight, targets[rows], stats=STATISTICS, forward="fused")
        assert all(torch.equal(one[rows], other) for one, other in zip(together, alone, strict=True))
    again = linear_token_stats(hidden, weight, targets, stats=STATISTICS, forward="fused")
    assert all(torch.equal(one, other) for one, other in zip(together, again, strict=True))


LAYOUTS = {
    "position slice": lambda h, w: (torch.cat([h, h[:, :1]], 1)[:, :-1], w),
    "swapped leading axes": lambda h, w: (h.transpose(0, 1).contiguous().transpose(0, 1), w),
    "width first": lambda h, w: (h.permute(2, 0, 1).contiguous().permute(1, 2, 0), w),
    "transposed weight": lambda h, w: (h, w.t().contiguous().t()),
    "weight of every second row": lambda h, w: (h, w.repeat_interleave(2, 0)[::2]),
}


@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_strides_do_not_matter(layout, head) -> None:
    hidden, weight, _, targets = head((3, 4))
    strange = layout(hidden, weight)
    assert not (strange[0].is_contiguous() and strange[1].is_contiguous())
    ours = linear_token_stats(*strange, targets, stats=STATISTICS, forward="fused")
    expected = linear_token_stats(hidden, weight, targets, stats=STATISTICS, forward="fused")
    torch.testing.assert_close(tuple(ours), tuple(expected), atol=1e-13, rtol=1e-13)


@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("rows", "stride"), [(4, 2**30 + 8), (34, 2**26 + 8)], ids=["in a tile", "between tiles"])
def test_hidden_states_beyond_2_to_the_31_are_reached(
    rows: int, stride: int, masked: bool, head, tmp_path: Path
) -> None:
    # A sparse file: addresses without memory behind them, except for the rows that are used.
    width = 24
    size = stride * (rows - 1) + width
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(size * 2)
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=size, dtype=torch.float16)
    hidden, weight, _, targets = head(rows, width, 40, torch.float16)
    far = torch.as_strided(memory, (rows, width), (stride, 1))
    far.copy_(hidden)
    mask = torch.arange(rows) != 1 if masked else None
    expected, actual = (
        linear_token_stats(h, weight, targets, mask=mask, stats=STATISTICS, forward="fused") for h in (hidden, far)
    )
    assert all(torch.equal(one, other) for one, other in zip(expected, actual, strict=True))


@interpreted
@pytest.mark.usefixtures("small_tiles")
@given(
    st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=120),
    st.floats(0.1, 10),
)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_statistics_respect_their_bounds(values: list[float], temperature: float) -> None:
    weight, columns = torch.tensor(values).unsqueeze(-1), len(values)
    targets = torch.tensor([columns // 2])
    found = linear_token_stats(
        torch.ones(1, 1), weight, targets, temperature=temperature, stats=STATISTICS, forward="fused"
    )
    slack = 1e-5
    assert found.log_prob.item() <= 0
    assert -slack <= found.entropy.item() <= math.log(columns) + slack
    assert (1 - slack) / columns <= found.sum_p2.item() <= 1 + slack
    assert -math.exp(-1) - slack <= found.sum_p2_log_p.item() <= slack
    assert found.varentropy.item() >= 0


@interpreted
@pytest.mark.usefixtures("small_tiles")
def test_no_logits_are_allocated_forward(head, allocations) -> None:
    hidden, weight, _, targets = head(32, 4, 480, torch.float32)
    sizes = {}
    for forward in ("fused", "chunked"):
        with allocations() as seen:
            linear_token_stats(hidden, weight, targets, stats=STATISTICS, forward=forward)
        sizes[forward] = seen.largest
    assert sizes["chunked"] >= 32 * 480 * 4
    # Seven numbers for each of the ten spans of a row, or the interpreter's own copy of the weight.
    assert sizes["fused"] <= max(32 * 10 * 7 * 4, weight.nbytes)


@interpreted
def test_no_rows_give_no_results_and_a_zero_gradient(head) -> None:
    hidden, weight, _, targets = head((2, 3))
    weight.requires_grad_()
    none = linear_token_stats(hidden, weight, targets, mask=torch.zeros(2, 3), stats=STATISTICS, forward="fused")
    assert (torch.stack(list(none)) == 0).all()
    mixture(none).backward()
    assert (weight.grad == 0).all()
    assert linear_token_stats(hidden[:0], weight, targets[:0], forward="fused").entropy.shape == (0, 3)


@interpreted
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.filterwarnings("ignore")
def test_the_operator_passes_the_choice_on(head) -> None:
    torch.compiler.reset()
    hidden, weight, _, targets = head(5, 6, 50)

    def loss(h: Tensor) -> Tensor:
        found = linear_token_stats(h, weight, targets, backend="torch", forward="fused")
        return (found.log_prob * found.entropy).sum()

    gradients, totals = [], []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="eager")):
        leaf = hidden.clone().requires_grad_()
        totals.append(function(leaf))
        gradients.append(torch.autograd.grad(totals[-1], leaf)[0])
    assert torch.equal(*gradients)
    assert torch.equal(*totals)
    torch.compiler.reset()


def test_tiles_depend_on_the_vocabulary_the_width_and_the_shared_memory() -> None:
    from corollary.kernels._triton_head import TILES, head_tile

    assert head_tile(2, 151936, 4096) == TILES[2][0]
    assert head_tile(2, 151936, 4096, shared_bytes=99 << 10) == TILES[2][1]
    assert head_tile(2, 151936, 4096, shared_bytes=1) == TILES[2][-1]
    small = head_tile(4, 20, 3)
    assert (small.rows, small.columns, small.width) == (TILES[4][0].rows, 32, 16)


def test_bad_choices_are_refused(head, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, _, targets = head()
    with pytest.raises(ValueError, match="forward must be one of chunked, fused; got 'best'"):
        linear_token_stats(hidden, weight, targets, forward="best")
    monkeypatch.setattr("corollary.kernels._triton_head.INTERPRETED", False)
    monkeypatch.setattr("corollary.kernels._triton.INTERPRETED", False)
    with pytest.raises(ValueError, match="forward 'fused' expected CUDA tensors, got cpu"):
        linear_token_stats(hidden, weight, targets, forward="fused")
    monkeypatch.setattr("corollary.kernels._linear.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="forward 'fused' needs the package triton: pip install triton"):
        linear_token_stats(hidden, weight, targets, forward="fused")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_on_a_device_it_agrees_with_the_chunked_path(
    dtype: torch.dtype, masked: bool, softcap: float | None, head
) -> None:
    hidden, weight, bias, targets = (t.cuda() for t in head(300, 136, 10007, dtype))
    weight = weight * 0.2
    mask = torch.arange(300, device="cuda") % 3 != 1 if masked else None
    options = {"bias": bias, "softcap": softcap, "mask": mask, "stats": STATISTICS, "temperature": 0.8}
    ours, expected = (
        linear_token_stats(hidden, weight, targets, forward=forward, **options) for forward in ("fused", "chunked")
    )
    # A low-precision logit on an edge may be rounded either way.
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(tuple(ours), tuple(expected), atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_a_row_has_the_same_bits_in_every_company_and_run(head) -> None:
    hidden, weight, _, targets = (t.cuda() for t in head(300, 128, 20011, torch.bfloat16))
    together = linear_token_stats(hidden, weight, targets, stats=STATISTICS, forward="fused")
    for rows in (slice(0, 300), slice(5, 6), slice(100, 300)):
        alone = linear_token_stats(hidden[rows], weight, targets[rows], stats=STATISTICS, forward="fused")
        assert all(torch.equal(one[rows], other) for one, other in zip(together, alone, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_the_fused_forward_takes_no_memory_for_logits(head) -> None:
    hidden, weight, _, targets = (t.cuda() for t in head(2048, 64, 32000, torch.bfloat16))
    linear_token_stats(hidden, weight, targets, forward="fused")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_token_stats(hidden, weight, targets, forward="fused")
    assert torch.cuda.max_memory_allocated() - before < 2048 * 32000 * 2 // 16
