import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from corollary.evaluation import Interval, bootstrap_interval, iqm, mean_interval, paired_bootstrap
from corollary.evaluation import intervals as module

finite = st.floats(-1e6, 1e6)


def coverage(intervals, truth):
    return np.mean([interval.low <= truth <= interval.high for interval in intervals])


def width(interval):
    return interval.high - interval.low


# Student t


def test_mean_interval_is_the_t_interval_of_scipy():
    values = [0.3, -1.2, 2.5, 0.7, 0.0]
    low, high = stats.t.interval(0.9, df=4, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values, confidence=0.9) == Interval(
        pytest.approx(np.mean(values)), pytest.approx(low), pytest.approx(high), 5, 0.9
    )


@pytest.mark.parametrize("n", [2, 5])
def test_mean_interval_covers_a_normal_mean_as_often_as_it_says(n):
    samples = np.random.default_rng(1).normal(loc=3.0, size=(4000, n))
    # Two standard errors of a share of 4,000 at 0.95 are 0.007.
    assert coverage(map(mean_interval, samples), 3.0) == pytest.approx(0.95, abs=0.01)


def test_one_value_shows_no_spread_so_its_bounds_are_nan():
    interval = mean_interval([2.0])
    assert interval.mean == 2.0
    assert interval.n == 1
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


@given(finite, st.integers(2, 9))
def test_equal_values_give_a_width_of_exactly_zero(value, n):
    assert mean_interval([value] * n)[:3] == (value, value, value)


@given(st.lists(finite, min_size=2, max_size=9), st.floats(-100, 100))
def test_mean_interval_moves_with_the_values(values, shift):
    before, after = mean_interval(values), mean_interval(np.array(values) + shift)
    assert after.low == pytest.approx(before.low + shift, rel=1e-9, abs=1e-6)
    assert after.high == pytest.approx(before.high + shift, rel=1e-9, abs=1e-6)


# Interquartile mean


@pytest.mark.parametrize("n", range(1, 18))
def test_iqm_is_the_quarter_trimmed_mean(n):
    values = np.random.default_rng(n).normal(size=n)
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-13)


@given(st.lists(finite, min_size=4, max_size=30))
def test_iqm_ignores_one_outlier_and_the_order(values):
    worst = [*sorted(values)[:-1], 1e30]
    assert iqm(worst) == pytest.approx(iqm(values), rel=1e-12, abs=1e-9)
    assert iqm(values[::-1]) == pytest.approx(iqm(values), rel=1e-12, abs=1e-9)


def test_iqm_pools_runs_and_tasks():
    assert iqm([[0.0, 1.0], [2.0, 300.0]]) == 1.5


# Stratified bootstrap


def test_bootstrap_interval_approaches_the_normal_interval_for_many_runs():
    values = np.random.default_rng(2).normal(size=400)
    interval = bootstrap_interval(values, seed=0, num_resamples=4000)
    half = 1.96 * values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_bootstrap_interval_covers_for_twenty_runs_of_three_tasks(statistic):
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(400, 20, 3))
    intervals = [bootstrap_interval(s, seed=rng, statistic=statistic, num_resamples=400) for s in samples]
    assert 0.9 <= coverage(intervals, 0.0) <= 0.98


def test_five_runs_under_cover_as_the_docstring_warns():
    rng = np.random.default_rng(4)
    intervals = [bootstrap_interval(s, seed=rng, num_resamples=400) for s in rng.normal(size=(1000, 5))]
    assert coverage(intervals, 0.0) == pytest.approx(0.84, abs=0.03)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 2**32))
def test_every_resample_keeps_the_count_of_every_task(labels, seed):
    _, strata = module._stratify(np.zeros(len(labels)), labels)
    (chosen,) = module._resample(strata, 7, seed)
    for row in strata[chosen]:
        assert np.bincount(row).tolist() == np.bincount(strata).tolist()


def test_stratification_removes_the_spread_between_tasks():
    rng = np.random.default_rng(5)
    values = rng.normal(size=(10, 4)) + np.array([0.0, 10.0, 20.0, 30.0])
    assert width(bootstrap_interval(values, seed=0)) < 0.2 * width(bootstrap_interval(values.ravel(), seed=0))


def test_columns_and_labels_say_the_same():
    values = np.random.default_rng(6).normal(size=(5, 3))
    labels = np.tile(["a", "b", "c"], 5)
    assert bootstrap_interval(values.ravel(), strata=labels, seed=0) == bootstrap_interval(values, seed=0)


def test_tasks_may_have_different_counts():
    interval = bootstrap_interval([1.0, 1.0, 1.0, 5.0], strata=["a", "a", "a", "b"], seed=0)
    assert interval == Interval(2.0, 2.0, 2.0, 4, 0.95)


def test_one_run_per_task_has_nan_bounds():
    interval = bootstrap_interval([[1.0, 2.0, 3.0]], seed=0)
    assert interval.mean == 2.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_the_same_seed_gives_the_same_interval_and_another_seed_does_not():
    values = np.random.default_rng(7).normal(size=(5, 4))
    first = bootstrap_interval(values, seed=1)
    assert first == bootstrap_interval(values, seed=1)
    assert first == bootstrap_interval(values, seed=np.random.default_rng(1))
    assert first != bootstrap_interval(values, seed=2)


def test_blocks_do_not_change_the_interval(monkeypatch):
    values = np.random.default_rng(8).normal(size=(5, 4))
    whole = bootstrap_interval(values, seed=1)
    monkeypatch.setattr(module, "_BLOCK", 64)
    assert bootstrap_interval(values, seed=1) == whole


@given(st.lists(finite, min_size=2, max_size=12), st.sampled_from(["mean", "iqm"]))
def test_bootstrap_bounds_are_ordered_and_within_the_values(values, statistic):
    interval = bootstrap_interval(values, seed=0, statistic=statistic, num_resamples=50)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack


# Paired bootstrap


def correlated(rng, runs, tasks=None):
    shape = (runs,) if tasks is None else (runs, tasks)
    common = rng.normal(size=shape)
    return common + 0.1 * rng.normal(size=shape) + 0.2, common + 0.1 * rng.normal(size=shape)


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_pairs_are_narrower_than_two_samples_when_they_correlate(statistic):
    a, b = correlated(np.random.default_rng(9), 40)
    paired = paired_bootstrap(a, b, seed=0, statistic=statistic)
    apart = [width(bootstrap_interval(values, seed=0, statistic=statistic)) for values in (a, b)]
    assert width(paired) < 0.5 * math.hypot(*apart)


def test_paired_mean_is_the_bootstrap_of_the_differences():
    a, b = correlated(np.random.default_rng(10), 6, 3)
    assert paired_bootstrap(a, b, seed=3) == pytest.approx(bootstrap_interval(a - b, seed=3), abs=1e-12)


def test_paired_iqm_is_the_difference_of_the_iqms():
    a, b = correlated(np.random.default_rng(11), 9)
    assert paired_bootstrap(a, b, seed=0, statistic="iqm").mean == pytest.approx(iqm(a) - iqm(b))


def test_paired_interval_covers_the_true_difference():
    rng = np.random.default_rng(12)
    intervals = [paired_bootstrap(*correlated(rng, 30), seed=rng, num_resamples=400) for _ in range(400)]
    assert 0.9 <= coverage(intervals, 0.2) <= 0.98


def test_equal_methods_differ_by_exactly_zero_and_swapping_changes_the_sign():
    a, b = correlated(np.random.default_rng(13), 8)
    assert paired_bootstrap(a, a, seed=0)[:3] == (0.0, 0.0, 0.0)
    one, other = paired_bootstrap(a, b, seed=0), paired_bootstrap(b, a, seed=0)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


# Errors


@pytest.mark.parametrize("function", [mean_interval, iqm, lambda v: bootstrap_interval(v, seed=0)])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, math.nan], "values must be finite, got nan"),
        ([1.0, math.inf], "values must be finite, got inf"),
        ([], r"at least one value, got shape \(0,\)"),
        (["one"], "array of real numbers"),
        ([1j], "array of real numbers"),
    ],
)
def test_values_that_are_no_finite_numbers_are_refused(function, values, message):
    with pytest.raises(ValueError, match=message):
        function(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\)"):
        mean_interval([1.0, 2.0], confidence=confidence)
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\)"):
        bootstrap_interval([1.0, 2.0], seed=0, confidence=confidence)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistic": "median"}, "statistic must be one of .* got 'median'"),
        ({"num_resamples": 0}, "num_resamples must be an integer >= 1, got 0"),
        ({"num_resamples": 1e3}, "num_resamples must be an integer >= 1, got 1000.0"),
        ({"seed": -1}, "seed must be .* got -1"),
        ({"seed": None}, "seed must be .* got None"),
        ({"seed": True}, "seed must be .* got True"),
        ({"strata": [0, 1, 2]}, r"strata must have one label per value, shape \(2,\), got \(3,\)"),
    ],
)
def test_bootstrap_names_the_bad_option(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval([1.0, 2.0], **{"seed": 0, **options})
    with pytest.raises(ValueError, match=message):
        paired_bootstrap([1.0, 2.0], [1.0, 3.0], **{"seed": 0, **options})


def test_shapes_are_never_broadcast():
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        paired_bootstrap([1.0, 2.0], [1.0, 2.0, 3.0], seed=0)
    with pytest.raises(ValueError, match=r"one axis, \(n,\), got shape \(2, 1\)"):
        mean_interval([[1.0], [2.0]])
    with pytest.raises(ValueError, match=r"\(R, T\) or \(N,\), got shape \(1, 1, 2\)"):
        bootstrap_interval([[[1.0, 2.0]]], seed=0)
    with pytest.raises(ValueError, match=r"columns of \(R, T\) values are strata already"):
        bootstrap_interval([[1.0], [2.0]], strata=[0, 1], seed=0)
