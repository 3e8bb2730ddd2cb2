import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corollary.rl import group_advantages


def t(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def test_a_group_worked_out_by_hand():
    # Group 0: rewards 1, 0, 0, 1, mean 1/2, unbiased variance 4 * 1/4 / 3 = 1/3.
    advantages = group_advantages(t(1, 0, 0, 1), torch.zeros(4, dtype=torch.long), eps=0.0)
    torch.testing.assert_close(advantages, t(1, -1, -1, 1) * math.sqrt(3) / 2)


def test_the_standard_deviation_is_unbiased_and_eps_is_added_to_it():
    advantages = group_advantages(t(2, 0), torch.tensor([7, 7]), eps=0.5)
    torch.testing.assert_close(advantages, t(1, -1) / (math.sqrt(2) + 0.5))


def test_members_of_a_group_need_not_be_neighbours():
    rewards = t(1, 5, 0, 9)
    mixed = group_advantages(rewards, torch.tensor([3, 8, 3, 8]))
    sorted_ = group_advantages(rewards[[0, 2, 1, 3]], torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(mixed[[0, 2, 1, 3]], sorted_)


def test_scale_none_only_centres():
    advantages = group_advantages(t(1, 0, 0, 0, 4, 2), torch.tensor([0, 0, 0, 0, 1, 1]), scale="none")
    torch.testing.assert_close(advantages, t(0.75, -0.25, -0.25, -0.25, 1, -1))


def test_scale_batch_divides_by_the_deviation_of_all_rewards():
    rewards = t(1, 0, 4, 2)
    advantages = group_advantages(rewards, torch.tensor([0, 0, 1, 1]), scale="batch", eps=0.0)
    torch.testing.assert_close(advantages, t(0.5, -0.5, 1, -1) / rewards.std())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_equal_rewards_give_exactly_zero(dtype, eps):
    # In float32 the mean of three times 0.1 is not 0.1, and 1e-6 in the denominator blows the difference up.
    advantages = group_advantages(torch.full((3,), 0.1, dtype=dtype), torch.zeros(3, dtype=torch.long), eps=eps)
    assert advantages.tolist() == [0.0, 0.0, 0.0]


def test_a_single_response_is_its_own_advantage_in_mode_raw():
    with pytest.warns(UserWarning, match="1 of 2 groups have a single response"):
        advantages = group_advantages(t(0.7, 1, 0), torch.tensor([0, 1, 1]), eps=0.0)
    assert advantages[0].item() == pytest.approx(0.7)


def test_a_single_response_gets_nothing_in_mode_zero():
    with pytest.warns(UserWarning, match="no baseline"):
        advantages = group_advantages(t(0.7, 1, 0), torch.tensor([0, 1, 1]), singleton="zero")
    assert advantages[0].item() == 0.0


def test_a_single_response_is_refused_in_mode_error():
    with pytest.raises(ValueError, match="at least 2 responses"):
        group_advantages(t(0.7, 1, 0), torch.tensor([0, 1, 1]), singleton="error")


@given(
    st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 3)), min_size=8, max_size=40),
    st.floats(0.1, 10),
    st.floats(-5, 5),
)
def test_affine_changes_of_the_reward_do_not_matter(pairs, factor, shift):
    # Four members of each group make sure that nobody is alone.
    rewards = t(*[r for r, _ in pairs], *[float(i) for i in range(16)])
    groups = torch.tensor([g for _, g in pairs] + [i // 4 for i in range(16)])
    before = group_advantages(rewards, groups, eps=0.0)
    after = group_advantages(rewards * factor + shift, groups, eps=0.0)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    for g in range(4):
        assert before[groups == g].sum().abs() < 1e-9


def test_the_result_is_float32_unless_the_rewards_are_float64():
    groups = torch.tensor([0, 0])
    assert group_advantages(t(1, 0, dtype=torch.int64), groups).dtype == torch.float32
    assert group_advantages(t(1, 0, dtype=torch.bfloat16), groups).dtype == torch.float32
    assert group_advantages(t(1, 0), groups).dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((t(1, 0), torch.tensor([0, 0, 1])), {}, r"both be \(B,\), got \(2,\) and \(3,\)"),
        ((torch.ones(2, 2), torch.ones(2, 2).long()), {}, r"both be \(B,\)"),
        ((t(), torch.tensor([], dtype=torch.long)), {}, "empty batch"),
        ((t(1, float("nan")), torch.tensor([0, 0])), {}, "rewards must be finite, got nan"),
        ((t(1, 0), t(0, 0)), {}, "group_ids must be integers, got torch.float64"),
        ((t(1, 0), torch.tensor([0, 0])), {"scale": "std"}, "scale must be one of"),
        ((t(1, 0), torch.tensor([0, 0])), {"singleton": "skip"}, "singleton must be one of"),
        ((t(1, 0), torch.tensor([0, 0])), {"eps": -1.0}, "eps must be at least 0"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(*arguments, **options)
