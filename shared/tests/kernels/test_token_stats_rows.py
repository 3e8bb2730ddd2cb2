"""Rows are independent: masks, temperatures per token, strides, chunks, threads."""

import pytest
import torch
from torch import Tensor

import corollary.kernels._torch as torch_backend
from corollary.kernels import STATISTICS, TokenStats, token_stats


def values_and_gradient(logits: Tensor, targets: Tensor, **options) -> tuple[Tensor, ...]:
    z = logits.detach().requires_grad_() if logits.is_leaf else logits
    stats = token_stats(z, targets, stats=STATISTICS, **options)
    total = sum((i + 1) * field.sum() for i, field in enumerate(stats[:5]))
    return (*(field.detach() for field in stats), torch.autograd.grad(total, z)[0])


MASKS = {
    "padding": [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]],
    "scattered": [[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]],
    "one token": [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
    "all": [[1, 1, 1, 1]] * 3,
    "none": [[0, 0, 0, 0]] * 3,
}


@pytest.mark.parametrize("pattern", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.bfloat16])
def test_masked_rows_are_zero_and_may_hold_anything(pattern, dtype: torch.dtype, problem) -> None:
    logits, targets = problem(3, 4, 20)
    mask = torch.tensor(pattern)
    hidden = mask == 0
    plain = values_and_gradient(logits, targets)
    logits[hidden] = torch.nan
    targets[hidden] = -100
    temperature = torch.where(hidden, 0.0, 1.0)
    masked = values_and_gradient(logits, targets, mask=mask.to(dtype), temperature=temperature)
    for expected, actual in zip(plain, masked, strict=True):
        assert (actual[hidden] == 0).all()
        assert torch.equal(actual[~hidden], expected[~hidden])


def test_masked_rows_are_not_read(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = torch_backend._sum_chunk

    def spy(rows, chunk, *rest):
        seen.append(chunk.logits.shape[0])
        return original(rows, chunk, *rest)

    monkeypatch.setattr(torch_backend, "_sum_chunk", spy)
    logits, targets = problem(100, 7)
    token_stats(logits, targets, mask=torch.arange(100) % 4 == 0)
    assert sum(seen) == 25


@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (4,), (3, 4)])
def test_temperature_broadcasts_to_the_leading_axes(shape: tuple[int, ...], problem) -> None:
    logits, targets = problem(3, 4, 15)
    logits = logits.double()
    temperature = torch.rand(shape, generator=torch.Generator().manual_seed(3)).double() + 0.5
    together = values_and_gradient(logits, targets, temperature=temperature)
    each = temperature.expand(3, 4)
    for b in range(3):
        for t in range(4):
            alone = values_and_gradient(logits[b, t], targets[b, t], temperature=each[b, t].item())
            for one, other in zip(together, alone, strict=True):
                torch.testing.assert_close(one[b, t], other, atol=1e-13, rtol=1e-12)


def test_temperature_is_the_same_as_dividing_the_logits(problem) -> None:
    logits, targets = problem(6, 15)
    logits = logits.double().requires_grad_()
    ours = token_stats(logits, targets, temperature=0.3, stats=STATISTICS)
    divided = token_stats(logits / 0.3, targets, stats=STATISTICS)
    torch.testing.assert_close(tuple(ours), tuple(divided))
    gradients = [torch.autograd.grad(sum(f.sum() for f in s[:5]), logits)[0] for s in (ours, divided)]
    torch.testing.assert_close(gradients[0], gradients[1])


LAYOUTS = {
    "sequence slice": lambda z: torch.cat([z, z[:, :1]], 1)[:, :-1],
    "swapped leading axes": lambda z: z.transpose(0, 1).contiguous().transpose(0, 1),
    "vocabulary first": lambda z: z.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "vocabulary slice": lambda z: torch.cat([z, z], -1)[..., : z.shape[-1]],
    "every second column": lambda z: z.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda z: z[:1].expand(z.shape[0], -1, -1),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [2, None], ids=["small chunks", "one chunk"])
def test_strides_do_not_matter(layout, masked: bool, rows: int | None, problem, monkeypatch) -> None:
    if rows is not None:
        monkeypatch.setattr(torch_backend, "CHUNK_BYTES", 1)
        monkeypatch.setattr(torch_backend, "MIN_ROWS", rows)
    logits, targets = problem(3, 5, 14)
    strange = layout(logits)
    assert not strange.is_contiguous()
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(5)) < 0.6 if masked else None
    for one, other in zip(
        values_and_gradient(strange, targets, mask=mask),
        values_and_gradient(strange.contiguous(), targets, mask=mask),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("columns", [5, 14, 33, 1000, 50257])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_in_every_company_and_chunk(
    columns: int, threads: int, problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, targets = problem(9, columns)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = values_and_gradient(logits, targets)
        for size in (1, 2, 4, 9):
            monkeypatch.setattr(torch_backend, "CHUNK_BYTES", 1)
            monkeypatch.setattr(torch_backend, "MIN_ROWS", size)
            for one, other in zip(together, values_and_gradient(logits, targets), strict=True):
                assert torch.equal(one, other)
        monkeypatch.undo()
        for i in (0, 5):
            alone = values_and_gradient(logits[i : i + 1], targets[i : i + 1])
            for one, other in zip(together, alone, strict=True):
                assert torch.equal(one[i : i + 1], other)
    finally:
        torch.set_num_threads(before)


def test_chunks_are_small_and_a_small_problem_is_one_chunk(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    heights: list[int] = []
    original = torch_backend._sum_chunk

    def spy(rows, chunk, *rest):
        heights.append(chunk.logits.shape[0])
        return original(rows, chunk, *rest)

    monkeypatch.setattr(torch_backend, "_sum_chunk", spy)
    token_stats(*problem(1024, 14))
    assert heights == [1024]
    heights.clear()
    token_stats(*problem(70, 32000))
    assert max(heights) <= 64
    assert sum(heights) == 70


def test_result_is_a_token_stats(problem) -> None:
    assert isinstance(token_stats(*problem(2, 3)), TokenStats)
    assert TokenStats._fields == (*STATISTICS, "log_z")
