from functools import partial

import pytest
import torch

from corollary.rl import group_advantages
from corollary_adora import AdoraConfig, adora_weights, normalised, permuted_over_groups, weighted_advantages

REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
LENGTHS = torch.tensor([9, 5, 5, 2, 2, 8])
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])
RULE = partial(adora_weights, config=AdoraConfig(correct_threshold=0.5))
WEIGHTS = torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1, 0.1], dtype=torch.float64)


def leave_one_out(rewards, group_ids):
    """RLOO: each reward less the mean of the others of its group."""
    others = [(group_ids == g) & (torch.arange(len(rewards)) != row) for row, g in enumerate(group_ids)]
    return rewards - torch.stack([rewards[other].mean() for other in others])


def raw(rewards, group_ids):
    return rewards


def per_token(rewards, group_ids):
    return group_advantages(rewards, group_ids)[:, None] * torch.arange(1.0, 4.0, dtype=torch.float64)


ESTIMATORS = [
    group_advantages,
    partial(group_advantages, scale="none"),
    partial(group_advantages, scale="batch"),
    leave_one_out,
    raw,
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["group", "none", "batch", "leave-one-out", "raw"])
def test_the_weight_multiplies_any_estimate(estimator):
    ours = weighted_advantages(REWARDS, LENGTHS, GROUPS, weighting=RULE, estimator=estimator)
    assert torch.equal(ours, estimator(REWARDS, GROUPS) * WEIGHTS)


def test_advantages_of_tokens_are_weighted_by_row():
    ours = weighted_advantages(REWARDS, LENGTHS, GROUPS, weighting=RULE, estimator=per_token)
    assert torch.equal(ours, per_token(REWARDS, GROUPS) * WEIGHTS[:, None])


def test_groups_keep_their_zero_mean():
    ours = weighted_advantages(REWARDS, LENGTHS, GROUPS, weighting=RULE)
    assert ours[:3].sum().abs() < 1e-15
    assert ours[3:].sum().abs() < 1e-15
    assert ours.abs().min() > 0


def test_a_weighting_of_ones_own():
    def harder_counts_more(correct, lengths, group_ids):
        return torch.where(group_ids == 0, 3.0, 0.5)

    ours = weighted_advantages(REWARDS, LENGTHS, GROUPS, weighting=harder_counts_more)
    assert torch.equal(ours, group_advantages(REWARDS, GROUPS) * torch.where(GROUPS == 0, 3.0, 0.5))


def test_the_estimators_type_is_kept():
    ours = weighted_advantages(REWARDS.float(), LENGTHS, GROUPS, weighting=lambda *_: WEIGHTS)
    assert ours.dtype == torch.float32


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (WEIGHTS[:3], r"weights must be \(B,\) = \(6,\), got \(3,\)"),
        (-WEIGHTS, "weights must be finite and at least 0, got -1.0"),
        (WEIGHTS / 0, "weights must be finite and at least 0, got inf"),
        (WEIGHTS * torch.nan, "weights must be finite and at least 0, got nan"),
    ],
)
def test_weights_that_are_none_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        weighted_advantages(REWARDS, LENGTHS, GROUPS, weighting=lambda *_: weights)


def test_normalised_weights_have_mean_one_and_the_same_ratios():
    assert normalised(WEIGHTS).mean().item() == pytest.approx(1.0, abs=1e-15)
    torch.testing.assert_close(normalised(WEIGHTS) / WEIGHTS, torch.full_like(WEIGHTS, 1 / 0.55))
    assert normalised(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_permuted_weights_are_the_same_numbers_on_other_groups():
    group_ids = torch.arange(40).repeat(2)
    weights = (group_ids % 5).double()
    shuffled = permuted_over_groups(
        weights, group_ids, torch.ones(80, dtype=torch.bool), generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(shuffled[:40], shuffled[40:])
    assert torch.equal(shuffled.sort().values, weights.sort().values)
    assert not torch.equal(shuffled, weights)


def test_groups_that_take_no_part_keep_their_weight():
    group_ids = torch.arange(40)
    among = group_ids >= 20
    shuffled = permuted_over_groups(group_ids.double(), group_ids, among, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shuffled[:20], group_ids[:20].double())
    assert torch.equal(shuffled[20:].sort().values, group_ids[20:].double())
    assert not torch.equal(shuffled[20:], group_ids[20:].double())


def test_a_permutation_is_uniform():
    generator = torch.Generator().manual_seed(0)
    group_ids, everyone = torch.arange(4), torch.ones(4, dtype=torch.bool)
    draws = torch.stack(
        [permuted_over_groups(group_ids.double(), group_ids, everyone, generator=generator) for _ in range(2000)]
    )
    share = torch.stack([(draws == k).double().mean(0) for k in range(4)])
    # Four standard errors of a share of 1/4.
    assert (share - 0.25).abs().max() < 4 * (0.1875 / 2000) ** 0.5
