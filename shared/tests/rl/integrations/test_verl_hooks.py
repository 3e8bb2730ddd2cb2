"""What verl's hooks carry of an algorithm, and the tensors on both sides of them, without verl."""

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from corollary.rl import (
    DAPO,
    GRPO,
    Algorithm,
    DAPOConfig,
    DrGRPO,
    GRPOConfig,
    RolloutRequest,
    clip_events,
    clipped_surrogate,
    logs_only,
    make_algorithm,
    prepare_trains,
)
from corollary.rl.integrations import verl_hooks
from corollary.rl.integrations.verl_hooks import (
    carried_algorithm,
    check_actor,
    hook_advantages,
    hook_support,
    hook_token_loss,
    options_of,
)

CORE = {
    "grpo": "as verl's own",
    "clip-higher": "loss",
    "rloo": "advantages",
    "opo": "advantages",
    "w-reinforce": "advantages",
    "dr-grpo": "advantages and loss",
    "dapo": "needs more",
    "entropy-bonus": "needs more",
    "entropy-bonus-adaptive": "needs more",
    "entropy-advantage": "needs more",
    "clip-cov": "needs more",
    "kl-cov": "needs more",
    "forking-tokens": "needs more",
}


@pytest.mark.parametrize("name", CORE)
def test_support_of_the_algorithms_of_the_core(name):
    assert str(hook_support(make_algorithm(name))) == CORE[name]


def test_every_algorithm_of_the_core_is_judged_here():
    judged = verl_hooks.installed_support()
    assert set(CORE) <= set(judged)
    assert all(str(judged[name]) == expected for name, expected in CORE.items())


class Prepares(Algorithm):
    def prepare(self, batch):
        return batch


class PreparesMiniBatches(Algorithm):
    def prepare_mini_batch(self, batch, stats):
        return batch


class SamplesAgain(Algorithm):
    def extra_rollouts(self, step):
        return RolloutRequest(1.0, prompts=1)


class Observes(Algorithm):
    def observe(self, metrics):
        pass


class SeesEntropy(Algorithm):
    update_stats = frozenset({"log_prob", "entropy"})


class SeesMoments(Algorithm):
    behaviour_stats = frozenset({"log_prob", "entropy", "sum_p2"})


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Prepares, "prepare"),
        (PreparesMiniBatches, "prepare_mini_batch"),
        (SamplesAgain, "extra_rollouts"),
        (Observes, "observe"),
        (SeesEntropy, "entropy of the policy being trained"),
        (SeesMoments, "sum_p2 of the behaviour policy"),
    ],
)
def test_each_thing_that_the_hooks_do_not_give_is_named(kind, reason):
    (missing,) = hook_support(kind()).missing
    assert reason in missing
    assert str(hook_support(kind())) == "needs more"


class Logs(Algorithm):
    @logs_only()
    def prepare(self, batch):
        return replace(batch, metrics={"a": 1.0})


class ChangesAgain(Logs):
    def prepare(self, batch):
        return replace(super().prepare(batch), advantages=-batch.advantages)


def test_a_prepare_that_only_logs_is_no_obstacle_until_it_is_overridden_again():
    assert not prepare_trains(GRPO())
    assert not prepare_trains(Logs())
    assert prepare_trains(ChangesAgain())
    assert prepare_trains(Prepares())


def test_what_is_declared_to_log_only_does_so(hand_made):
    batch = hand_made([[-1.0]] * 4, advantages=[[1.0]] * 4, rewards=[1.0, 0.0, 1.0, 1.0], groups=[0, 0, 1, 1])
    for algorithm in (DAPO(DAPOConfig(filter_groups=False)), Logs()):
        assert not prepare_trains(algorithm)
        after = algorithm.prepare(batch)
        assert after.metrics
        assert len(after) == len(batch)
        assert all(torch.equal(getattr(after, x), getattr(batch, x)) for x in ("advantages", "mask"))
    assert prepare_trains(DAPO())
    assert len(DAPO().prepare(batch)) == 2


def test_options_decide():
    assert str(hook_support(DAPO(DAPOConfig(filter_groups=False)))) == "advantages and loss"
    assert str(hook_support(GRPO(GRPOConfig(advantage_eps=1e-4)))) == "advantages"
    assert str(hook_support(GRPO(GRPOConfig(aggregation="grpo")))) == "loss"


# Advantages


def uids(groups):
    return np.array([f"uid {group}" for group in groups.tolist()], dtype=object)


@pytest.mark.parametrize("name", ["grpo", "rloo", "opo", "w-reinforce", "dr-grpo"])
def test_advantages_are_the_algorithms_own_on_the_tokens_of_the_response(hand_made, name):
    mask = [[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1]]
    rewards, groups = torch.tensor([1.0, 0.0, 0.25, 1.0, 0.0], dtype=torch.float64), torch.tensor([7, 3, 7, 3, 3])
    algorithm = make_algorithm(name)
    rollouts = replace(
        hand_made([[-1.0] * 3] * 5, advantages=[[0.0] * 3] * 5, mask=mask).rollouts, rewards=rewards, group_ids=groups
    )
    token_level = torch.zeros(5, 3, dtype=torch.float64)
    token_level[:, 0] = rewards
    found = hook_advantages(algorithm, token_level, torch.tensor(mask), uids(groups))
    assert torch.equal(found, algorithm.advantages(rollouts)[:, None] * torch.tensor(mask))
    assert torch.equal(hook_advantages(algorithm, token_level, torch.tensor(mask).bool(), groups.numpy()), found)


class PerToken(Algorithm):
    def advantages(self, rollouts):
        return rollouts.completion_mask.cumsum(-1).double()


def test_advantages_of_tokens_stay_those_of_tokens():
    found = hook_advantages(PerToken(), torch.zeros(1, 3), torch.tensor([[1, 1, 0]]), np.array(["a"]))
    assert found.tolist() == [[1.0, 2.0, 0.0]]


def test_what_verl_does_not_hand_over_well_is_refused():
    ones = torch.ones(2, 3)
    with pytest.raises(ValueError, match="prompt of each response"):
        hook_advantages(GRPO(), ones, ones, None)
    with pytest.raises(ValueError, match=r"index must be \(B,\) = \(2,\), got \(3,\)"):
        hook_advantages(GRPO(), ones, ones, np.array(["a"] * 3))
    with pytest.raises(ValueError, match="mask must have the shape"):
        hook_advantages(GRPO(), ones, torch.ones(2, 2), np.array(["a"] * 2))
    with pytest.raises(ValueError, match="only 0 and 1"):
        hook_advantages(GRPO(), ones, ones * 2, np.array(["a"] * 2))


@pytest.mark.parametrize(
    "ask",
    [
        lambda rollouts: rollouts.prompt_ids.shape,
        lambda rollouts: rollouts.prompt_ids[0],
        lambda rollouts: torch.where(rollouts.completion_mask, rollouts.prompt_ids, 0),
        lambda rollouts: rollouts.rows(torch.tensor([0])),
    ],
    ids=["attribute", "index", "function of torch", "rows"],
)
def test_asking_for_what_verl_does_not_show_is_an_error_that_says_so(ask):
    class Curious(Algorithm):
        def advantages(self, rollouts):
            return ask(rollouts)

    with pytest.raises(ValueError, match="verl's hooks do not show prompt_ids"):
        hook_advantages(Curious(), torch.ones(2, 3), torch.ones(2, 3), np.array(["a", "a"]))


# The loss


def test_token_losses_and_metrics_are_those_of_the_surrogate():
    old = torch.full((2, 3), -1.0, dtype=torch.float64)
    new = (old + torch.tensor([[0.1, 0.5, 9.0], [-0.5, 2.0, torch.nan]], dtype=torch.float64)).requires_grad_()
    advantages = torch.tensor([[1.0, 1.0, torch.nan], [-1.0, -1.0, 1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, False]])
    losses, metrics = hook_token_loss(GRPO(), old, new, advantages, mask)
    assert torch.equal(losses, torch.where(mask, clipped_surrogate(new, old, advantages), 0.0))
    assert losses.isfinite().all()
    high, low, dual = (event & mask for event in clip_events(new, old, advantages))
    assert [int(event.sum()) for event in (high, low, dual)] == [1, 1, 1]
    shares = {"actor/clip/high": 0.25, "actor/clip/low": 0.25, "actor/clip/dual": 0.25}
    verls = {"actor/pg_clipfrac": 0.5, "actor/pg_clipfrac_lower": 0.25, "actor/ppo_kl": -(0.1 + 0.5 - 0.5 + 2.0) / 4}
    assert metrics == pytest.approx(shares | verls)
    assert losses.requires_grad


def test_metrics_of_an_empty_micro_batch_are_0():
    nothing = torch.zeros(2, 3)
    losses, metrics = hook_token_loss(GRPO(), nothing, nothing, nothing, nothing.bool())
    assert not losses.any()
    assert set(metrics.values()) == {0.0}


def test_an_entropy_that_verl_does_not_hand_over_is_an_error():
    class Asks(Algorithm):
        def token_loss(self, batch, stats):
            return batch.behaviour.required("entropy")[0]

    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="entropy"):
        hook_token_loss(Asks(), x, x, x, x.bool())


@pytest.mark.parametrize("name", ["grpo", "clip-higher", "rloo", "dr-grpo"])
def test_what_the_reference_trainer_trains_on_goes_through_the_loss_hook_unchanged(easy_trainer, name):
    algorithm, seen = make_algorithm(name), []
    own = algorithm.token_loss
    algorithm.token_loss = lambda batch, stats: seen.append((batch, stats, own(batch, stats))) or seen[-1][2]
    easy_trainer(algorithm, steps=1, mini_batches=2).step()
    hooked = make_algorithm(name)
    for batch, stats, losses in seen:
        found, _ = hook_token_loss(hooked, batch.old_log_probs, stats.log_prob.detach(), batch.advantages, batch.mask)
        assert torch.equal(found, torch.where(batch.mask, losses.detach(), 0.0))


# Options


def test_options_are_the_plain_values_under_their_key():
    assert options_of(None, where="algorithm") == {}
    assert options_of({"gamma": 1.0}, where="algorithm") == {}
    assert options_of({"corollary": {"tau": 0.5, "max_length": None}}, where="x") == {"tau": 0.5, "max_length": None}
    with pytest.raises(ValueError, match=r"algorithm\.corollary must hold options by name, got 'adora'"):
        options_of({"corollary": "adora"}, where="algorithm")
    with pytest.raises(ValueError, match=r"algorithm\.corollary\.clip must be a plain value, got \[0\.1\]"):
        options_of({"corollary": {"clip": [0.1]}}, where="algorithm")


def test_an_algorithm_is_made_once_for_its_options():
    section = {"corollary": {"clip_high": 0.3}}
    algorithm = carried_algorithm("grpo", section)
    assert algorithm.config == GRPOConfig(clip_high=0.3)
    assert carried_algorithm("grpo", section) is algorithm
    assert carried_algorithm("grpo", {"corollary": {"clip_high": 0.4}}).config.clip_high == 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.1}, r"algorithm\.corollary: grpo has no option 'epsilon'; it has: clip_low, clip_high"),
        ({"clip_low": 2.0}, r"algorithm\.corollary: clip_low must be in \[0, 1\), got 2\.0"),
        ({"clip_low": "wide"}, r"algorithm\.corollary: "),
    ],
    ids=["unknown", "out of range", "of another type"],
)
def test_a_wrong_option_is_one_error_that_names_its_key(options, message):
    with pytest.raises(ValueError, match=message):
        carried_algorithm("grpo", {"corollary": options}, where="algorithm")


def test_what_is_not_carried_is_refused_with_all_reasons():
    with pytest.raises(ValueError, match=r"do not carry 'entropy-bonus-adaptive'\. It needs entropy of.*; the whole"):
        carried_algorithm("entropy-bonus-adaptive")
    with pytest.raises(ValueError, match=r"do not carry 'dapo' with {'clip_high': 0\.3}\. It needs the whole batch"):
        carried_algorithm("dapo", {"corollary": {"clip_high": 0.3}})
    assert carried_algorithm("dapo", {"corollary": {"filter_groups": False}})


VERL = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": 3.0, "loss_scale_factor": None}


def test_settings_of_the_actor_that_contradict_the_algorithm_are_refused():
    check_actor(GRPO(), VERL, "token-mean")
    check_actor(make_algorithm("clip-higher"), VERL, "token-mean")  # verl's default says nothing
    check_actor(make_algorithm("clip-higher"), VERL | {"clip_ratio_high": 0.28}, "token-mean")
    check_actor(GRPO(), {"clip_ratio_low": None}, "token-mean")
    with pytest.raises(ValueError, match=r"clip_ratio_high is 0\.3, but .* set policy_loss\.corollary\.clip_high"):
        check_actor(GRPO(), VERL | {"clip_ratio_high": 0.3}, "token-mean")
    with pytest.raises(ValueError, match=r"clip_ratio_c is 10\.0, .* dual_clip=3\.0"):
        check_actor(GRPO(), VERL | {"clip_ratio_c": 10.0}, "token-mean")
    with pytest.raises(
        ValueError, match="loss_agg_mode must be 'token-mean', the aggregation of GRPO, got 'token-sum'"
    ):
        check_actor(GRPO(), VERL, "token-sum")
    with pytest.raises(ValueError, match="loss_scale_factor must be the longest response"):
        check_actor(DrGRPO(), VERL, "seq-mean-token-sum-norm")
    check_actor(DrGRPO(), VERL | {"loss_scale_factor": 100}, "seq-mean-token-sum-norm")
    # TRL's names of an aggregation are understood.
    check_actor(GRPO(GRPOConfig(aggregation="grpo")), VERL, "seq-mean-token-mean")


# Planted bugs


def test_a_missed_hook_would_show(monkeypatch):
    monkeypatch.setattr(verl_hooks, "prepare_trains", lambda algorithm: False)
    with pytest.raises(ValueError, match="unpack"):
        test_each_thing_that_the_hooks_do_not_give_is_named(Prepares, "prepare")


def test_a_declaration_that_is_inherited_would_show(monkeypatch):
    monkeypatch.setattr(ChangesAgain.prepare, "_logs_only", lambda algorithm: True, raising=False)
    with pytest.raises(AssertionError):
        test_a_prepare_that_only_logs_is_no_obstacle_until_it_is_overridden_again()


# Without verl


@pytest.mark.skipif(find_spec("verl") is not None, reason="verl is installed")
def test_without_verl_the_plugin_says_what_to_install():
    code = "import corollary.rl.integrations.verl"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'ImportError: this module needs verl 0.9 (pip install "corollary[verl]")' in done.stderr


def test_the_bridge_loads_no_verl():
    code = (
        "import sys, corollary.rl.integrations.verl_hooks; print('verl' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
