from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corollary.evaluation import distinct_correct, pass_at_k


@st.composite
def counts(draw, largest=60):
    n = draw(st.integers(1, largest))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_correct_sample(n):
    for c in range(n + 1):
        verdicts = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = [any(subset) for subset in combinations(verdicts, k)]
            assert pass_at_k(n, c, k) == pytest.approx(sum(subsets) / len(subsets), rel=1e-13)


@given(counts())
def test_pass_at_k_equals_the_binomial_ratio(n_c_k):
    n, c, k = n_c_k
    assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), rel=1e-12, abs=1e-15)


@given(counts(), st.floats(0.0, 1.0))
def test_pass_at_k_is_unbiased_for_every_success_probability(n_c_k, p):
    n, _, k = n_c_k
    c = np.arange(n + 1)
    binomial = np.array([comb(n, i) * p**i * (1 - p) ** (n - i) for i in c])
    assert binomial @ pass_at_k(n, c, k) == pytest.approx(1 - (1 - p) ** k, rel=1e-9, abs=1e-12)


@given(counts())
def test_pass_at_1_is_the_accuracy_and_pass_at_n_asks_for_one_correct_sample(n_c_k):
    n, c, _ = n_c_k
    assert pass_at_k(n, c, 1) == pytest.approx(c / n, rel=1e-14)
    assert pass_at_k(n, c, n) == (1.0 if c else 0.0)


@given(counts())
def test_pass_at_k_does_not_fall_with_k_or_with_more_correct_samples(n_c_k):
    n, c, _ = n_c_k
    curve = pass_at_k(n, c, np.arange(1, n + 1))
    assert (np.diff(curve) >= -1e-15).all()
    assert ((curve >= 0) & (curve <= 1)).all()
    assert pass_at_k(n, min(c + 1, n), 1) >= pass_at_k(n, c, 1)


def test_pass_at_k_keeps_full_precision_for_rare_and_for_large_counts():
    assert pass_at_k(10**9, 1, 1) == pytest.approx(1e-9, rel=1e-14, abs=0)
    assert pass_at_k(10**6, 1, 10**5) == pytest.approx(0.1, rel=1e-13)
    n, c, k = 4096, 37, 1024
    assert pass_at_k(n, c, k) == pytest.approx(float(1 - comb(n - c, k) / comb(n, k)), rel=1e-12)


def test_problems_broadcast_against_ks():
    curve = pass_at_k(8, np.array([0, 2, 8])[:, None], np.array([1, 2, 4]))
    assert curve.shape == (3, 3)
    assert curve.dtype == np.float64
    assert curve[0].tolist() == [0.0, 0.0, 0.0]
    assert not np.signbit(curve).any()
    assert curve[2].tolist() == [1.0, 1.0, 1.0]
    assert curve[1, 2] == pass_at_k(8, 2, 4)


def test_no_problem_gives_no_score():
    assert pass_at_k(8, [], 4).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 2, 5), r"k must lie in \[1, num_samples\], got 5"),
        ((4, 2, 0), "k must lie in .* got 0"),
        ((4, 5, 1), r"num_correct must lie in \[0, num_samples\], got 5"),
        ((4, -1, 1), "num_correct must lie in .* got -1"),
        ((0, 0, 1), "num_samples must be >= 1, got 0"),
        (([4, 4], [1, 5], 2), "num_correct must lie in .* got 5"),
        ((4, 2.0, 1), "num_correct must hold integers, got dtype float64"),
        ((4, float("nan"), 1), "num_correct must hold integers"),
        ((4, True, 1), "num_correct must hold integers, got dtype bool"),
        (([4, 4], [1, 1, 1], 1), r"broadcast, got \(2,\), \(3,\) and \(\)"),
    ],
)
def test_pass_at_k_names_the_bad_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(*arguments)


def test_distinct_correct_counts_each_correct_completion_once():
    assert distinct_correct([[1, 2], [2, 1], [1, 2], [3, 3]], [True, True, True, False]) == 2
    assert distinct_correct(np.array([[1, 2], [1, 2]]), np.array([1, 1])) == 1
    assert distinct_correct(["a", "a", "b"], [0, 0, 0]) == 0
    assert distinct_correct([], []) == 0


@given(st.lists(st.tuples(st.text(max_size=2), st.booleans()), max_size=20))
def test_distinct_correct_does_not_depend_on_the_order(samples):
    def count(pairs):
        return distinct_correct([y for y, _ in pairs], [v for _, v in pairs])

    assert count(samples) == count(samples[::-1]) == len({y for y, v in samples if v})


@pytest.mark.parametrize(
    ("completions", "correct", "message"),
    [
        (["a", "b"], [1], r"shape \(2,\), got \(1,\)"),
        (["a", "b"], [[1, 0]], r"shape \(2,\), got \(1, 2\)"),
        (["a", "b"], [1, 2], "booleans or 0/1, got 2"),
        (["a"], [float("nan")], "booleans or 0/1, got nan"),
    ],
)
def test_distinct_correct_wants_one_verdict_per_completion(completions, correct, message):
    with pytest.raises(ValueError, match=message):
        distinct_correct(completions, correct)
