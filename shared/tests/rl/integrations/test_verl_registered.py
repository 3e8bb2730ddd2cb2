"""The registered functions, called as verl 0.9.1 calls them, give what the reference trainer gives for a batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from corollary.rl import DAPO, GRPO, OPO, RLOO, ClipHigher, DAPOConfig, DrGRPO, GRPOConfig, WReinforce
from corollary.rl.integrations import verl_hooks

core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
config_module = pytest.importorskip("verl.workers.config")
losses_module = pytest.importorskip("verl.workers.utils.losses")
plugin = pytest.importorskip("corollary.rl.integrations.verl")

EXACT = {"rtol": 1e-10, "atol": 1e-10}
CARRIED = {
    "grpo": GRPO(),
    "clip-higher": ClipHigher(),
    "rloo": RLOO(),
    "opo": OPO(),
    "w-reinforce": WReinforce(),
    "dr-grpo": DrGRPO(),
    "dapo": DAPO(DAPOConfig(filter_groups=False, overlong_max_length=6, overlong_buffer=3)),
}
OPTIONS = {"dapo": {"filter_groups": False, "overlong_max_length": 6, "overlong_buffer": 3}}
LONGEST = 6
"""Of the task's completions."""


def actor(name=None, *, options=None, **settings):
    """verl's configuration of an actor that trains with one of our losses."""
    policy_loss = plugin.CorollaryPolicyLossConfig(
        loss_mode=f"corollary-{name}" if name else "vanilla", corollary=options or {}
    )
    return config_module.FSDPActorConfig(
        rollout_n=4, ppo_micro_batch_size_per_gpu=4, policy_loss=policy_loss, **settings
    )


def call_loss(config, *, old_log_prob, log_prob, advantages, response_mask, weights=None):
    """As verl.workers.utils.losses.ppo_loss does."""
    config.global_batch_info["loss_scale_factor"] = config.loss_scale_factor
    function = core_algos.get_policy_loss_fn(config.policy_loss.get("loss_mode", "vanilla"))
    return function(
        old_log_prob=old_log_prob,
        log_prob=log_prob,
        advantages=advantages,
        response_mask=response_mask.to(bool),
        loss_agg_mode=config.loss_agg_mode,
        config=config,
        rollout_is_weights=weights,
    )


def call_estimator(name, rollouts, section=None):
    """As verl.trainer.ppo.ray_trainer.compute_advantage does."""
    mask = rollouts.completion_mask
    token_level = torch.zeros(mask.shape, dtype=rollouts.rewards.dtype)
    token_level[torch.arange(len(mask)), rollouts.lengths - 1] = rollouts.rewards
    return core_algos.get_adv_estimator_fn(f"corollary-{name}")(
        token_level_rewards=token_level,
        response_mask=mask.long(),
        config=section,
        index=np.array([f"uid-{group}" for group in rollouts.group_ids.tolist()], dtype=object),
    )


class Recorder:
    """Takes down every micro-batch whose loss the reference trainer asks for."""

    def __init__(self, algorithm):
        self.seen = []
        self.token_loss, algorithm.token_loss = algorithm.token_loss, self

    def __call__(self, batch, stats):
        self.seen.append((batch, stats.log_prob.detach()))
        return self.token_loss(batch, stats)


def trained(easy_trainer, name):
    """A step of the reference trainer: its metrics, and the micro-batches of its mini-batches."""
    algorithm = type(CARRIED[name])(CARRIED[name].config)
    recorder = Recorder(algorithm)
    metrics = easy_trainer(algorithm, steps=1, mini_batches=2, micro_batch_size=5).step()
    sizes = [len(batch) for batch, _ in recorder.seen]
    assert sizes == [5, 5, 2, 5, 5, 2]
    return metrics, [recorder.seen[:3], recorder.seen[3:]]


def settings_of(name):
    config = CARRIED[name].config
    return {"loss_agg_mode": config.aggregation, "loss_scale_factor": LONGEST}


def verl_loss_of(mini_batch, name, *, devices=1, config=None):
    """The loss of a mini-batch whose micro-batches verl spreads over devices, averaging their gradients."""
    config = config or actor(name, options=OPTIONS.get(name), **settings_of(name))
    tokens = sum(int(batch.mask.sum()) for batch, _ in mini_batch)
    config.global_batch_info.update(
        dp_size=devices, batch_num_tokens=tokens, global_batch_size=sum(len(batch) for batch, _ in mini_batch)
    )
    total = 0.0
    for batch, log_prob in mini_batch:
        loss, _ = call_loss(
            config,
            old_log_prob=batch.old_log_probs,
            log_prob=log_prob,
            advantages=batch.advantages,
            response_mask=batch.mask,
        )
        total += loss.item() / devices
    return total


@pytest.mark.parametrize("name", CARRIED)
def test_the_losses_of_a_step_are_those_of_the_reference_trainer(easy_trainer, name):
    metrics, mini_batches = trained(easy_trainer, name)
    losses = [verl_loss_of(mini_batch, name) for mini_batch in mini_batches]
    assert abs(losses[0] - losses[1]) > 1e-3
    assert sum(losses) / 2 == pytest.approx(metrics["loss/policy"], rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", ["grpo", "dr-grpo"])
def test_on_two_devices_the_loss_is_the_same(easy_trainer, name):
    _, (mini_batch, _) = trained(easy_trainer, name)
    assert verl_loss_of(mini_batch, name, devices=2) == pytest.approx(verl_loss_of(mini_batch, name), rel=1e-12)


def test_the_loss_of_another_algorithm_would_show(easy_trainer):
    metrics, mini_batches = trained(easy_trainer, "clip-higher")
    losses = [verl_loss_of(mini_batch, "grpo") for mini_batch in mini_batches]
    assert abs(sum(losses) / 2 - metrics["loss/policy"]) > 1e-6


@pytest.mark.parametrize("name", CARRIED)
def test_the_advantages_are_those_of_the_reference_trainer(easy_trainer, name):
    batch = easy_trainer(CARRIED[name])._batch(easy_trainer(CARRIED[name])._next_prompts(), 1.0)
    section = {"corollary": OPTIONS.get(name, {})}
    advantages, returns = call_estimator(name, batch.rollouts, section)
    torch.testing.assert_close(advantages, batch.advantages, **EXACT)
    assert batch.advantages.unique().numel() > 2
    assert advantages is returns
    assert not advantages.requires_grad


def tokens(seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (6, 5)
    old = -torch.rand(shape, generator=g, dtype=torch.float64) * 3
    new = old + torch.randn(shape, generator=g, dtype=torch.float64)
    advantages = torch.randn(shape, generator=g, dtype=torch.float64)
    mask = torch.arange(5) < torch.randint(1, 6, (6, 1), generator=g)
    return {"old_log_prob": old, "log_prob": new, "advantages": advantages, "response_mask": mask}


def check_against_vanilla(mode, *, settings=None, weights=None, options=None):
    inputs = tokens()
    ours = inputs | {"log_prob": inputs["log_prob"].clone().requires_grad_()}
    verls = inputs | {"log_prob": inputs["log_prob"].clone().requires_grad_()}
    common = {"loss_agg_mode": mode, "loss_scale_factor": 9}
    loss, metrics = call_loss(actor("grpo", options={"aggregation": mode, **(options or {})}, **common), **ours)
    expected, verl_metrics = call_loss(actor(**common, **(settings or {})), **verls)
    if weights is not None:
        config = actor("grpo", options={"aggregation": mode}, **common)
        loss, _ = call_loss(config, **ours, weights=weights)
        expected, _ = call_loss(actor(**common), **verls, weights=weights)
    torch.testing.assert_close(loss, expected, **EXACT)
    for value in (loss, expected):
        value.backward()
    torch.testing.assert_close(ours["log_prob"].grad, verls["log_prob"].grad, **EXACT)
    assert {name: metrics[name] for name in verl_metrics} == pytest.approx(verl_metrics, rel=1e-8)
    assert all(type(value) is float for value in metrics.values())


MODES = ["token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"]


@pytest.mark.parametrize("mode", MODES)
def test_grpo_is_vanilla_in_loss_gradient_and_metrics(mode):
    check_against_vanilla(mode)


def test_options_reach_the_loss():
    options = {"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 2.0}
    check_against_vanilla(
        "token-mean",
        options=options,
        settings={"clip_ratio_low": 0.1, "clip_ratio_high": 0.3, "clip_ratio_c": 2.0},
    )
    with pytest.raises(AssertionError):
        check_against_vanilla("token-mean", options=options)


def test_the_weights_of_verls_rollout_correction_multiply_the_losses():
    check_against_vanilla("token-mean", weights=torch.rand(6, 5, dtype=torch.float64) + 0.5)


def test_verls_own_loss_function_takes_ours():
    """The whole of ppo_loss: nested log-probabilities in, padded ones to the hook, metrics out."""
    from tensordict import TensorDict  # ty: ignore[import-not-found]
    from verl.utils import tensordict_utils  # ty: ignore[import-not-found]

    given, prompt = tokens(), 3
    lengths = given["response_mask"].sum(-1)
    count, width = given["response_mask"].shape
    attention = torch.cat([torch.ones(count, prompt, dtype=torch.bool), given["response_mask"]], dim=1).long()

    def loss_of(config):
        # The model's log-probability at a position is that of the token after it.
        rows = [
            torch.cat([torch.zeros(prompt - 1, dtype=torch.float64), row[:length], torch.zeros(1, dtype=torch.float64)])
            for row, length in zip(given["log_prob"], lengths.tolist(), strict=True)
        ]
        data = TensorDict(
            {
                "prompts": torch.zeros(count, prompt, dtype=torch.long),
                "responses": torch.zeros(count, width, dtype=torch.long),
                "attention_mask": attention,
                "response_mask": given["response_mask"].long(),
                "old_log_probs": given["old_log_prob"],
                "advantages": given["advantages"],
            },
            batch_size=[count],
        )
        tensordict_utils.assign_non_tensor(
            data, dp_size=1, batch_num_tokens=int(lengths.sum()), global_batch_size=count
        )
        log_probs = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        return losses_module.ppo_loss(config, {"log_probs": log_probs}, data)

    loss, metrics = loss_of(actor("grpo"))
    expected, verl_metrics = loss_of(actor())
    torch.testing.assert_close(loss, expected, **EXACT)
    assert set(verl_metrics) <= set(metrics)
    assert metrics["actor/clip/high"].aggregate() > 0


def composed(*overrides):
    """verl's configuration for its trainer as the command line makes it."""
    from hydra import compose, initialize_config_dir  # ty: ignore[import-not-found]
    from omegaconf import OmegaConf  # ty: ignore[import-not-found]

    folder = Path(core_algos.__file__).parents[1] / "config"
    with initialize_config_dir(str(folder), version_base=None):
        config = compose(
            "ppo_trainer", overrides=[*overrides, "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4"]
        )
    OmegaConf.resolve(config)  # as verl's task runner does
    return config


TARGET = "actor_rollout_ref.actor.policy_loss._target_=corollary.rl.integrations.verl.CorollaryPolicyLossConfig"


def test_options_come_through_verls_command_line_to_both_hooks(easy_trainer):
    from verl.utils.config import omega_conf_to_dataclass  # ty: ignore[import-not-found]

    config = composed(
        "algorithm.adv_estimator=corollary-dapo",
        "+algorithm.corollary={filter_groups: false, overlong_max_length: 6, overlong_buffer: 3, dual_clip: 10.0}",
        "actor_rollout_ref.actor.policy_loss.loss_mode=corollary-dapo",
        TARGET,
        "+actor_rollout_ref.actor.policy_loss.corollary=${algorithm.corollary}",
    )
    algorithm = DAPO(DAPOConfig(filter_groups=False, overlong_max_length=6, overlong_buffer=3, dual_clip=10.0))
    run = easy_trainer(algorithm)
    batch = run._batch(run._next_prompts(), 1.0)
    advantages, _ = call_estimator("dapo", batch.rollouts, config.algorithm)
    torch.testing.assert_close(advantages, batch.advantages, **EXACT)

    settings = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert isinstance(settings.policy_loss, plugin.CorollaryPolicyLossConfig)
    loss, _ = call_loss(settings, **tokens())
    verls = actor(clip_ratio_high=0.28, clip_ratio_c=10.0)
    torch.testing.assert_close(loss, call_loss(verls, **tokens())[0], **EXACT)


def test_without_its_own_section_verl_refuses_the_options_itself():
    from verl.utils.config import omega_conf_to_dataclass  # ty: ignore[import-not-found]

    config = composed("+actor_rollout_ref.actor.policy_loss.corollary.clip_high=0.3")
    with pytest.raises(Exception, match="unexpected keyword argument 'corollary'"):
        omega_conf_to_dataclass(config.actor_rollout_ref.actor)


def test_an_unknown_option_is_one_clear_error_in_each_hook(hand_made):
    rollouts = hand_made([[-1.0]] * 2, advantages=[[0.0]] * 2).rollouts
    with pytest.raises(ValueError, match=r"algorithm\.corollary: grpo has no option 'cliphigh'; it has: clip_low"):
        call_estimator("grpo", rollouts, {"corollary": {"cliphigh": 0.3}})
    with pytest.raises(ValueError, match=r"policy_loss\.corollary: grpo has no option 'cliphigh'"):
        call_loss(actor("grpo", options={"cliphigh": 0.3}), **tokens())


def test_what_needs_more_refuses_with_the_reason(hand_made):
    rollouts = hand_made([[-1.0]] * 2, advantages=[[0.0]] * 2).rollouts
    for name, reason in {"entropy-bonus": "entropy of the policy", "kl-cov": "all tokens of an optimiser step"}.items():
        with pytest.raises(ValueError, match=f"do not carry '{name}'.*{reason}"):
            call_estimator(name, rollouts)
        with pytest.raises(ValueError, match=f"do not carry '{name}'.*{reason}"):
            call_loss(actor(name), **tokens())


def test_an_estimator_takes_what_verl_adds_for_others():
    estimator = core_algos.get_adv_estimator_fn("corollary-grpo")
    mask, ones = torch.ones(2, 1), torch.tensor([[1.0], [0.0]])
    index = np.array(["a", "a"], dtype=object)
    expected, _ = estimator(token_level_rewards=ones, response_mask=mask, index=index, config=None)
    given, _ = estimator(
        token_level_rewards=ones, response_mask=mask, index=index, config=None, reward_baselines=torch.ones(2)
    )
    assert torch.equal(given, expected)


def test_verls_own_names_are_what_they_were():
    assert core_algos.get_policy_loss_fn("vanilla") is core_algos.compute_policy_loss_vanilla
    assert core_algos.get_adv_estimator_fn("grpo") is core_algos.compute_grpo_outcome_advantage
    for registry in (core_algos.POLICY_LOSS_REGISTRY, core_algos.ADV_ESTIMATOR_REGISTRY):
        ours = {name for name, function in registry.items() if function.__module__ == plugin.__name__}
        assert ours == set(plugin.REGISTERED)
        assert all(name.startswith(verl_hooks.PREFIX) for name in ours)


# Planted bugs


def normaliser_of_the_micro_batch(monkeypatch):
    own = plugin.agg_loss
    monkeypatch.setattr(
        plugin,
        "agg_loss",
        lambda loss, mask, mode, **given: own(loss, mask, mode, loss_scale_factor=given["loss_scale_factor"]),
    )


def mask_dropped(monkeypatch):
    own = plugin.hook_token_loss
    monkeypatch.setattr(
        plugin, "hook_token_loss", lambda *args: own(*args[:-1], torch.ones_like(args[-1], dtype=torch.bool))
    )
    ours = plugin.agg_loss
    monkeypatch.setattr(plugin, "agg_loss", lambda loss, mask, mode, **given: ours(loss, mask | True, mode, **given))


def old_and_new_swapped(monkeypatch):
    own = plugin.hook_token_loss
    monkeypatch.setattr(plugin, "hook_token_loss", lambda algorithm, old, new, *rest: own(algorithm, new, old, *rest))


def options_dropped(monkeypatch):
    own = plugin.carried_algorithm
    monkeypatch.setattr(plugin, "carried_algorithm", lambda name, section, where: own(name, None, where=where))


@pytest.mark.parametrize("bug", [normaliser_of_the_micro_batch, old_and_new_swapped])
def test_a_bug_in_the_loss_would_show(easy_trainer, monkeypatch, bug):
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        test_the_losses_of_a_step_are_those_of_the_reference_trainer(easy_trainer, "grpo")


def test_a_mask_that_gets_lost_would_show(monkeypatch):
    mask_dropped(monkeypatch)
    with pytest.raises(AssertionError):
        check_against_vanilla("token-mean")


def test_options_that_get_lost_would_show(monkeypatch):
    options_dropped(monkeypatch)
    with pytest.raises(AssertionError):
        test_options_reach_the_loss()


def test_weights_that_get_lost_would_show(monkeypatch):
    function = core_algos.get_policy_loss_fn("corollary-grpo")
    monkeypatch.setitem(
        core_algos.POLICY_LOSS_REGISTRY,
        "corollary-grpo",
        lambda **given: function(**{**given, "rollout_is_weights": None}),
    )
    with pytest.raises(AssertionError):
        test_the_weights_of_verls_rollout_correction_multiply_the_losses()


def prompts_mixed_up(monkeypatch):
    own = plugin.hook_advantages
    monkeypatch.setattr(plugin, "hook_advantages", lambda *args: own(*args[:-1], np.zeros(len(args[-1]))))


def a_reward_per_token(monkeypatch):
    own = plugin.hook_advantages
    monkeypatch.setattr(
        plugin, "hook_advantages", lambda algorithm, rewards, *rest: own(algorithm, rewards.cumsum(-1), *rest)
    )


@pytest.mark.parametrize("bug", [prompts_mixed_up, a_reward_per_token])
def test_a_bug_in_the_advantages_would_show(easy_trainer, monkeypatch, bug):
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        test_the_advantages_are_those_of_the_reference_trainer(easy_trainer, "grpo")


def test_the_plain_configuration_of_an_algorithm_is_the_default():
    assert verl_hooks.carried_algorithm("grpo", None).config == GRPOConfig()
