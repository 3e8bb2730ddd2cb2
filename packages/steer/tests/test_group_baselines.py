import pytest
import torch

from corollary_steer import opo_advantages, rloo_advantages

GROUPS = torch.tensor([0, 1, 0, 1, 0])
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5], dtype=torch.float64)


def test_rloo_leaves_each_response_out_of_its_own_baseline():
    expected = [1 - 0.25, 0 - 1.0, 0 - 0.75, 1 - 0.0, 0.5 - 0.5]
    assert rloo_advantages(REWARDS, GROUPS).tolist() == pytest.approx(expected)


def test_opo_weights_the_baseline_by_length():
    lengths = torch.tensor([1, 3, 2, 1, 2])
    first, second = (1 * 1 + 2 * 0 + 2 * 0.5) / 5, (3 * 0 + 1 * 1) / 4
    expected = [1 - first, 0 - second, 0 - first, 1 - second, 0.5 - first]
    assert opo_advantages(REWARDS, lengths, GROUPS).tolist() == pytest.approx(expected)


def test_with_equal_lengths_opo_is_the_plain_group_mean():
    advantages = opo_advantages(REWARDS, torch.full((5,), 7), GROUPS)
    assert advantages.tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5, 0.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_nothing(dtype):
    rewards, groups = torch.full((7,), 0.1, dtype=dtype), torch.zeros(7, dtype=torch.int64)
    assert rloo_advantages(rewards, groups).tolist() == [0.0] * 7
    opo = opo_advantages(rewards, torch.tensor([3, 5, 7, 11, 13, 17, 19]), groups)
    assert opo.tolist() == [0.0] * 7
    assert opo.dtype == dtype


def test_a_group_of_one_has_no_leave_one_out_baseline():
    with pytest.raises(ValueError, match="every group needs at least 2 responses"):
        rloo_advantages(REWARDS[:1], GROUPS[:1])
    assert opo_advantages(REWARDS[:1], torch.ones(1), GROUPS[:1]).tolist() == [0.0]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"must all be \(B,\), got \(5,\), \(4,\) and \(5,\)"):
        opo_advantages(REWARDS, torch.ones(4), GROUPS)
    with pytest.raises(ValueError, match="lengths must be at least 1, got 0"):
        opo_advantages(REWARDS, torch.tensor([1, 1, 0, 1, 1]), GROUPS)
