"""W-REINFORCE, Dr.GRPO and DAPO."""

from dataclasses import replace

import pytest
import torch

from corollary.rl import (
    DAPO,
    GRPO,
    ClipHigher,
    DAPOConfig,
    DrGRPO,
    GRPOConfig,
    WReinforce,
    WReinforceConfig,
    aggregate,
    group_advantages,
    has_signal,
    make_algorithm,
    overlong_penalty,
    score,
    weighted_rewards,
)
from corollary.rl.baselines import dapo, w_reinforce


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


# W-REINFORCE


def check_weighted_rewards():
    assert w_reinforce.weighted_rewards(t(1, 0, 1, 0.5)).tolist() == [0.1, -1.0, 0.1, -1.0]
    assert w_reinforce.weighted_rewards(t(3, -1), positive_weight=1.0, correct_above=2.0).tolist() == [1.0, -1.0]


def test_right_counts_a_tenth_and_wrong_minus_one():
    check_weighted_rewards()


def test_no_group_matters_to_w_reinforce(hand_made):
    batch = hand_made([[-1.0]] * 4, advantages=[[0.0]] * 4, rewards=[1.0, 1.0, 1.0, 0.0], groups=[0, 0, 1, 1])
    expected = torch.tensor([0.3, 0.3, 0.3, -1.0])
    assert torch.equal(WReinforce(WReinforceConfig(positive_weight=0.3)).advantages(batch.rollouts), expected)
    assert weighted_rewards(torch.tensor([1, 0])).dtype == torch.float32


# Dr.GRPO


def gradient_of(run):
    """The gradient of one strictly on-policy step."""
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=1.0)
    before = weights(run)
    run.step()
    return before - weights(run)


def check_dr_grpo(easy_trainer, algorithm):
    """One on-policy step is the plain policy gradient: a sum over tokens, divided by constants alone."""
    reference = easy_trainer(algorithm, mini_batches=1)
    batch = reference._batch(reference._next_prompts(), 1.0)
    log_prob = score(reference.model, batch.rollouts).log_prob
    rewards = batch.rollouts.rewards.double().view(6, 4)
    advantages = (rewards - rewards.mean(1, keepdim=True)).view(-1)
    sequences = (log_prob * batch.rollouts.completion_mask).sum(1)
    (-(advantages * sequences).sum() / (24 * 6)).backward()  # B = 24 responses of at most T_max = 6 tokens
    expected = torch.cat([p.grad.flatten() for p in reference.model.parameters()])
    assert batch.rollouts.lengths.unique().numel() > 1
    gradient = gradient_of(easy_trainer(algorithm, mini_batches=1, max_grad_norm=1e9))
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_dr_grpo_is_the_plain_policy_gradient(easy_trainer):
    check_dr_grpo(easy_trainer, DrGRPO())


@pytest.mark.parametrize(
    "options",
    [{"aggregation": "seq-mean-token-sum-norm"}, {"advantage_scale": "none"}, {"aggregation": "dr_grpo", "eps": 0.1}],
    ids=["deviation kept", "length kept", "both changed, deviation by another name"],
)
def test_with_either_normalisation_it_is_not(easy_trainer, options):
    options = {("advantage_eps" if name == "eps" else name): value for name, value in options.items()}
    with pytest.raises(AssertionError):
        check_dr_grpo(easy_trainer, GRPO(GRPOConfig(**options)))


def test_a_long_wrong_response_is_not_cheaper_in_dr_grpo():
    # Per token: GRPO's original mean over each response against Dr.GRPO's constant.
    loss, mask = torch.ones(2, 4), t([1, 0, 0, 0], [1, 1, 1, 1])
    gradients = {}
    for mode in ("seq-mean-token-mean", DrGRPO().config.aggregation):
        x = loss.clone().requires_grad_()
        aggregate(x, mask, mode, max_length=4).backward()
        gradients[mode] = x.grad[:, 0].tolist()
    assert gradients == {"seq-mean-token-mean": [0.5, 0.125], "seq-mean-token-sum-norm": [0.125, 0.125]}


# DAPO


def check_overlong_penalty():
    lengths = torch.tensor([1, 6, 7, 8, 9, 10, 11])
    penalty = dapo.overlong_penalty(lengths, max_length=10, buffer=4)
    assert penalty.tolist() == [0.0, 0.0, -0.25, -0.5, -0.75, -1.0, -1.0]


def test_the_overlong_penalty_worked_out_by_hand():
    check_overlong_penalty()


LENGTHS = [2, 4, 3, 4, 1, 4]
REWARDS, GROUPS = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0], [0, 0, 1, 1, 2, 2]


def dapo_batch(hand_made):
    mask = [[k < n for k in range(4)] for n in LENGTHS]
    return hand_made([[-1.0] * 4] * 6, advantages=[[1.0] * 4] * 6, mask=mask, rewards=REWARDS, groups=GROUPS)


def check_shaping(hand_made):
    """Penalties (0, -1, -1/2, -1, 0, -1): the shaped rewards are normalised in the group."""
    algorithm = DAPO(DAPOConfig(overlong_max_length=4, overlong_buffer=2))
    shaped = t(1, 0, -0.5, -1, 1, -1)
    expected = group_advantages(shaped, torch.tensor(GROUPS))
    batch = dapo_batch(hand_made)
    torch.testing.assert_close(algorithm.advantages(batch.rollouts).double(), expected, rtol=1e-6, atol=1e-6)
    assert algorithm.prepare(batch).metrics["dapo/overlong_penalty"] == pytest.approx(-3.5 / 6)


def test_long_responses_lose_reward_before_the_group_is_normalised(hand_made):
    check_shaping(hand_made)


def check_filter(hand_made, **options):
    """All right and all wrong: no signal, whatever the penalties make of it. The third group stays."""
    prepared = DAPO(DAPOConfig(**options)).prepare(dapo_batch(hand_made))
    assert prepared.rollouts.group_ids.tolist() == [2, 2]
    assert prepared.mask.sum() == 5
    assert prepared.metrics["dapo/kept_responses"] == pytest.approx(1 / 3)


def test_groups_without_signal_are_left_out(hand_made):
    check_filter(hand_made)
    check_filter(hand_made, overlong_max_length=4, overlong_buffer=2)


def test_without_the_filter_everything_stays(hand_made):
    prepared = DAPO(DAPOConfig(filter_groups=False)).prepare(dapo_batch(hand_made))
    assert len(prepared) == 6
    assert prepared.metrics["dapo/kept_responses"] == 1.0


def test_members_of_a_group_need_not_be_neighbours_and_a_single_response_has_no_signal():
    assert has_signal(t(1, 0, 0, 0, 1), torch.tensor([5, 3, 5, 3, 9])).tolist() == [True, False, True, False, False]


class Never:
    """No response is ever right."""

    def __getattr__(self, name):
        from corollary.tasks import make_task

        return getattr(make_task("digit-sum"), name)

    def reward(self, prompt, completion):
        return 0.0


def test_a_batch_without_any_signal_changes_nothing(easy_trainer):
    run = easy_trainer(DAPO())
    run.task = Never()
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=1.0)
    before = weights(run)
    metrics = run.step()
    assert metrics["loss/policy"] == metrics["grad/norm"] == metrics["loss/kept"] == 0.0
    assert torch.equal(weights(run), before)


def test_the_filter_takes_the_normaliser_with_it(easy_trainer):
    """One on-policy step of DAPO has GRPO's gradient over the tokens with signal alone."""

    def run(filter_groups):
        algorithm = DAPO(DAPOConfig(filter_groups=filter_groups))
        return easy_trainer(algorithm, mini_batches=1, max_grad_norm=1e9, prompts_per_step=16, group_size=2)

    reference = run(False)
    batch = reference._batch(reference._next_prompts(), 1.0)
    signal = has_signal(batch.rollouts.rewards, batch.rollouts.group_ids)
    share = batch.mask[signal].sum() / batch.mask.sum()
    assert 0 < share < 1
    torch.testing.assert_close(gradient_of(run(False)), share * gradient_of(run(True)), rtol=1e-6, atol=1e-9)


def test_dapo_without_its_options_is_clip_higher(easy_trainer):
    a = easy_trainer(DAPO(DAPOConfig(filter_groups=False)))
    b = easy_trainer(ClipHigher(replace(ClipHigher().config, dual_clip=None)))
    for run in (a, b):
        run.step()
    assert torch.equal(weights(a), weights(b))


@pytest.mark.parametrize("algorithm", [WReinforce(), DrGRPO(), DAPO()], ids=lambda a: type(a).__name__)
def test_micro_batches_do_not_matter(easy_trainer, algorithm):
    trained = []
    for size in (None, 1, 5):
        run = easy_trainer(algorithm, micro_batch_size=size)
        run.train()
        trained.append(weights(run))
    torch.testing.assert_close(trained[1], trained[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(trained[2], trained[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("w-reinforce", {"positive_weight": -0.1}, "positive_weight must be finite and at least 0, got -0.1"),
        ("w-reinforce", {"correct_above": float("nan")}, "correct_above must be finite, got nan"),
        ("w-reinforce", {"advantage_scale": "group"}, "advantage_scale must be 'none' here, got 'group'"),
        ("dr-grpo", {"advantage_scale": "group"}, "advantage_scale must be 'none' here, got 'group'"),
        ("dapo", {"overlong_buffer": 4}, "max_length and buffer must be given together, got None and 4"),
        ("dapo", {"overlong_max_length": 4, "overlong_buffer": 5}, r"buffer must be in \[1, max_length\], got 5 of 4"),
        ("dapo", {"clip_high": -1.0}, "clip_high must be at least 0"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm(name, **options)


def test_bad_rewards_are_refused():
    with pytest.raises(ValueError, match=r"rewards must be \(B,\), got \(1, 2\)"):
        weighted_rewards(torch.ones(1, 2))
    with pytest.raises(ValueError, match="rewards must be numbers, got nan"):
        weighted_rewards(t(float("nan")))


def test_planted_bugs_are_found(monkeypatch, hand_made):
    true_penalty = overlong_penalty

    def all_rewarded(rewards, *, positive_weight=0.1, correct_above=0.5):
        return torch.where(rewards > correct_above, positive_weight, 0.0).double()

    def at_the_threshold(rewards, *, positive_weight=0.1, correct_above=0.5):
        return torch.where(rewards >= correct_above, positive_weight, -1.0).double()

    def from_the_start(lengths, *, max_length, buffer):
        return (-lengths.double() / max_length).clamp(-1.0, 0.0)

    def a_bonus(lengths, *, max_length, buffer):
        return -true_penalty(lengths, max_length=max_length, buffer=buffer)

    def solved_groups_kept(rewards, group_ids):
        return has_signal(rewards, group_ids) | (rewards > 0.5)

    bugs = [
        (w_reinforce, "weighted_rewards", all_rewarded, lambda _: check_weighted_rewards()),
        (w_reinforce, "weighted_rewards", at_the_threshold, lambda _: check_weighted_rewards()),
        (dapo, "overlong_penalty", from_the_start, lambda _: check_overlong_penalty()),
        (dapo, "overlong_penalty", a_bonus, check_shaping),
        (dapo, "overlong_penalty", from_the_start, check_shaping),
        (dapo, "has_signal", solved_groups_kept, check_filter),
    ]
    for module, name, bug, check in bugs:
        check(hand_made)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, bug)
            with pytest.raises(AssertionError):
                check(hand_made)


def test_a_filter_on_shaped_rewards_is_found(monkeypatch, hand_made):
    def shaped(self, batch):
        rewards = batch.rollouts.rewards + self.penalty(batch.rollouts)
        return true(self, replace(batch, rollouts=replace(batch.rollouts, rewards=rewards)))

    true = DAPO.prepare
    monkeypatch.setattr(DAPO, "prepare", shaped)
    with pytest.raises(AssertionError):
        check_filter(hand_made, overlong_max_length=4, overlong_buffer=2)
