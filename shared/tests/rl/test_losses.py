import math

import pytest
import torch

from corollary.rl import (
    TRL_AGGREGATIONS,
    aggregate,
    aggregation_mode,
    binary_mask,
    clip_events,
    clipped_surrogate,
)


def surrogate(ratio, advantage, **options):
    """Loss and its derivative by log-probability at one token."""
    log_prob = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    loss = clipped_surrogate(
        log_prob,
        torch.zeros(1, 1, dtype=torch.float64),
        torch.tensor([[advantage]], dtype=torch.float64),
        **options,
    )
    loss.sum().backward()
    return loss.item(), log_prob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),  # on-policy: the policy gradient -A
        (1.1, 2.0, -2.2, -2.2),
        (1.3, 2.0, -2.4, 0.0),  # upper clip, A > 0
        (0.5, 2.0, -1.0, -1.0),  # a ratio below the range is not clipped for A > 0
        (1.1, -2.0, 2.2, 2.2),
        (0.7, -2.0, 1.6, 0.0),  # lower clip, A < 0
        (1.5, -2.0, 3.0, 3.0),  # above the range, A < 0: not clipped ...
        (3.5, -2.0, 6.0, 0.0),  # ... until the dual clip at c = 3
        (3.5, 0.0, 0.0, 0.0),
    ],
)
def test_each_branch_has_the_value_and_the_gradient_of_the_formula(ratio, advantage, loss, gradient):
    assert surrogate(ratio, advantage) == (pytest.approx(loss), pytest.approx(gradient))


def test_clip_higher_moves_the_upper_bound_only():
    assert surrogate(1.25, 1.0, clip_high=0.28) == (pytest.approx(-1.25), pytest.approx(-1.25))
    assert surrogate(0.75, -1.0, clip_high=0.28) == (pytest.approx(0.8), pytest.approx(0.0))


def test_without_dual_clip_a_bad_token_keeps_its_gradient():
    assert surrogate(3.5, -2.0, dual_clip=None) == (pytest.approx(7.0), pytest.approx(7.0))


def test_the_log_ratio_is_clamped_at_20():
    value, gradient = surrogate(math.exp(30), -1.0, dual_clip=None)
    assert value == pytest.approx(math.exp(20))
    assert gradient == 0.0


def test_the_unclipped_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    log_probs = torch.randn(3, 5, dtype=torch.float64) * 0.3
    old, advantages = torch.randn(3, 5, dtype=torch.float64) * 0.3, torch.randn(3, 5, dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: clipped_surrogate(x, old, advantages), log_probs.requires_grad_())


def test_clip_events_are_the_tokens_without_gradient():
    torch.manual_seed(1)
    log_probs = (torch.randn(40, 50, dtype=torch.float64)).requires_grad_()
    old, advantages = torch.randn(40, 50, dtype=torch.float64), torch.randn(40, 50, dtype=torch.float64)
    clipped_surrogate(log_probs, old, advantages).sum().backward()
    events = clip_events(log_probs, old, advantages)
    assert all(event.any() for event in events)
    assert torch.equal(events.high | events.low | events.dual, log_probs.grad == 0)
    assert not (events.high & (events.low | events.dual)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_low": 1.0}, "clip_low must be in"),
        ({"clip_low": -0.1}, "clip_low must be in"),
        ({"clip_high": -0.1}, "clip_high must be at least 0"),
        ({"clip_high": math.nan}, "clip_high must be at least 0"),
        ({"dual_clip": 1.0}, "dual_clip must be larger than 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=message):
        clipped_surrogate(x, x, x, **options)


def test_an_advantage_per_response_is_not_broadcast_silently():
    x = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"one shape \(B, T\), got \(2, 2\), \(2, 2\) and \(2,\)"):
        clipped_surrogate(x, x, torch.zeros(2))


LOSS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", (1 + 2 + 4) / 3),
        ("seq-mean-token-mean", ((1 + 2) / 2 + 4) / 2),  # the fully masked third row does not count
        ("seq-mean-token-sum", (1 + 2 + 4) / 2),
        ("seq-mean-token-sum-norm", (1 + 2 + 4) / 2 / 10),
    ],
)
def test_the_four_normalisations_by_hand(mode, expected):
    assert aggregate(LOSS, MASK, mode, max_length=10).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("trl", "verl"),
    [
        ("grpo", "seq-mean-token-mean"),
        ("bnpo", "token-mean"),
        ("dapo", "token-mean"),
        ("dr_grpo", "seq-mean-token-sum-norm"),
        ("luspo", "seq-mean-token-sum"),
    ],
)
def test_trl_names_mean_the_same(trl, verl):
    assert aggregation_mode(trl) == verl == TRL_AGGREGATIONS[trl]
    assert aggregate(LOSS, MASK, trl, max_length=10) == aggregate(LOSS, MASK, verl, max_length=10)


def test_trls_dr_grpo_counts_masked_rows():
    # TRL divides by size(0) * max_completion_length whatever the mask.
    expected = (LOSS * MASK).sum() / (3 * 10)
    torch.testing.assert_close(aggregate(LOSS, MASK, "dr_grpo", max_length=10, sequence_count=3), expected)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"])
@pytest.mark.parametrize("sizes", [[1, 2], [2, 1], [1, 1, 1]])
def test_micro_batches_add_up_to_the_mini_batch(mode, sizes):
    kept = MASK.sum(-1)
    counts = {"token_count": float(kept.sum()), "sequence_count": float((kept > 0).sum())}
    parts = sum(
        aggregate(loss, mask, mode, max_length=10, **counts)
        for loss, mask in zip(LOSS.split(sizes), MASK.split(sizes), strict=True)
    )
    torch.testing.assert_close(parts, aggregate(LOSS, MASK, mode, max_length=10))


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"])
def test_an_empty_mask_gives_zero_and_masked_nan_stays_out(mode):
    loss = torch.full((2, 3), math.nan, requires_grad=True)
    value = aggregate(loss, torch.zeros(2, 3), mode, max_length=3)
    value.backward()
    assert value.item() == 0.0
    assert loss.grad.tolist() == [[0.0] * 3] * 2


def test_a_norm_without_a_length_is_refused():
    with pytest.raises(ValueError, match="needs max_length"):
        aggregate(LOSS, MASK, "seq-mean-token-sum-norm")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"aggregation must be one of token-mean, .*got 'mean'"):
        aggregate(LOSS, MASK, "mean")


@pytest.mark.parametrize("value", [0.5, 2.0, math.nan])
def test_a_mask_is_zero_or_one(value):
    mask = torch.ones(2, 2)
    mask[0, 1] = value
    with pytest.raises(ValueError, match="only 0 and 1"):
        binary_mask(mask, torch.Size((2, 2)))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 3\), got \(3,\)"):
        aggregate(LOSS, torch.ones(3))


def test_inputs_of_16_bits_are_widened_before_anything_is_computed():
    log_probs, old = torch.tensor([[-5.03125]], dtype=torch.bfloat16), torch.tensor([[-5.0]], dtype=torch.bfloat16)
    loss = clipped_surrogate(log_probs, old, torch.tensor([[1.0]], dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-math.exp(-0.03125))
    mean = aggregate(torch.tensor([[1.0] * 200 + [2.0]], dtype=torch.bfloat16), torch.ones(1, 201))
    assert mean.item() == pytest.approx(202 / 201)
