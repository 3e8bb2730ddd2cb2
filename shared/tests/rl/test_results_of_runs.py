"""What finished runs say, read from logs whose right answer is known."""

import json
import math
from statistics import fmean

import numpy as np
import pandas as pd
import pytest

from corollary.rl import end_of, entropy_gain_at_equal_reward, held_out
from corollary.rl.results import WINDOW


@pytest.mark.parametrize(("length", "averaged"), [(1, 1), (2, 1), (5, 1), (9, 3), (29, 9), (30, 10), (400, 10)])
def test_the_end_is_the_last_window_or_the_last_third(length, averaged):
    values = [float(k * k) for k in range(length)]
    assert end_of(pd.Series(values)) == pytest.approx(fmean(values[-averaged:]))


def curves(reward, entropy):
    return pd.DataFrame({"reward/mean": reward, "policy/entropy": entropy})


def noisy_curves(seed, *, steps=60):
    rng = np.random.default_rng(seed)
    reward = np.linspace(0.1, 0.7, steps) + 0.02 * rng.standard_normal(steps)
    return curves(reward, 2 - reward + 0.1 * rng.standard_normal(steps))


STEP = 1 / 32
"""A power of two, so that rewards, their means and the levels between them are exact."""


class TestEntropyGainAtEqualReward:
    BASE = curves(STEP * np.arange(29), 2 - STEP * np.arange(29))
    """Smoothed over ten steps it passes through the rewards 4.5, 5.5, ... 23.5 steps: the 20 levels."""
    SLOW = STEP * (0.25 + 0.5 * np.arange(60))
    """The rewards of a run that learns half as fast and whose smoothed rewards meet those levels too."""

    def test_an_offset_at_equal_steps(self):
        log = self.BASE.assign(**{"policy/entropy": self.BASE["policy/entropy"] + 0.25})
        assert entropy_gain_at_equal_reward(log, self.BASE) == 0.25

    def test_an_offset_at_equal_reward_and_not_at_equal_steps(self):
        log = curves(self.SLOW, 2.25 - self.SLOW)
        assert entropy_gain_at_equal_reward(log, self.BASE) == pytest.approx(0.25, abs=1e-12)

    def test_a_slower_run_on_the_same_curve_gains_nothing(self):
        log = curves(self.SLOW, 2 - self.SLOW)
        steps = slice(-WINDOW, None)
        assert log["policy/entropy"][:29][steps].mean() > self.BASE["policy/entropy"][steps].mean() + 0.1
        assert entropy_gain_at_equal_reward(log, self.BASE) == pytest.approx(0.0, abs=1e-12)

    def test_each_run_is_read_where_it_first_reaches_a_reward(self):
        later = curves(np.full(30, STEP * 15), np.full(30, -100.0))
        log = pd.concat([self.BASE, later], ignore_index=True)
        assert entropy_gain_at_equal_reward(log, self.BASE) == 0.0

    def test_rewards_that_only_one_run_reaches_do_not_count(self):
        # Beyond the base's best reward the entropy of the longer run falls off a cliff.
        reward = STEP * np.arange(60)
        log = curves(reward, np.where(np.arange(60) < 29, 2.5 - reward, -100.0))
        assert entropy_gain_at_equal_reward(log, self.BASE) == 0.5

    @pytest.mark.parametrize("seed", range(5))
    def test_swapping_the_runs_flips_the_sign(self, seed):
        log, base = noisy_curves([seed, 0]), noisy_curves([seed, 1])
        gain = entropy_gain_at_equal_reward(log, base)
        assert gain != 0
        assert entropy_gain_at_equal_reward(base, log) == -gain
        assert entropy_gain_at_equal_reward(log, log) == 0

    def test_without_a_common_range_there_is_no_value(self):
        above = self.BASE.assign(**{"reward/mean": self.BASE["reward/mean"] + 1.0})
        assert math.isnan(entropy_gain_at_equal_reward(above, self.BASE))
        assert math.isnan(entropy_gain_at_equal_reward(self.BASE, above))

    @pytest.mark.parametrize("steps", [1, WINDOW - 1, WINDOW])
    def test_a_run_that_is_too_short_has_no_value(self, steps):
        assert math.isnan(entropy_gain_at_equal_reward(self.BASE[:steps], self.BASE))
        assert math.isnan(entropy_gain_at_equal_reward(self.BASE, self.BASE[:steps]))


def write_evaluation(folder, evaluation, name="evaluation"):
    (folder / f"{name}.json").write_text(json.dumps({key: list(values) for key, values in evaluation.items()}))
    return folder


class TestHeldOut:
    def test_by_hand(self, tmp_path):
        correct = [0, 1, 5, 9, 10]
        evaluation = {"answer": range(5), "samples": [10] * 5, "correct": correct, "distinct": [0, 1, 4, 2, 6]}
        values = held_out(write_evaluation(tmp_path, evaluation))
        # One in ten and nine in ten are at the edge and not in the middle.
        assert values == pytest.approx(
            {
                "avg": 25 / 50,
                "pass": fmean(1 - math.comb(10 - c, 8) / math.comb(10, 8) for c in correct),
                "distinct": 13 / 5,
                "middle": 1 / 5,
            }
        )

    def test_k_is_at_most_the_number_of_samples(self, tmp_path):
        evaluation = {"answer": [1, 2], "samples": [4, 6], "correct": [1, 1], "distinct": [1, 1]}
        values = held_out(write_evaluation(tmp_path, evaluation))
        assert values["pass"] == pytest.approx((1 + (1 - math.comb(5, 4) / math.comb(6, 4))) / 2)
        assert values["avg"] == pytest.approx((1 / 4 + 1 / 6) / 2)  # prompts count the same, whatever their samples

    def test_of_another_task(self, tmp_path):
        evaluation = {"answer": [1], "samples": [4], "correct": [1], "distinct": [1]}
        assert held_out(write_evaluation(tmp_path, evaluation, "harder"), name="harder")["avg"] == 0.25
