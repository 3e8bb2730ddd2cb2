import pytest
import torch

from corollary_aepo.drift import entropy_slope, natural_entropy_slope, reinforce_direction, tempered
from corollary_aepo.exact import DIFFERENCE_STEP, entropy_of

LOG_P = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()


def test_tempering_by_hand():
    expected = torch.tensor([16.0, 4, 1, 1], dtype=torch.float64) / 22
    torch.testing.assert_close(tempered(LOG_P, 0.5), expected)


def test_temperature_one_has_no_direction():
    torch.testing.assert_close(reinforce_direction(LOG_P, 1.0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-15)


def test_the_direction_is_the_expected_gradient_of_the_rewarded():
    correct = torch.tensor([True, False, True, False])
    z = LOG_P.clone().requires_grad_()
    q = tempered(LOG_P, 1.2)
    value = (q * correct * torch.log_softmax(z, -1)).sum() / (q * correct).sum()
    (gradient,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(reinforce_direction(LOG_P, 1.2, correct), gradient)


def test_the_slope_is_the_derivative_of_the_entropy():
    direction = torch.tensor([0.3, -0.1, 0.4, -0.6], dtype=torch.float64)
    step = DIFFERENCE_STEP * direction
    expected = (entropy_of(LOG_P + step) - entropy_of(LOG_P - step)) / (2 * DIFFERENCE_STEP)
    torch.testing.assert_close(entropy_slope(LOG_P, direction), expected, rtol=0, atol=1e-9)


def test_the_natural_slope_is_the_derivative_along_the_probabilities():
    direction = reinforce_direction(LOG_P, 1.3)
    p, eps = LOG_P.exp(), 1e-6

    def entropy(x):
        return -(x * x.log()).sum()

    expected = (entropy(p + eps * direction) - entropy(p - eps * direction)) / (2 * eps)
    torch.testing.assert_close(natural_entropy_slope(LOG_P, direction), expected, rtol=0, atol=1e-8)


def test_a_uniform_policy_has_nothing_to_gain():
    uniform = torch.full((5,), 0.2, dtype=torch.float64).log()
    assert entropy_slope(uniform, reinforce_direction(uniform, 2.0)).abs() < 1e-15


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="temperature must be larger than 0, got 0"):
        tempered(LOG_P, 0.0)
    with pytest.raises(ValueError, match="correct must hold at least one action"):
        reinforce_direction(LOG_P, 1.2, torch.zeros(4, dtype=torch.bool))
