"""ADORA as an advantage estimator of verl."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from corollary.rl import Rollouts
from corollary.rl.integrations.verl_hooks import carried_algorithm, hook_advantages, hook_support
from corollary_adora import Adora, AdoraAlgorithmConfig, AdoraConfig, RandomAdora, adora_weights

PRESETS = {
    "llm_2025": {"preset": "llm_2025", "correct_threshold": 0.5},
    "vl": {"preset": "vl"},
    "llm_2026": {"preset": "llm_2026"},
}


class Sample:
    """Four prompts of four responses in random order: right and wrong, short and long."""

    def __init__(self, seed):
        g = torch.Generator().manual_seed(seed)
        self.groups = torch.arange(4).repeat(4)[torch.randperm(16, generator=g)]
        self.rewards = (torch.rand(16, generator=g, dtype=torch.float64) < 0.4).double()
        self.lengths = torch.randint(1, 9, (16,), generator=g)
        self.mask = torch.arange(8) < self.lengths[:, None]
        self.token_rewards = torch.zeros(16, 8, dtype=torch.float64)
        self.token_rewards[torch.arange(16), self.lengths - 1] = self.rewards
        self.uids = np.array([f"prompt {group}" for group in self.groups.tolist()], dtype=object)

    def rollouts(self):
        zeros = torch.zeros(16, 8)
        return Rollouts(
            prompt_ids=self.groups[:, None],
            prompt_mask=torch.ones(16, 1, dtype=torch.bool),
            completion_ids=zeros.long(),
            completion_mask=self.mask,
            sampling_log_probs=zeros,
            rewards=self.rewards,
            group_ids=self.groups,
            temperatures=torch.ones(16),
        )


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", range(5))
def test_the_hook_gives_what_the_algorithm_gives(seed, preset):
    sample, options = Sample(seed), PRESETS[preset]
    algorithm = Adora(AdoraAlgorithmConfig(**options))
    expected = algorithm.advantages(sample.rollouts())[:, None] * sample.mask
    hooked = carried_algorithm("adora", {"corollary": options})
    assert torch.equal(hook_advantages(hooked, sample.token_rewards, sample.mask, sample.uids), expected)


def test_padding_is_no_length():
    sample, hooked = Sample(0), carried_algorithm("adora", {"corollary": PRESETS["llm_2025"]})
    before = hook_advantages(hooked, sample.token_rewards, sample.mask, sample.uids)
    wider = [torch.nn.functional.pad(x, (0, 5)) for x in (sample.token_rewards, sample.mask)]
    assert torch.equal(hook_advantages(hooked, *wider, sample.uids)[:, :8], before)
    with_padding = torch.ones_like(sample.mask)
    assert not torch.equal(
        hook_advantages(hooked, sample.token_rewards, with_padding, sample.uids)[:, :1], before[:, :1]
    )


def test_adora_goes_through_the_advantage_hook_alone_and_its_random_control_does_not():
    support = hook_support(Adora())
    assert (support.advantages, support.loss, support.missing) == (True, False, ())
    assert "prepare" in hook_support(RandomAdora()).missing[0]


def test_what_adoras_prepare_leaves_out_in_verl_is_the_log_alone():
    batch_like = Sample(1).rollouts()
    algorithm = Adora(AdoraAlgorithmConfig(**PRESETS["llm_2025"]))
    assert set(algorithm._metrics(replace(batch_like))) == set(Adora.metrics)


@pytest.mark.parametrize("preset", PRESETS)
# Samples in which a weight other than 1 meets an advantage other than 0.
@pytest.mark.parametrize("seed", [0, 2, 4, 5, 6])
def test_in_verl_adora_is_verls_grpo_times_the_weights(seed, preset):
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    sample, options = Sample(seed), PRESETS[preset]
    given = {"token_level_rewards": sample.token_rewards, "response_mask": sample.mask.long(), "index": sample.uids}
    grpo, _ = core_algos.compute_grpo_outcome_advantage(**given)
    changes = {name: value for name, value in options.items() if name != "preset"}
    rule = replace(getattr(AdoraConfig, options["preset"])(), **changes)
    weights = adora_weights(sample.rewards, sample.lengths, sample.groups, config=rule)
    assert weights.unique().numel() == 2
    found, returns = core_algos.get_adv_estimator_fn("corollary-adora")(**given, config={"corollary": options})
    torch.testing.assert_close(found, weights[:, None] * grpo, rtol=1e-10, atol=1e-10)
    assert found is returns
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found, grpo, rtol=1e-10, atol=1e-10)
