from dataclasses import replace

import pytest
import torch

from corollary.rl import aggregate
from corollary_aepo import implicit_alpha, mix_batch
from corollary_aepo.exact import log_prob_mean, position_log_probs, random_batch, random_position_logits, surrogate_mean
from corollary_aepo.mixing import REINFORCE, WEIGHT

CHOSEN = torch.tensor([1, 4])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def logits(generator):
    return random_position_logits(generator)


def samples(generator, logits, lengths=None, second=None):
    lengths = torch.full((12,), 5) if lengths is None else lengths
    second = torch.full((8,), 5) if second is None else second
    return random_batch(generator, logits, lengths), random_batch(generator, logits, second, first_group=3)


def test_replacing_keeps_the_size_and_drops_the_first_responses(generator, logits):
    batch, second = samples(generator, logits)
    mixed = mix_batch(batch, second, CHOSEN)
    assert len(mixed) == len(batch)
    assert torch.equal(mixed.rollouts.completion_ids[:2], second.rollouts.completion_ids[CHOSEN])
    assert torch.equal(mixed.rollouts.completion_ids[2:], batch.rollouts.completion_ids[2:])
    assert torch.equal(mixed.old_log_probs[:2], second.old_log_probs[CHOSEN])
    assert torch.equal(mixed.advantages[:2], torch.ones(2, 5, dtype=torch.float64))
    assert torch.equal(mixed.advantages[2:], batch.advantages[2:])
    assert mixed.per_token[REINFORCE].any(1).tolist() == [True] * 2 + [False] * 10
    assert torch.equal(mixed.per_token[WEIGHT], torch.ones(12, 5, dtype=torch.float64))


def test_adding_keeps_every_response(generator, logits):
    batch, second = samples(generator, logits)
    mixed = mix_batch(batch, second, CHOSEN, mode="additive", alpha=0.5)
    assert len(mixed) == len(batch) + 2
    assert torch.equal(mixed.advantages[2:], batch.advantages)


def test_the_advantage_is_one_on_tokens_and_zero_on_padding(generator, logits):
    batch, second = samples(generator, logits, second=torch.tensor([5, 2, 5, 5, 3, 5, 5, 5]))
    mixed = mix_batch(batch, second, CHOSEN)
    assert mixed.advantages[:2].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]


def test_no_choice_is_the_batch_as_it_was(generator, logits):
    batch, second = samples(generator, logits)
    for mode in ("replace", "additive"):
        mixed = mix_batch(batch, second, CHOSEN[:0], mode=mode)
        assert torch.equal(mixed.advantages, batch.advantages)
        assert torch.equal(mixed.rollouts.completion_ids, batch.rollouts.completion_ids)
        assert torch.equal(mixed.per_token[WEIGHT], torch.ones(12, 5, dtype=torch.float64))


def test_every_response_may_be_replaced(generator, logits):
    batch, second = samples(generator, logits, lengths=torch.full((4,), 5))
    mixed = mix_batch(batch, replace(second), torch.arange(4))
    assert mixed.per_token[REINFORCE].all()


@pytest.mark.parametrize(("placement", "in_order"), [("shuffled", False), ("front", True)])
def test_placement_says_whether_rows_keep_their_order(generator, logits, placement, in_order):
    batch, second = samples(generator, logits)
    mixed = mix_batch(
        replace(batch, generator=generator, metrics={"a": 1.0}, extra=second), second, CHOSEN, placement=placement
    )
    assert mixed.in_order is in_order
    assert mixed.extra is None
    assert mixed.generator is generator
    assert mixed.metrics == {"a": 1.0}


def test_a_masked_response_adds_nothing(generator, logits):
    batch, second = samples(generator, logits)
    second = replace(second, mask=second.mask & (torch.arange(8) != 4)[:, None])
    mixed = mix_batch(batch, second, CHOSEN, mode="additive", alpha=0.5)
    assert not mixed.mask[1].any()
    assert mixed.per_token[WEIGHT].isfinite().all()


def additive(batch, second, alpha, logits):
    """Token losses of the additive mode, written out, and the mixed batch."""
    mixed = mix_batch(batch, second, CHOSEN, mode="additive", alpha=alpha)
    log_probs = position_log_probs(logits, mixed.rollouts.completion_ids)
    ratio = (log_probs - mixed.old_log_probs).exp()
    loss = torch.where(mixed.per_token[REINFORCE], -log_probs, -mixed.advantages * ratio) * mixed.per_token[WEIGHT]
    return loss, mixed


def test_the_additive_loss_of_one_mini_batch_is_the_formula(generator, logits):
    batch, second = samples(
        generator,
        logits,
        torch.randint(1, 6, (12,), generator=generator),
        torch.randint(1, 6, (8,), generator=generator),
    )
    loss, mixed = additive(batch, second, 0.7, logits)
    expected = surrogate_mean(batch, logits) + 0.7 * log_prob_mean(second, CHOSEN, logits)
    torch.testing.assert_close(aggregate(loss, mixed.mask), expected, rtol=0, atol=1e-12)


def test_the_mean_over_mini_batches_of_equally_many_tokens_is_the_formula(generator, logits):
    batch, second = samples(generator, logits)
    loss, mixed = additive(batch, second, 0.7, logits)
    parts = torch.randperm(14, generator=generator).tensor_split(7)
    mean = torch.stack([aggregate(loss[part], mixed.mask[part]) for part in parts]).mean()
    expected = surrogate_mean(batch, logits) + 0.7 * log_prob_mean(second, CHOSEN, logits)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)


def test_the_mean_over_mini_batches_of_unequal_sizes_is_not(generator, logits):
    """What the docstring owns up to."""
    batch, second = samples(generator, logits)
    loss, mixed = additive(batch, second, 0.7, logits)
    parts = torch.arange(14).split([1, 13])
    mean = torch.stack([aggregate(loss[part], mixed.mask[part]) for part in parts]).mean()
    expected = surrogate_mean(batch, logits) + 0.7 * log_prob_mean(second, CHOSEN, logits)
    assert (mean - expected).abs() > 1e-3


def test_the_implicit_alpha_is_the_odds_of_a_replaced_response():
    assert implicit_alpha(60, 2560) == pytest.approx((60 / 2560) / (1 - 60 / 2560))
    assert implicit_alpha(0, 5) == 0
    with pytest.raises(ValueError, match="chosen must be at least 0 and less than the batch's 5 responses, got 5"):
        implicit_alpha(5, 5)


def test_more_than_the_batch_cannot_be_replaced(generator, logits):
    batch, second = samples(generator, logits, lengths=torch.full((4,), 5))
    with pytest.raises(ValueError, match="at most the batch's 4 responses can be replaced, got 5"):
        mix_batch(batch, second, torch.arange(5))


def test_group_ids_of_both_samples_are_refused(generator, logits):
    batch = random_batch(generator, logits, torch.full((12,), 5))
    second = random_batch(generator, logits, torch.full((8,), 5), first_group=2)
    with pytest.raises(ValueError, match="the second sample's group ids must differ from the batch's, got 2 in both"):
        mix_batch(batch, second, CHOSEN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "stir"}, r"mode must be one of \('replace', 'additive'\), got 'stir'"),
        ({"placement": "back"}, r"placement must be one of \('shuffled', 'front'\), got 'back'"),
        ({"alpha": 0.5}, "alpha belongs to mode='additive'; in mode='replace' it is implied, got 0.5"),
        ({"mode": "additive", "alpha": -1.0}, "alpha must be finite and at least 0, got -1.0"),
    ],
)
def test_bad_options_are_refused(generator, logits, options, message):
    with pytest.raises(ValueError, match=message):
        mix_batch(*samples(generator, logits), CHOSEN, **options)


def test_a_mask_in_place_of_row_numbers_is_refused(generator, logits):
    with pytest.raises(ValueError, match=r"chosen must be row numbers, shape \(m,\), got \(8,\) of torch.float32"):
        mix_batch(*samples(generator, logits), torch.ones(8))
