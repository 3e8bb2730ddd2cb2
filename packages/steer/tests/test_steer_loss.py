import math

import pytest
import torch

from corollary.rl import GRPO, GRPOConfig, aggregate, clipped_surrogate
from corollary_steer import SteerConfig, SteerLoss, steer_weights
from corollary_steer.exact import BY_HAND
from corollary_steer.synthetic import synthetic_batch

ONES = torch.ones(1, 4)


def evaluate(config=None, tokens=BY_HAND, mask=ONES, **options):
    advantages, entropy, old, new = tokens
    leaf = new.clone().requires_grad_()
    out = SteerLoss(config)(leaf, old, advantages, mask, entropy, **options)
    (gradient,) = torch.autograd.grad(out.loss, leaf)
    return out, gradient


def test_the_loss_worked_out_by_hand():
    # Ratios 2, 1, 1, 1/4 with advantages 1, -1, 0, 2: the first is clipped at 1.28.
    out, gradient = evaluate()
    losses = [-1.28 * 0.7, 1.0 * 0.7**0.5, 0.0, -0.5 * 0.7**0.4]
    assert out.loss.item() == pytest.approx(sum(losses) / 4)
    assert gradient[0].tolist() == pytest.approx([0.0, 0.7**0.5 / 4, 0.0, -0.5 * 0.7**0.4 / 4])
    assert out.metrics["clip/high"] == 0.25
    assert out.metrics["clip/low"] == out.metrics["clip/dual"] == 0


def test_the_normaliser_is_the_number_of_tokens():
    weights = steer_weights(*BY_HAND, ONES).weights
    surrogate = clipped_surrogate(BY_HAND.log_probs, BY_HAND.log_probs_old, BY_HAND.advantages, clip_high=0.28)
    by_weights = (weights * surrogate).sum() / weights.sum()
    out, _ = evaluate()
    assert out.loss.item() == pytest.approx((weights * surrogate).sum().item() / 4)
    assert abs(out.loss.item() - by_weights.item()) > 0.01


def test_the_dual_clip_bounds_the_loss_of_negative_advantages():
    tokens = BY_HAND._replace(
        advantages=torch.tensor([[-1.0, 0, 0, 0]]).double(),
        log_probs_old=torch.tensor([[math.log(0.01), -1, -1, -1]]).double(),
    )
    out, gradient = evaluate(tokens=tokens)  # a ratio of 50
    assert out.loss.item() == pytest.approx(10 * 0.7 / 4)
    assert gradient.abs().max() == 0
    assert out.metrics["clip/dual"] == 0.25


def test_nothing_of_the_padding_reaches_loss_or_gradient():
    batch = synthetic_batch(3)
    out, gradient = evaluate(tokens=batch.tokens, mask=batch.mask)
    broken = type(batch.tokens)(*(torch.where(batch.mask, value, math.nan) for value in batch.tokens))
    other, other_gradient = evaluate(tokens=broken, mask=batch.mask)
    assert other.loss.item() == out.loss.item()
    assert torch.equal(other_gradient, gradient)
    assert other.metrics == out.metrics


def test_without_damping_it_is_grpo_with_the_same_clip_to_the_bit():
    batch = synthetic_batch(4)
    out, gradient = evaluate(SteerConfig(lambda_min=1.0), batch.tokens, batch.mask)
    config = GRPO(GRPOConfig(clip_high=0.28, dual_clip=10.0)).config
    leaf = batch.tokens.log_probs.clone().requires_grad_()
    loss = clipped_surrogate(
        leaf,
        batch.tokens.log_probs_old,
        batch.tokens.advantages,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
    )
    loss = aggregate(loss, batch.mask, config.aggregation)
    assert out.loss.item() == loss.item()
    assert torch.equal(gradient, torch.autograd.grad(loss, leaf)[0])


def test_options_reach_weights_and_normaliser():
    batch = synthetic_batch(5)
    linear, _ = evaluate(SteerConfig(mapping="linear", lambda_min=0.8), batch.tokens, batch.mask)
    assert linear.metrics["weight/max"] == pytest.approx(1.2)
    summed = SteerLoss(SteerConfig(aggregation="seq-mean-token-sum-norm"), max_length=100)
    advantages, entropy, old, new = batch.tokens
    loss = summed(new, old, advantages, batch.mask, entropy).loss
    token_mean, _ = evaluate(tokens=batch.tokens, mask=batch.mask)
    assert loss.item() == pytest.approx(token_mean.loss.item() * batch.mask.sum().item() / (len(batch.mask) * 100))


def test_the_exact_form_needs_its_sums():
    with pytest.raises(ValueError, match="form='exact' needs sum_p2 and sum_p2_log_p"):
        evaluate(SteerConfig(form="exact"))
    sums = {"sum_p2": 0.3 * ONES.double(), "sum_p2_log_p": -0.2 * ONES.double()}
    out, _ = evaluate(SteerConfig(form="exact"), **sums)
    assert out.loss.item() != evaluate()[0].loss.item()


def test_a_missing_entropy_is_named():
    with pytest.raises(ValueError, match=r"entropy must be a \(B, T\) tensor at the behaviour policy, got None"):
        SteerLoss()(ONES, ONES, ONES, ONES, None)


@pytest.mark.parametrize("position", range(5))
def test_shapes_must_agree(position):
    values = [-torch.ones(2, 3), -torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3)]
    values[position] = values[position][:, :1]
    with pytest.raises(ValueError, match="shape"):
        SteerLoss()(*values)
