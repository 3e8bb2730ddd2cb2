import math

import pytest
import torch

from corollary_adora.bandit import (
    LENGTHS,
    RIGHT,
    attenuation,
    composition_probabilities,
    drift,
    enumerate_groups,
    mean_advantages,
    policy_gradient,
)
from corollary_adora.exact import INSTANCE, brute_force, random_policies
from corollary_adora.label_noise import difficulty_flip


def test_compositions_are_all_and_their_probabilities_add_up():
    groups = enumerate_groups(5, attenuation(0.1))
    assert len(groups.counts) == math.comb(8, 3)
    assert (groups.counts.sum(1) == 5).all()
    total = composition_probabilities(groups.counts, random_policies(0, 20)).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("size", "weight", "expected"),
    [
        (2, 0.1, [0.0424, 0.2970, -0.0919, -0.0283]),
        (5, 0.1, [0.2873, 0.8705, -0.3120, -0.2423]),
        (5, 1.0, [0.9315, 0.9315, -0.6210, -0.6210]),
    ],
)
def test_figures_of_the_readme(size, weight, expected):
    ours = mean_advantages(enumerate_groups(size, attenuation(weight)), INSTANCE)[0]
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("size", "weight", "length", "accuracy"),
    [(2, 1.0, -0.0028, 0.0481), (2, 0.1, 0.0046, 0.0104), (4, 1.0, -0.0056, 0.0954), (4, 0.1, 0.0075, 0.0340)],
)
def test_drifts_of_the_readme(size, weight, length, accuracy):
    gradient = policy_gradient(mean_advantages(enumerate_groups(size, attenuation(weight)), INSTANCE), INSTANCE)
    assert drift(LENGTHS, gradient, INSTANCE).item() == pytest.approx(length, abs=5e-5)
    assert drift(RIGHT, gradient, INSTANCE).item() == pytest.approx(accuracy, abs=5e-5)


def test_drift_is_the_change_of_the_mean_along_the_gradient():
    p = random_policies(3, 6)
    gradient = torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 1e-5
    up, down = (torch.softmax(p.log() + sign * step * gradient, -1) for sign in (1, -1))
    change = ((up - down) * LENGTHS).sum(-1) / (2 * step)
    torch.testing.assert_close(drift(LENGTHS, gradient, p), change, atol=1e-9, rtol=0)


def test_the_gradient_is_that_of_the_expected_advantage():
    advantages = torch.tensor([[0.3, -1.0, 2.0, 0.1]], dtype=torch.float64)
    logits = INSTANCE.log().requires_grad_()
    (torch.softmax(logits, -1) * advantages).sum().backward()
    torch.testing.assert_close(policy_gradient(advantages, INSTANCE), logits.grad, atol=1e-14, rtol=0)


def test_grpo_does_not_see_length():
    ours = mean_advantages(enumerate_groups(4, attenuation(1.0)), random_policies(1, 50))
    torch.testing.assert_close(ours[:, 0], ours[:, 1], atol=1e-12, rtol=0)
    torch.testing.assert_close(ours[:, 2], ours[:, 3], atol=1e-12, rtol=0)


def test_brute_force_knows_grpo_in_closed_form():
    """Pairs: a response has an advantage of 1 / sqrt 2 if the other one differs in being right."""
    a, b, c, d = 0.3, 0.1, 0.4, 0.2
    right, wrong = (c + d) / math.sqrt(2), -(a + b) / math.sqrt(2)
    assert brute_force([a, b, c, d], 2, 1.0) == pytest.approx([right, right, wrong, wrong], abs=1e-15)


@pytest.mark.parametrize(("success", "size"), [(0.5, 1), (0.3, 1)])
def test_a_group_of_one_flips_as_a_coin(success, size):
    assert difficulty_flip(success, size) == pytest.approx(2 * success * (1 - success))


def test_a_certain_prompt_never_flips():
    assert difficulty_flip(0.0, 8) == 0.0
    assert difficulty_flip(1.0, 8) == 0.0


def test_odd_groups_at_the_threshold_are_a_coin_toss():
    assert difficulty_flip(0.5, 7) == pytest.approx(0.5)
