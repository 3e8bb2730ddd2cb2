import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corollary.rl import (
    GRPO,
    OPO,
    RLOO,
    group_advantages,
    leave_one_out_advantages,
    length_weighted_advantages,
    make_algorithm,
)
from corollary.rl.baselines import opo, rloo


def t(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


GROUPS = torch.tensor([0, 1, 0, 1, 0, 1, 1])
REWARDS = t(1, 5, 0, 1, 0.5, 2, 4)
LENGTHS = torch.tensor([1, 4, 2, 4, 3, 1, 1])


def check_leave_one_out(function):
    expected = torch.empty_like(REWARDS)
    for i, (reward, group) in enumerate(zip(REWARDS, GROUPS, strict=True)):
        others = [r for j, r in enumerate(REWARDS) if j != i and GROUPS[j] == group]
        expected[i] = reward - sum(others) / len(others)
    torch.testing.assert_close(function(REWARDS, GROUPS), expected)


def test_each_baseline_is_the_mean_of_the_others():
    check_leave_one_out(leave_one_out_advantages)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=12))
def test_leaving_one_out_is_a_factor_on_the_centred_reward(rewards):
    values, groups = t(*rewards), torch.zeros(len(rewards), dtype=torch.long)
    size = len(rewards)
    expected = size / (size - 1) * (values - values.mean())
    torch.testing.assert_close(leave_one_out_advantages(values, groups), expected, rtol=1e-9, atol=1e-9)


def check_length_weighted(function):
    """The baseline is the minimum of sum_i l_i (R_i - b)^2: by hand, and against every other b."""
    advantages = function(REWARDS, LENGTHS, GROUPS)
    baselines = [(1 * 1 + 2 * 0 + 3 * 0.5) / 6, (4 * 5 + 4 * 1 + 1 * 2 + 1 * 4) / 10]
    torch.testing.assert_close(advantages, REWARDS - t(*baselines)[GROUPS])
    for group, best in enumerate(baselines):
        rewards, lengths = REWARDS[group == GROUPS], LENGTHS[group == GROUPS]
        losses = [(lengths * (rewards - b) ** 2).sum() for b in torch.linspace(-1, 6, 701, dtype=torch.float64)]
        assert min(losses) >= (lengths * (rewards - best) ** 2).sum()
        # The first-order condition: advantages are centred in the measure of the tokens.
        assert (lengths * advantages[group == GROUPS]).sum().abs() < 1e-12


def test_the_baseline_of_opo_minimises_the_length_weighted_square():
    check_length_weighted(length_weighted_advantages)


def test_with_equal_lengths_opo_only_centres():
    lengths = torch.full((7,), 6)
    torch.testing.assert_close(
        length_weighted_advantages(REWARDS, lengths, GROUPS), group_advantages(REWARDS, GROUPS, scale="none")
    )


def test_a_group_without_tokens_keeps_its_rewards():
    lengths = torch.tensor([0, 1, 0, 1, 0, 1, 1])
    advantages = length_weighted_advantages(REWARDS, lengths, GROUPS)
    torch.testing.assert_close(advantages[GROUPS == 0], REWARDS[GROUPS == 0])


def expected_gradient(advantages_of, group_size=3):
    """The expectation of the mean of A_i grad log pi(a_i) over all groups of a bandit, and the true gradient of J."""
    rewards = t(0.0, 1.0, 3.0)
    logits = t(0.3, -0.2, 0.5).requires_grad_()
    p = logits.softmax(0)
    (true,) = torch.autograd.grad((p * rewards).sum(), logits)
    p = p.detach()
    scores = torch.eye(3, dtype=torch.float64) - p  # row a: grad log pi(a)
    total = torch.zeros(3, dtype=torch.float64)
    for actions in itertools.product(range(3), repeat=group_size):
        chosen = torch.tensor(actions)
        weight = p[chosen].prod()
        total += weight * (advantages_of(rewards[chosen])[:, None] * scores[chosen]).mean(0)
    return total, true


def check_unbiased(function):
    mean, true = expected_gradient(lambda r: function(r, torch.zeros(3, dtype=torch.long)))
    torch.testing.assert_close(mean, true, rtol=0, atol=1e-12)


def test_rloos_policy_gradient_is_unbiased():
    check_unbiased(leave_one_out_advantages)


def test_a_baseline_that_contains_the_response_shrinks_the_gradient_and_a_deviation_turns_it():
    zeros = torch.zeros(3, dtype=torch.long)
    mean, true = expected_gradient(lambda r: group_advantages(r, zeros, scale="none"))
    torch.testing.assert_close(mean, 2 / 3 * true, rtol=0, atol=1e-12)
    mean, true = expected_gradient(lambda r: group_advantages(r, zeros))
    assert torch.cosine_similarity(mean, true, dim=0) < 0.999


def test_equal_rewards_give_exactly_zero():
    rewards, groups = torch.full((3,), 0.1), torch.zeros(3, dtype=torch.long)
    assert leave_one_out_advantages(rewards, groups).tolist() == [0.0] * 3
    assert length_weighted_advantages(rewards, torch.tensor([1, 2, 3]), groups).tolist() == [0.0] * 3


def both(rewards, groups, **options):
    lengths = torch.ones(len(rewards))
    return [
        leave_one_out_advantages(rewards, groups, **options),
        length_weighted_advantages(rewards, lengths, groups, **options),
    ]


def test_a_single_response_is_treated_as_in_grpo():
    rewards, groups = t(0.7, 1, 0), torch.tensor([0, 1, 1])
    with pytest.warns(UserWarning, match="1 of 3 groups|1 of 2 groups have a single response"):
        assert [a[0].item() for a in both(rewards, groups)] == [0.7, 0.7]
    with pytest.warns(UserWarning, match="no baseline"):
        assert [a[0].item() for a in both(rewards, groups, singleton="zero")] == [0.0, 0.0]
    with pytest.raises(ValueError, match="at least 2 responses"):
        both(rewards, groups, singleton="error")


def test_the_algorithms_use_these_advantages(hand_made):
    batch = hand_made(
        [[-1.0] * 4] * 7,
        advantages=[[0.0] * 4] * 7,
        mask=[[k < n for k in range(4)] for n in LENGTHS.tolist()],
        rewards=REWARDS.tolist(),
        groups=GROUPS.tolist(),
    )
    expected = length_weighted_advantages(REWARDS.float(), LENGTHS, GROUPS)
    torch.testing.assert_close(OPO().advantages(batch.rollouts), expected)
    torch.testing.assert_close(RLOO().advantages(batch.rollouts), leave_one_out_advantages(REWARDS.float(), GROUPS))


@pytest.mark.parametrize("algorithm", [RLOO(), OPO()], ids=lambda a: type(a).__name__)
def test_they_train_and_micro_batches_do_not_matter(easy_trainer, algorithm):
    trained = []
    for size in (None, 1, 5):
        run = easy_trainer(algorithm, micro_batch_size=size)
        run.train()
        trained.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    torch.testing.assert_close(trained[1], trained[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(trained[2], trained[0], rtol=0, atol=1e-12)
    plain = easy_trainer(GRPO())
    plain.train()
    assert (torch.cat([p.detach().flatten() for p in plain.model.parameters()]) - trained[0]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rloo", {"advantage_scale": "group"}, "advantage_scale must be 'none' here, got 'group'"),
        ("opo", {"advantage_scale": "batch"}, "advantage_scale must be 'none' here, got 'batch'"),
        ("rloo", {"singleton": "skip"}, "singleton must be one of"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm(name, **options)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.ones(6), r"lengths must be \(B,\) = \(7,\), got \(6,\)"),
        (-torch.ones(7), "lengths must be finite and at least 0, got -1.0 to -1.0"),
        (torch.full((7,), float("inf")), "lengths must be finite"),
    ],
)
def test_bad_lengths_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        length_weighted_advantages(REWARDS, lengths, GROUPS)


def test_bad_rewards_are_refused():
    with pytest.raises(ValueError, match="rewards must be finite, got nan"):
        both(t(1, float("nan")), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="singleton must be one of"):
        both(t(1, 0), torch.tensor([0, 0]), singleton="skip")


def test_planted_bugs_are_found():
    def including_itself(rewards, groups):
        return group_advantages(rewards, groups, scale="none")

    def wrong_factor(rewards, groups):
        return leave_one_out_advantages(rewards, groups) * 2 / 3

    def unweighted(rewards, lengths, groups):
        return group_advantages(rewards, groups, scale="none")

    def weighted_by_the_square(rewards, lengths, groups):
        return length_weighted_advantages(rewards, lengths**2, groups)

    for bug in (including_itself, wrong_factor):
        for check in (check_leave_one_out, check_unbiased):
            with pytest.raises(AssertionError):
                check(bug)
    for bug in (unweighted, weighted_by_the_square):
        with pytest.raises(AssertionError):
            check_length_weighted(bug)


def test_an_algorithm_with_a_wrong_advantage_is_found(monkeypatch, hand_made):
    plain = group_advantages
    bugs = [
        (rloo, "leave_one_out_advantages", lambda r, g, singleton: plain(r, g, scale="none")),
        (opo, "length_weighted_advantages", lambda r, n, g, singleton: plain(r, g, scale="none")),
    ]
    for module, name, bug in bugs:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, bug)
            with pytest.raises(AssertionError):
                test_the_algorithms_use_these_advantages(hand_made)


def test_opos_setting_has_a_ratio_of_one(easy_trainer):
    metrics = easy_trainer(OPO(), mini_batches=1, learning_rate=1.0).step()
    assert metrics["clip/high"] == metrics["clip/low"] == metrics["clip/dual"] == 0.0
