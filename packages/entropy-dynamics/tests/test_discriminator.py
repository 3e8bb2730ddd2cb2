import math

import pytest
import torch

from corollary.kernels import TokenStats, token_stats
from corollary_entropy_dynamics import deviation, entropy_discriminator, predicted_entropy_change, vocabulary_mean
from corollary_entropy_dynamics.exact import (
    ALL,
    entropy_of,
    every_token,
    policy_gradients,
    random_logits,
    slope,
    unit_vectors,
)


@pytest.mark.parametrize("logits", random_logits(7), ids=lambda z: f"V={z.shape[1]}")
class TestOnRandomSoftmaxes:
    def test_a_single_logit_moves_the_entropy_by_minus_s(self, logits):
        s = entropy_discriminator(*every_token(logits).required("log_prob", "entropy"))
        torch.testing.assert_close(slope(logits, unit_vectors(logits)), -s, atol=1e-8, rtol=0)

    def test_a_policy_gradient_step_moves_it_by_minus_d(self, logits):
        torch.testing.assert_close(
            slope(logits, policy_gradients(logits)), -deviation(every_token(logits)), atol=1e-8, rtol=0
        )

    def test_the_vocabulary_mean_is_the_sum_that_defines_it(self, logits):
        stats = every_token(logits)
        s = entropy_discriminator(*stats.required("log_prob", "entropy"))
        mean = vocabulary_mean(stats)[:, 0]
        torch.testing.assert_close(mean, (torch.softmax(logits, -1) * s).sum(-1), atol=1e-12, rtol=0)

    def test_s_sums_to_zero_and_has_its_lower_bound(self, logits):
        s = entropy_discriminator(*every_token(logits).required("log_prob", "entropy"))
        assert s.sum(-1).abs().max() < 1e-12
        assert (s >= -(-1 - entropy_of(logits)[:, None]).exp() - 1e-12).all()


def test_the_lower_bound_is_attained_where_log_p_is_minus_one_minus_h():
    # S as a function of log p at fixed H has its minimum there.
    entropy = torch.tensor(0.8, dtype=torch.float64)
    s = entropy_discriminator(-1 - entropy, entropy)
    torch.testing.assert_close(s, -(-1 - entropy).exp())


def test_two_tokens_have_d_equal_to_twice_one_minus_p_times_s():
    logits = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    stats = every_token(logits)
    s = entropy_discriminator(*stats.required("log_prob", "entropy"))
    torch.testing.assert_close(deviation(stats), 2 * (1 - torch.softmax(logits, -1)) * s)


@pytest.mark.parametrize("size", [2, 5, 40])
def test_a_uniform_distribution_is_a_critical_point(size):
    stats = every_token(torch.zeros(1, size, dtype=torch.float64))
    assert deviation(stats).abs().max() < 1e-14
    # And a maximum: second differences along a policy gradient are negative.
    direction = policy_gradients(torch.zeros(1, size, dtype=torch.float64))[0, 0]
    assert entropy_of(1e-3 * direction) < entropy_of(torch.zeros(size, dtype=torch.float64))


def test_the_hessian_of_the_entropy_is_the_one_the_second_order_uses():
    logits = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = torch.softmax(logits, -1)
    entropy = entropy_of(logits)
    u = p.log() + entropy
    expected = -p[:, None] * (torch.eye(6) - p[None]) * (u[:, None] + 1) + p[:, None] * p[None] * u[None]
    torch.testing.assert_close(torch.autograd.functional.hessian(entropy_of, logits), expected)


@pytest.mark.parametrize(
    ("advantage", "rare", "rises"), [(1, False, False), (1, True, True), (-1, False, True), (-1, True, False)]
)
def test_the_sign_table(advantage, rare, rises):
    logits = torch.tensor([[3.0, 0.0, 0.0, -1.0]], dtype=torch.float64)
    target = torch.tensor([3 if rare else 0])
    stats = token_stats(logits, target, stats=ALL)
    predicted = predicted_entropy_change(stats, torch.tensor([float(advantage)], dtype=torch.float64))
    assert (predicted > 0).item() == rises
    step = 1e-3 * advantage * (torch.nn.functional.one_hot(target, 4) - torch.softmax(logits, -1))
    assert (entropy_of(logits + step) > entropy_of(logits)).item() == rises


def test_the_prediction_is_linear_in_step_ratio_and_advantage():
    stats = every_token(random_logits(3)[2])
    advantages = torch.randn(50, 5, dtype=torch.float64)
    ratio = torch.rand(50, 5, dtype=torch.float64)
    torch.testing.assert_close(
        predicted_entropy_change(stats, advantages, step_size=0.3, ratio=ratio),
        -0.3 * ratio * advantages * deviation(stats),
    )


def test_nothing_carries_a_gradient():
    logits = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    stats = token_stats(logits, torch.zeros(4, dtype=torch.long), stats=ALL)
    assert not entropy_discriminator(*stats.required("log_prob", "entropy")).requires_grad
    assert not vocabulary_mean(stats).requires_grad
    assert not deviation(stats).requires_grad


def test_a_deterministic_token_has_no_discriminator():
    stats = token_stats(torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([0]), stats=ALL)
    assert deviation(stats).abs().item() < 1e-6


def test_bad_input_is_refused():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(2,\)"):
        entropy_discriminator(x, torch.zeros(2))
    only_entropy = TokenStats(log_prob=x, entropy=x)
    with pytest.raises(ValueError, match="missing sum_p2, sum_p2_log_p"):
        deviation(only_entropy)
    full = TokenStats(x, x, x, x)
    with pytest.raises(ValueError, match=r"shape of the statistics \(2, 3\), got \[\(2,\)\]"):
        predicted_entropy_change(full, torch.zeros(2))


def test_the_sign_changes_at_exp_minus_h():
    entropy = torch.full((2,), 1.3, dtype=torch.float64)
    log_probs = torch.tensor([-1.3 + 1e-9, -1.3 - 1e-9], dtype=torch.float64)
    s = entropy_discriminator(log_probs, entropy)
    assert s[0] > 0 > s[1]
    assert math.isclose(s[0].item(), math.exp(-1.3) * 1e-9, rel_tol=1e-5)


def test_inputs_of_16_bits_are_widened():
    log_probs, entropy = torch.tensor([-0.01], dtype=torch.bfloat16), torch.tensor([0.05], dtype=torch.bfloat16)
    s = entropy_discriminator(log_probs, entropy)
    assert s.dtype == torch.float32
    expected = entropy_discriminator(log_probs.double(), entropy.double())
    torch.testing.assert_close(s.double(), expected, rtol=1e-6, atol=0)
