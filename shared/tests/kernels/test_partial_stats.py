"""Sums of parts of a row, merged: any split in any order gives the statistics of the whole."""

import itertools
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corollary.kernels import (
    STATISTICS,
    finish_partial_stats,
    merge_partial_stats,
    partial_token_stats,
    token_stats,
)


def split_and_merged(logits, targets, cuts, order, **options):
    edges = sorted({0, logits.shape[-1], *cuts})
    parts = [
        partial_token_stats(logits[..., first:last], targets, first_column=first, **options)
        for first, last in itertools.pairwise(edges)
    ]
    order = [i for i in order if i < len(parts)] + [i for i in range(len(parts)) if i not in order]
    return finish_partial_stats(reduce(merge_partial_stats, [parts[i] for i in order]))


@given(
    columns=st.integers(1, 60),
    cuts=st.lists(st.integers(1, 59), max_size=6),
    order=st.permutations(range(7)),
    offset=st.sampled_from([0.0, 50.0, -1e4]),
    masked=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_split_in_any_order_equals_the_whole(columns, cuts, order, offset, masked, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, columns, generator=generator, dtype=torch.float64) * 4 + offset
    targets = torch.randint(columns, (3,), generator=generator)
    hidden = torch.rand(3, columns, generator=generator) < masked
    hidden[torch.arange(3), targets] = False
    logits = logits.masked_fill(hidden, -torch.inf)
    tau = torch.tensor([0.5, 1.0, 3.0]).double()
    cuts = [cut for cut in cuts if cut < columns]
    merged = split_and_merged(logits, targets, cuts, order, temperature=tau)
    whole = token_stats(logits, targets, stats=STATISTICS, temperature=tau)
    torch.testing.assert_close(tuple(merged), tuple(whole), atol=1e-11, rtol=1e-10)


def test_rising_maxima_and_distant_parts_are_moved(problem) -> None:
    logits, targets = problem(4, 40, scale=5.0)
    logits = logits.double().sort(-1).values
    logits[1, 20:] += 1e6
    merged = split_and_merged(logits, targets, range(1, 40), [])
    whole = token_stats(logits, targets, stats=STATISTICS)
    torch.testing.assert_close(tuple(merged), tuple(whole), atol=1e-9, rtol=1e-10)


def test_float32_stays_near_float64(problem, reference) -> None:
    logits, targets = problem(4, 30000)
    merged = split_and_merged(logits + 500, targets, [7000, 20000], [])
    exact = reference(logits + 500, targets)
    for name in STATISTICS:
        torch.testing.assert_close(getattr(merged, name).double(), getattr(exact, name), atol=3e-5, rtol=1e-5)


def test_a_row_without_a_distribution_is_nan_and_only_that_row(problem) -> None:
    logits, targets = problem(3, 10)
    logits[1] = -torch.inf
    merged = split_and_merged(logits, targets, [4], [])
    assert [merged.entropy.isnan().tolist(), merged.sum_p2.isnan().tolist()] == [[False, True, False]] * 2


def test_an_impossible_token_has_log_probability_minus_infinity(problem) -> None:
    logits, targets = problem(2, 10)
    logits[1, targets[1]] = -torch.inf
    assert split_and_merged(logits, targets, [5], []).log_prob.isneginf().tolist() == [False, True]


def test_bad_parts_are_refused(problem) -> None:
    logits, targets = problem(3, 10)
    with pytest.raises(ValueError, match="first_column must be at least 0, got -1"):
        partial_token_stats(logits, targets, first_column=-1)
    part = partial_token_stats(logits, targets)
    with pytest.raises(ValueError, match=r"parts of one shape, got \(3,\) and \(2,\)"):
        merge_partial_stats(part, partial_token_stats(logits[:2], targets[:2]))
