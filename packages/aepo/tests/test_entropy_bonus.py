"""GRPO with an entropy bonus, and the pitfall of its Monte-Carlo estimate."""

from dataclasses import replace

import pytest
import torch

from corollary.kernels import token_stats
from corollary.rl import GRPO, TrainConfig, Trainer, make_algorithm
from corollary.tasks import make_task
from corollary_aepo import EntropyBonus, EntropyBonusConfig, RemainingSum
from corollary_aepo.exact import entropy_of, random_batch, random_position_logits


def bonus_gradient(estimator, logits, actions):
    """Gradient of the bonus alone: advantages are zero."""
    algorithm = EntropyBonus(EntropyBonusConfig(coefficient=1.0, estimator=estimator))
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(generator, logits.detach()[None], torch.ones(len(actions), dtype=torch.int64))
    batch = replace(batch, advantages=torch.zeros_like(batch.advantages))
    stats = token_stats(logits.expand(len(actions), 1, -1), actions[:, None], stats=("log_prob", "entropy"))
    (gradient,) = torch.autograd.grad(algorithm.token_loss(batch, stats).mean(), logits)
    return -gradient


ODDS = torch.tensor([16, 4, 4, 1])


def test_the_analytic_bonus_has_the_gradient_of_the_entropy():
    logits = ODDS.double().log().requires_grad_()
    (expected,) = torch.autograd.grad(entropy_of(logits), logits)
    actions = torch.tensor([0, 3])
    torch.testing.assert_close(bonus_gradient("analytic", logits, actions), expected)


def test_the_monte_carlo_bonus_has_no_gradient_on_average():
    """A sample with exactly the policy's frequencies: the expectation, without noise."""
    logits = ODDS.double().log().requires_grad_()
    actions = torch.repeat_interleave(torch.arange(4), ODDS)
    gradient = bonus_gradient("mc", logits, actions)
    assert gradient.abs().max() < 1e-15
    assert bonus_gradient("analytic", logits, actions).abs().max() > 0.1


def test_without_a_coefficient_it_is_grpo_to_the_bit():
    def trained(algorithm):
        torch.set_num_threads(1)
        policy = RemainingSum()
        policy.table.data.normal_(0, 1, generator=torch.Generator().manual_seed(0))
        config = TrainConfig(prompts_per_step=4, group_size=2, mini_batches=2, learning_rate=0.05)
        run = Trainer(policy, make_task("digit-sum"), algorithm, config, seed=0)
        run.step()
        return policy.table.detach()

    assert torch.equal(trained(EntropyBonus(EntropyBonusConfig(coefficient=0.0))), trained(GRPO()))
    assert not torch.equal(trained(EntropyBonus()), trained(GRPO()))


def test_the_bonus_enters_with_its_coefficient():
    generator = torch.Generator().manual_seed(0)
    logits = random_position_logits(generator)
    batch = random_batch(generator, logits, torch.full((4,), 5))
    stats = token_stats(logits.expand(4, -1, -1), batch.rollouts.completion_ids, stats=("log_prob", "entropy"))
    ours = EntropyBonus(EntropyBonusConfig(coefficient=0.5)).token_loss(batch, stats)
    torch.testing.assert_close(ours, GRPO().token_loss(batch, stats) - 0.5 * entropy_of(logits))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficient": -1.0}, "coefficient must be finite and at least 0, got -1.0"),
        ({"estimator": "guess"}, r"estimator must be one of \('analytic', 'mc'\), got 'guess'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm("aepo-entropy-bonus", **options)
