from collections import Counter
from itertools import product

import numpy as np
import pytest

from corollary.tasks import DigitSum, make_task
from corollary.tasks.digit_sum import EQUALS, PAD, STOP, uniform_digits


@pytest.fixture(params=["digit-sum", "digit-sum-running"])
def task(request):
    return make_task(request.param)


def test_every_fourth_target_is_held_out_and_nothing_overlaps(task):
    train = [prompt.answer for prompt in task.prompts("train")]
    held_out = [prompt.answer for prompt in task.prompts("held_out")]
    assert sorted(train + held_out) == list(task.targets)
    assert held_out == list(task.targets)[3::4]


def test_the_prompt_spells_the_target(task):
    prompt = task.prompts("train")[0]
    assert prompt.answer == 5
    assert prompt.tokens[1:] == (0, 5, EQUALS)


def test_the_verifier_of_plain_digits():
    task = make_task("digit-sum")
    prompt = task.prompt(21)
    assert task.reward(prompt, [1, 2, 3, 4, 5, 6]) == 1.0
    assert task.reward(prompt, [1, 2, 3, 4, 5, 7]) == 0.0
    assert task.reward(prompt, [1, 2, 3, 4, 5, 6, STOP]) == 0.0
    assert task.reward(prompt, [9, 9, 3]) == 0.0
    assert task.reward(prompt, [1, 2, 3, 4, PAD, 6]) == 0.0
    assert task.reward(prompt, []) == 0.0


def test_the_verifier_of_running_sums_checks_every_sum():
    task = make_task("digit-sum-running")
    prompt = task.prompt(25)
    right = [9, 0, 9, 1, 1, 0, 5, 1, 5, 0, 1, 5, 9, 2, 4]
    assert task.reward(task.prompt(24), right) == 1.0
    assert task.reward(prompt, right) == 0.0
    for position in (1, 2, 4, 5, 13, 14):
        wrong = list(right)
        wrong[position] = (wrong[position] + 1) % 10
        assert task.reward(task.prompt(24), wrong) == 0.0, position
    assert task.answer_key(right) == (9, 1, 5, 0, 9)


def test_demonstrations_without_jitter_are_all_correct(task):
    rows = task.demonstrations(500, np.random.default_rng(0), jitter_probability=0.0).tokens
    assert rows.shape == (500, 4 + task.max_completion_length)
    for row in rows.tolist():
        prompt = task.prompt(10 * row[1] + row[2])
        assert tuple(row[:4]) == prompt.tokens
        assert task.reward(prompt, row[4:]) == 1.0


def test_jitter_misses_as_often_as_it_says(task):
    rows = task.demonstrations(20_000, np.random.default_rng(1), jitter=3, jitter_probability=0.7).tokens
    off = Counter(sum(task.digits(row[4:])) - (10 * row[1] + row[2]) for row in rows.tolist())
    assert set(off) == set(range(-3, 4))
    # 0.3 + 0.7 / 7 of the sums are right, up to 4 standard errors.
    assert off[0] / 20_000 == pytest.approx(0.4, abs=4 * (0.24 / 20_000) ** 0.5)


def test_digit_strings_are_uniform_given_their_sum():
    strings = [digits for digits in product(range(10), repeat=3) if sum(digits) == 5]
    drawn = Counter(map(tuple, uniform_digits(np.full(42_000, 5), 3, np.random.default_rng(2)).tolist()))
    assert sorted(drawn) == strings
    expected = 42_000 / len(strings)
    chi_squared = sum((count - expected) ** 2 / expected for count in drawn.values())
    # 20 degrees of freedom: 45.3 is exceeded once in a thousand.
    assert len(strings) == 21
    assert chi_squared < 45.3


@pytest.mark.parametrize("total", [0, 1, 26, 27])
def test_extreme_sums_are_met(total):
    digits = uniform_digits(np.full(100, total), 3, np.random.default_rng(3))
    assert (digits.sum(1) == total).all()
    assert ((digits >= 0) & (digits <= 9)).all()


def test_bad_names_and_ranges_are_refused():
    with pytest.raises(ValueError, match=r"unknown task 'digitsum'; installed: .*digit-sum, digit-sum-running"):
        make_task("digitsum")
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 27\], got \(0, 28\)"):
        DigitSum("x", n_digits=3, running_sums=False, targets=(0, 28))
    with pytest.raises(ValueError, match="split must be"):
        make_task("digit-sum").prompts("test")
