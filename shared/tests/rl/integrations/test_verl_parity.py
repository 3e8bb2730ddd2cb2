"""Our advantages, surrogates and aggregation against verl's own functions, in float64; and where the two differ."""

import numpy as np
import pytest
import torch

from corollary.rl import (
    ClipCov,
    ClipCovConfig,
    KLCov,
    KLCovConfig,
    aggregate,
    clip_cov_choice,
    clip_events,
    clipped_surrogate,
    group_advantages,
    kl_cov_choice,
    kl_cov_loss,
    leave_one_out_advantages,
    length_weighted_advantages,
    token_covariance,
)
from corollary.rl.integrations.verl_hooks import CLIP_KEYS

core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
config_module = pytest.importorskip("verl.workers.config")

# Both frameworks let a group of one response keep its reward; ours says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*single response")

SEEDS = range(5)
EXACT = {"rtol": 1e-10, "atol": 1e-10}
GRPO_LIKE = ["group", "none"]


def close(ours, verls, **tolerance):
    torch.testing.assert_close(ours, verls, **(tolerance or EXACT))


def actor(**options):
    policy_loss = {name: options.pop(name) for name in list(options) if "cov" in name or name == "ppo_kl_coef"}
    return config_module.FSDPActorConfig(
        rollout_n=4,
        ppo_micro_batch_size_per_gpu=4,
        policy_loss=config_module.PolicyLossConfig(**policy_loss),
        **options,
    )


class Sample:
    """Responses of random lengths in groups of random sizes, some of one response, in random order."""

    def __init__(self, seed, *, rewards="real"):
        g = torch.Generator().manual_seed(seed)
        self.groups = torch.cat([torch.full((n,), i) for i, n in enumerate((1, 2, 3, 5, 1, 4))])
        self.groups = self.groups[torch.randperm(len(self.groups), generator=g)]
        count, length = len(self.groups), 7
        self.lengths = torch.randint(1, length + 1, (count,), generator=g)
        self.mask = torch.arange(length) < self.lengths[:, None]
        real = torch.randn(count, generator=g, dtype=torch.float64)
        self.rewards = real if rewards == "real" else (real > 0).double()
        self.token_rewards = torch.zeros(count, length, dtype=torch.float64)
        self.token_rewards[torch.arange(count), self.lengths - 1] = self.rewards
        self.uids = np.array([f"prompt {group}" for group in self.groups.tolist()], dtype=object)

    def spread(self, advantages):
        return advantages[:, None] * self.mask


class Tokens:
    """Log-probabilities, advantages and a mask, with ratios on both sides of every clip."""

    def __init__(self, seed, *, spread=1.0, shape=(3, 4)):
        g = torch.Generator().manual_seed(seed)
        self.old = -torch.rand(shape, generator=g, dtype=torch.float64) * 3
        shift = spread * torch.randn(shape, generator=g, dtype=torch.float64)
        self.new = (self.old + shift).requires_grad_()
        self.advantages = torch.randn(shape, generator=g, dtype=torch.float64)
        self.mask = torch.rand(shape, generator=g) < 0.7
        self.mask[:, 0] = True


def verl_loss(name, tokens, config, mode="token-mean", mask=None):
    return core_algos.get_policy_loss_fn(name)(
        old_log_prob=tokens.old,
        log_prob=tokens.new,
        advantages=tokens.advantages,
        response_mask=tokens.mask if mask is None else mask,
        loss_agg_mode=mode,
        config=config,
        rollout_is_weights=None,
    )


# Advantages


def check_grpo(sample, *, scale, eps=1e-6, singleton="raw"):
    ours = group_advantages(sample.rewards, sample.groups, scale=scale, eps=eps, singleton=singleton)
    verls, returns = core_algos.compute_grpo_outcome_advantage(
        sample.token_rewards.clone(), sample.mask, sample.uids, norm_adv_by_std_in_grpo=scale == "group"
    )
    # verl takes the deviation 1 of a group of one in float32, where 1 + 1e-6 is 5e-8 off.
    alone = (torch.bincount(sample.groups) == 1)[sample.groups]
    close(sample.spread(ours)[~alone], verls[~alone])
    close(sample.spread(ours)[alone], verls[alone], rtol=1e-7, atol=0.0)
    assert torch.equal(verls, returns)


@pytest.mark.parametrize("scale", GRPO_LIKE)
@pytest.mark.parametrize("rewards", ["real", "binary"])
@pytest.mark.parametrize("seed", SEEDS)
def test_group_advantages_are_those_of_verl(seed, rewards, scale):
    check_grpo(Sample(seed, rewards=rewards), scale=scale)


@pytest.mark.parametrize(
    "wrong", [{"eps": 1e-4}, {"singleton": "zero"}], ids=["TRL's epsilon", "no advantage for a single response"]
)
def test_with_another_convention_they_are_not(wrong):
    with pytest.raises(AssertionError):
        check_grpo(Sample(0), scale="group", **wrong)


def test_of_equal_rewards_verl_may_make_a_rounding_error_an_advantage_in_float32_and_we_do_not():
    # The mean of 7 times 0.7 is one ulp off, which divided by epsilon is 0.06. Which means are off varies by machine.
    largest = 0.0
    for size in range(3, 12):
        for reward in (0.1, 0.3, 0.7, 0.9):
            rewards, groups = torch.full((size,), reward), torch.zeros(size, dtype=torch.long)
            verls, _ = core_algos.compute_grpo_outcome_advantage(
                rewards[:, None].clone(), torch.ones(size, 1, dtype=torch.bool), groups.numpy()
            )
            largest = max(largest, verls.abs().max().item())
            assert not group_advantages(rewards, groups).any()
    assert 0.01 < largest < 0.2


@pytest.mark.parametrize("seed", SEEDS)
def test_rloo_is_that_of_verl(seed):
    sample = Sample(seed)
    ours = leave_one_out_advantages(sample.rewards, sample.groups)
    verls, _ = core_algos.get_adv_estimator_fn("rloo")(
        token_level_rewards=sample.token_rewards, response_mask=sample.mask, index=sample.uids
    )
    close(sample.spread(ours), verls)
    with pytest.raises(AssertionError):
        close(sample.spread(group_advantages(sample.rewards, sample.groups, scale="none")), verls)


@pytest.mark.parametrize("seed", SEEDS)
def test_opo_is_that_of_verl(seed):
    sample = Sample(seed)
    ours = length_weighted_advantages(sample.rewards, sample.lengths, sample.groups)
    verls, _ = core_algos.get_adv_estimator_fn("opo")(
        token_level_rewards=sample.token_rewards, response_mask=sample.mask, index=sample.uids
    )
    close(sample.spread(ours), verls)
    without_lengths = length_weighted_advantages(sample.rewards, torch.ones_like(sample.lengths), sample.groups)
    with pytest.raises(AssertionError):
        close(sample.spread(without_lengths), verls)


# The clipped surrogate


def check_surrogate(tokens, *, low, high, dual, ours=None):
    """Value and gradient of every single token: verl's function gets them one by one."""
    options = ours or {"clip_low": low, "clip_high": high, "dual_clip": dual}
    losses = clipped_surrogate(tokens.new, tokens.old, tokens.advantages, **options)
    (gradient,) = torch.autograd.grad(losses.sum(), tokens.new)
    config = actor(clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=dual)
    events = clip_events(tokens.new, tokens.old, tokens.advantages, **options)
    for row, column in np.ndindex(*tokens.old.shape):
        one = Tokens(0, shape=(1, 1))
        one.old, one.new, one.advantages = (
            x[row, column].detach().view(1, 1) for x in (tokens.old, tokens.new, tokens.advantages)
        )
        one.new.requires_grad_()
        verls, metrics = verl_loss("vanilla", one, config, mask=torch.ones(1, 1, dtype=torch.bool))
        close(losses[row, column], verls)
        close(gradient[row, column], torch.autograd.grad(verls, one.new)[0].squeeze())
        assert bool(events.high[row, column] | events.low[row, column]) == (metrics["actor/pg_clipfrac"] > 0.5)
        assert bool(events.dual[row, column]) == (metrics["actor/pg_clipfrac_lower"] > 0.5)


@pytest.mark.parametrize(("low", "high", "dual"), [(0.2, 0.2, 3.0), (0.2, 0.28, 10.0), (0.1, 0.5, 1.5)])
@pytest.mark.parametrize("spread", [0.2, 2.0, 15.0], ids=["near", "far", "beyond the clamp of the log-ratio"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_clipped_surrogate_is_vanilla(seed, spread, low, high, dual):
    check_surrogate(Tokens(seed, spread=spread), low=low, high=high, dual=dual)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0},
        {"clip_low": 0.28, "clip_high": 0.28, "dual_clip": 3.0},
        {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": None},
    ],
    ids=["upper clip as the lower", "lower as the upper", "no dual clip"],
)
def test_a_wrong_clip_would_show(wrong):
    with pytest.raises(AssertionError):
        check_surrogate(Tokens(1, shape=(6, 8)), low=0.2, high=0.28, dual=3.0, ours=wrong)


def test_with_16_bits_we_take_the_ratio_in_float32_and_verl_does_not():
    tokens = Tokens(0, shape=(1, 1))
    tokens.old, tokens.new, tokens.advantages = (torch.full((1, 1), x).bfloat16() for x in (-5.0, -4.96875, 1.0))
    ratio = torch.tensor(0.03125).exp()  # all three numbers are exact in bfloat16
    close(-clipped_surrogate(tokens.new, tokens.old, tokens.advantages).squeeze(), ratio, rtol=1e-6, atol=0.0)
    verls, _ = verl_loss("vanilla", tokens, actor(), mask=torch.ones(1, 1, dtype=torch.bool))
    assert -verls.item() == 1.03125  # the nearest number of 8 bits


def test_the_defaults_of_the_clip_that_we_compare_with_are_those_of_verl():
    assert {key: default for key, (_, default) in CLIP_KEYS.items()} == {key: actor()[key] for key in CLIP_KEYS}


# Aggregation

MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"]


def ours_aggregated(losses, mask, mode, **options):
    if mode == "token-sum":  # we have no such mode: the mean over "one" token
        return aggregate(losses, mask, "token-mean", token_count=1.0)
    return aggregate(losses, mask, mode, **options)


def check_aggregation(mode, seed, *, global_batch, **wrong):
    tokens = Tokens(seed, shape=(5, 6))
    tokens.mask[2] = False  # a response without any token in the loss
    losses = tokens.advantages
    ours = {"max_length": 9, **({"token_count": 50.0, "sequence_count": 8.0} if global_batch else {}), **wrong}
    theirs = {"batch_num_tokens": 50, "global_batch_size": 8} if global_batch else {}
    verls = core_algos.agg_loss(losses, tokens.mask, mode, loss_scale_factor=9, **theirs)
    # verl divides by the length of a response plus 1e-8, which is all that differs.
    tolerance = {"rtol": 2e-8, "atol": 0.0} if mode == "seq-mean-token-mean" else EXACT
    close(ours_aggregated(losses, tokens.mask, mode, **ours), verls, **tolerance)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("global_batch", [False, True], ids=["alone", "as a part of a mini-batch"])
@pytest.mark.parametrize("seed", SEEDS)
def test_aggregation_is_that_of_verl(seed, mode, global_batch):
    check_aggregation(mode, seed, global_batch=global_batch)


@pytest.mark.parametrize(
    ("mode", "wrong"),
    [
        ("token-mean", {"token_count": 30.0}),
        ("seq-mean-token-sum", {"sequence_count": 5.0}),
        ("seq-mean-token-sum-norm", {"max_length": 6}),
        ("seq-mean-token-mean", {"sequence_count": 5.0}),
    ],
)
def test_a_wrong_normaliser_would_show(mode, wrong):
    with pytest.raises(AssertionError):
        check_aggregation(mode, 0, global_batch=False, **wrong)


@pytest.mark.parametrize("mode", MODES)
def test_what_stands_on_padding_does_not_count_here_but_does_in_verls_means_over_sequences(mode):
    tokens = Tokens(0)
    losses = torch.where(tokens.mask, tokens.advantages, torch.nan)
    ours = ours_aggregated(losses, tokens.mask, mode, max_length=4)
    assert bool(ours.isfinite())
    verls = core_algos.agg_loss(losses, tokens.mask, mode)
    assert bool(verls.isnan()) == mode.startswith("seq")


def test_of_an_empty_mask_we_make_0_and_verl_nan():
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    assert aggregate(torch.ones(3, 4), nothing) == 0
    assert core_algos.agg_loss(torch.ones(3, 4), nothing, "token-mean").isnan()


# Other surrogates


def test_on_policy_the_gradient_of_gpg_is_that_of_the_surrogate():
    tokens = Tokens(0, spread=0.0)
    verls, _ = verl_loss("gpg", tokens, actor())
    ours = aggregate(clipped_surrogate(tokens.new, tokens.old, tokens.advantages), tokens.mask)
    close(*(torch.autograd.grad(loss, tokens.new)[0] for loss in (ours, verls)))


@pytest.mark.parametrize("seed", SEEDS)
def test_clip_cov_with_the_same_random_numbers_is_that_of_verl(seed):
    options = {"fraction": 0.1, "lower": 0.05, "upper": 5.0}
    tokens, config = Tokens(seed, spread=0.3, shape=(8, 9)), ClipCovConfig(**options)
    covariance = token_covariance(tokens.new, tokens.advantages, tokens.mask)
    high, low, _ = clip_events(tokens.new, tokens.old, tokens.advantages, dual_clip=None)
    torch.manual_seed(seed)
    chosen = clip_cov_choice(covariance, tokens.mask, high | low, **options)
    loss = clipped_surrogate(tokens.new, tokens.old, tokens.advantages, dual_clip=config.dual_clip)
    ours = aggregate(torch.where(chosen, 0.0, loss), tokens.mask)
    torch.manual_seed(seed)
    verls, metrics = verl_loss("clip_cov", tokens, actor(clip_cov_ratio=0.1, clip_cov_lb=0.05, clip_cov_ub=5.0))
    assert chosen.sum() >= 3
    assert metrics["actor/pg_clipfrac"] == pytest.approx(chosen.sum().item() / tokens.mask.sum().item())
    close(ours, verls)
    close(*(torch.autograd.grad(loss, tokens.new)[0] for loss in (ours, verls)))


@pytest.mark.parametrize("seed", SEEDS)
def test_kl_cov_is_that_of_verl(seed):
    tokens = Tokens(seed, spread=0.3, shape=(8, 9))
    covariance = token_covariance(tokens.new, tokens.advantages, tokens.mask)
    chosen = kl_cov_choice(covariance, tokens.mask, fraction=0.1)
    ours = aggregate(kl_cov_loss(tokens.new, tokens.old, tokens.advantages, chosen, coefficient=0.7), tokens.mask)
    verls, _ = verl_loss("kl_cov", tokens, actor(kl_cov_ratio=0.1, ppo_kl_coef=0.7))
    close(ours, verls)
    close(*(torch.autograd.grad(loss, tokens.new)[0] for loss in (ours, verls)))


def test_a_shift_of_rounding_alone_is_penalised_by_verls_kl_cov_and_not_by_ours():
    tokens = Tokens(0, spread=1e-7)
    everything = torch.ones_like(tokens.mask)
    ours = aggregate(kl_cov_loss(tokens.new, tokens.old, tokens.advantages * 0, everything), tokens.mask)
    tokens.advantages = tokens.advantages * 0
    verls, _ = verl_loss("kl_cov", tokens, actor(kl_cov_ratio=1.0, ppo_kl_coef=1.0))
    gradients = [torch.autograd.grad(loss, tokens.new)[0] for loss in (ours, verls)]
    assert not gradients[0].any()
    close(gradients[1].abs(), tokens.mask / tokens.mask.sum().double())


def test_beyond_the_clamp_the_covariance_methods_of_verl_have_ratios_that_ours_have_not():
    tokens = Tokens(0, shape=(1, 1))
    tokens.old, tokens.new = (torch.full((1, 1), value, dtype=torch.float64) for value in (-30.0, -1.0))
    tokens.advantages, tokens.mask = -torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    none = torch.zeros(1, 1, dtype=torch.bool)
    ours = kl_cov_loss(tokens.new, tokens.old, tokens.advantages, none)
    verls, _ = verl_loss("kl_cov", tokens, actor(ppo_kl_coef=0.0))
    close(ours.squeeze(), torch.tensor(20.0, dtype=torch.float64).exp())
    close(verls, torch.tensor(29.0, dtype=torch.float64).exp())


def test_the_defaults_of_the_covariance_methods_are_those_of_verl_but_for_the_coefficient():
    verls, clip, kl = config_module.PolicyLossConfig(), ClipCov().config, KLCov().config
    assert (clip.fraction, clip.lower, clip.upper) == (verls.clip_cov_ratio, verls.clip_cov_lb, verls.clip_cov_ub)
    # verl's function falls back to 1, as the authors' script has, but its configuration says 0.1.
    assert (kl.fraction, KLCovConfig().coefficient) == (verls.kl_cov_ratio, 1.0)
    assert verls.ppo_kl_coef == 0.1
