import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from corollary.evaluation import block_bootstrap as module
from corollary.evaluation import paired_block_bootstrap, paired_bootstrap


def draws(values, block, resamples=20_000, seed=0):
    """Resampled means of a series, or of one per seed, not centred."""
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    return np.concatenate(list(module._resampled_means(values, block, resamples, np.random.default_rng(seed))))


def autoregression(rng, phi, shape):
    """AR(1) noise with mean 0 and innovations of variance 1, from its stationary distribution."""
    noise = rng.normal(size=shape)
    noise[..., 0] /= math.sqrt(1.0 - phi**2)
    return lfilter([1.0], [1.0, -phi], noise, axis=-1)


def half_width(interval):
    return 0.5 * (interval.high - interval.low)


# Blocks


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 100))
def test_block_sums_are_those_of_the_rolled_series(length_of_series, length, seed):
    length = min(length, length_of_series)
    values = np.random.default_rng(seed).normal(size=(2, length_of_series))
    rolled = sum((np.roll(values, -i, axis=1) for i in range(length)), np.zeros_like(values))
    np.testing.assert_allclose(module._block_sums(values, length), rolled, atol=1e-12)


@pytest.mark.parametrize(("size", "block"), [(6, 1), (6, 4), (7, 3), (7, 7)])
def test_every_origin_is_in_as_many_blocks(size, block):
    # Row t of the identity is 1 at origin t only, so that its block sums count the blocks that hold it.
    counts = module._block_sums(np.eye(size), block)
    assert counts.sum(axis=1).tolist() == [block] * size
    assert set(counts.ravel()) <= {0.0, 1.0}


# The distribution of the resampled means


@pytest.mark.parametrize(("size", "block"), [(4, 2), (5, 2), (5, 3), (4, 1), (3, 3)])
def test_all_resamples_of_a_short_series_come_equally_often(size, block):
    values = np.array([1.0, 10.0, 100.0, 1000.0, 10_000.0])[:size]
    lengths = [block] * (size // block) + [size % block] * (size % block > 0)
    expected = {}
    for starts in itertools.product(range(size), repeat=len(lengths)):
        pairs = zip(starts, lengths, strict=True)
        total = sum(values[(start + i) % size] for start, length in pairs for i in range(length))
        expected[round(total)] = expected.get(round(total), 0) + size ** -len(lengths)
    assert sum(total * share for total, share in expected.items()) / size == pytest.approx(values.mean())
    resamples = 40_000
    seen, counts = np.unique(np.rint(size * draws(values, block, resamples)), return_counts=True)
    assert seen.tolist() == sorted(expected)
    shares = np.array([expected[int(total)] for total in seen])
    # Five standard errors of each share, for at most 256 shares in a case.
    assert (abs(counts / resamples - shares) < 5 * np.sqrt(shares * (1 - shares) / resamples) + 1e-12).all()


@pytest.mark.parametrize("block", [1, 3, 20, 47])
def test_the_resampled_means_have_the_closed_variance(block):
    size = 400
    values = autoregression(np.random.default_rng(1), 0.8, size)
    whole, rest = divmod(size, block)
    sums = [np.array([np.take(values, range(s, s + n), mode="wrap").sum() for s in range(size)]) for n in (block, rest)]
    variance = (whole * sums[0].var() + sums[1].var()) / size**2  # Independent blocks.
    found = draws(values, block)
    # Relative standard error of a variance from 20,000 nearly normal draws: 1 %.
    assert found.var() == pytest.approx(variance, rel=0.05)
    assert found.mean() == pytest.approx(values.mean(), abs=5 * math.sqrt(variance / 20_000))


def test_seeds_and_blocks_are_both_resampled():
    # d_st = a_s + c_t: the seeds' part has the variance of the ordinary bootstrap of a, the time part that of c.
    rng = np.random.default_rng(2)
    seeds, series = rng.normal(size=5), autoregression(rng, 0.8, 240)
    both = draws(seeds[:, None] + series, 12).var()
    assert both == pytest.approx(seeds.var() / 5 + draws(series, 12, seed=1).var(), rel=0.06)


def test_blocks_are_the_same_for_all_seeds():
    # Equal rows: with blocks of their own per seed, the variance would fall to a fifth or so.
    series = autoregression(np.random.default_rng(3), 0.8, 240)
    found = draws(np.tile(series, (5, 1)), 12).var()
    assert found == pytest.approx(draws(series, 12, seed=1).var(), rel=0.06)


def test_one_row_of_seeds_is_the_series_alone():
    first, second = np.random.default_rng(4).normal(size=(2, 50))
    assert paired_block_bootstrap(first[None], second[None], block=5) == paired_block_bootstrap(first, second, block=5)


# The interval


def test_blocks_of_one_are_the_ordinary_paired_bootstrap():
    rng = np.random.default_rng(5)
    common = rng.normal(size=300)
    first, second = common + rng.normal(size=300), common + rng.exponential(size=300)
    blocks = paired_block_bootstrap(first, second, block=1, resamples=20_000)
    plain = paired_bootstrap(first, second, seed=1, num_resamples=20_000)
    # A 2.5 % quantile of 20,000 draws has a standard error of 0.02 standard deviations, a difference 0.027.
    deviation = (first - second).std() / math.sqrt(300)
    assert blocks.mean == pytest.approx(plain.mean)
    assert (blocks.low, blocks.high) == pytest.approx((plain.low, plain.high), abs=0.12 * deviation)
    assert (blocks.n, blocks.confidence) == (300, 0.95)


def test_blocks_cover_a_mean_under_autocorrelation_where_single_origins_do_not():
    # AR(1) with phi = 0.9: a mean of n values has the variance 100 / n, of which blocks of b see about the share
    # 1 - 9.5 / b, and single values 5.3 %. For normal means that is a coverage of 0.93 (b = 80) and 0.35; the
    # scatter of a variance from 25 blocks costs another 0.01 to 0.02. Standard errors: 0.013 and 0.04.
    series = autoregression(np.random.default_rng(6), 0.9, (400, 2000))

    def coverage(rows, block, resamples):
        intervals = [paired_block_bootstrap(row, 0.0 * row, block=block, resamples=resamples) for row in rows]
        return np.mean([interval.low <= 0.0 <= interval.high for interval in intervals])

    assert 0.88 <= coverage(series, 80, 400) <= 0.97
    assert coverage(series[:150], 1, 200) <= 0.5


def test_the_interval_covers_as_often_as_it_says_for_independent_values():
    series = np.random.default_rng(7).normal(size=(400, 200)) + 0.3
    intervals = [paired_block_bootstrap(row, np.zeros(200), block=4, resamples=400) for row in series]
    share = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert 0.91 <= share <= 0.98  # Two and a half standard errors, and 50 blocks.


def test_pairing_removes_what_both_series_share():
    rng = np.random.default_rng(8)
    common = 10.0 * autoregression(rng, 0.9, 1000)
    first, second = common + rng.normal(size=(2, 1000))
    alone = paired_block_bootstrap(first, np.zeros(1000), block=50)
    assert half_width(paired_block_bootstrap(first, second, block=50)) < 0.05 * half_width(alone)


def test_the_sign_is_first_minus_second():
    rng = np.random.default_rng(9)
    better, worse = rng.random(100), rng.random(100) + 1.0
    assert paired_block_bootstrap(better, worse, block=5).high < 0.0
    one, other = paired_block_bootstrap(better, worse, block=5), paired_block_bootstrap(worse, better, block=5)
    assert one.mean == pytest.approx(-other.mean)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


@given(st.floats(-1e6, 1e6), st.integers(1, 7), st.booleans())
def test_a_constant_difference_has_no_width(shift, block, seeds):
    shape = (3, 7) if seeds else (7,)
    interval = paired_block_bootstrap(np.full(shape, shift), np.zeros(shape), block=block, resamples=20)
    if block == 7 and not seeds:
        assert math.isnan(interval.low)
    else:
        assert interval[:3] == pytest.approx((shift, shift, shift), rel=1e-12)


def test_a_large_offset_costs_no_digits():
    values = np.random.default_rng(10).normal(size=500)
    near, far = (paired_block_bootstrap(values + offset, np.zeros(500), block=20) for offset in (0.0, 1e6))
    assert (far.low - 1e6, far.high - 1e6) == pytest.approx((near.low, near.high), abs=1e-8)


def test_one_block_of_the_whole_series_shows_no_spread():
    interval = paired_block_bootstrap([1.0, 2.0, 6.0], [0.0, 0.0, 0.0], block=3)
    assert (interval.mean, interval.n) == (3.0, 3)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_one_block_of_the_whole_series_leaves_the_spread_of_the_seeds():
    values = np.array([[1.0, 1.0], [3.0, 3.0]])
    assert paired_block_bootstrap(values, np.zeros((2, 2)), block=2)[:4] == (2.0, 1.0, 3.0, 4)


def test_the_confidence_sets_the_width():
    values = np.random.default_rng(11).normal(size=400)
    wide, narrow = (paired_block_bootstrap(values, 0 * values, block=8, confidence=c) for c in (0.95, 0.5))
    assert half_width(wide) / half_width(narrow) == pytest.approx(1.960 / 0.674, rel=0.1)


def test_a_seed_fixes_the_interval_and_a_generator_moves_on():
    values = np.random.default_rng(12).normal(size=(2, 3, 60))
    interval = paired_block_bootstrap(*values, block=6, seed=3)
    assert paired_block_bootstrap(*values, block=6, seed=3) == interval
    assert paired_block_bootstrap(*values, block=6, seed=4) != interval
    rng = np.random.default_rng(3)
    assert paired_block_bootstrap(*values, block=6, seed=rng) == interval
    assert paired_block_bootstrap(*values, block=6, seed=rng) != interval


def test_memory_is_bounded_whatever_the_number_of_resamples(monkeypatch):
    monkeypatch.setattr(module, "_HELD", 2**14)
    values = np.random.default_rng(13).normal(size=5000)
    tracemalloc.start()
    try:
        paired_block_bootstrap(values, 0 * values, block=10, resamples=5000)  # 20 MB of starts if held at once.
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2e6


# Errors


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0, math.nan], [1.0, 1.0], "first must be finite, got nan"),
        ([1.0, 1.0], [1.0, math.inf], "second must be finite, got inf"),
        ([], [], r"first must hold at least one value, got shape \(0,\)"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"one shape, got \(2,\) and \(3,\)"),
        ([[1.0, 2.0]], [1.0, 2.0], r"one shape, got \(1, 2\) and \(2,\)"),
        ([[[1.0]]], [[[1.0]]], r"must be \(T,\) or \(S, T\), got shape \(1, 1, 1\)"),
        (1.0, 2.0, r"must be \(T,\) or \(S, T\), got shape \(\)"),
    ],
)
def test_series_that_cannot_be_compared_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        paired_block_bootstrap(first, second, block=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 0}, r"block must be an integer in \[1, T\] = \[1, 3\], got 0"),
        ({"block": 4}, r"block must be an integer in \[1, T\] = \[1, 3\], got 4"),
        ({"block": 2.0}, "block must be .* got 2.0"),
        ({"block": True}, "block must be .* got True"),
        ({"resamples": 0}, "resamples must be an integer >= 1, got 0"),
        ({"resamples": 1e3}, "resamples must be an integer >= 1, got 1000.0"),
        ({"confidence": 1.0}, r"confidence must lie in \(0, 1\), got 1.0"),
        ({"seed": -1}, "seed must be .* got -1"),
        ({"seed": None}, "seed must be .* got None"),
        ({"seed": True}, "seed must be .* got True"),
    ],
)
def test_an_option_outside_its_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        paired_block_bootstrap([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], **{"block": 1, **options})
