from dataclasses import replace

import pytest
import torch

from corollary.kernels import TokenStats, token_stats
from corollary.rl import GRPO, METRICS, TrainConfig, Trainer, make_algorithm
from corollary.tasks import make_task
from corollary_aepo import AEPO, AblatedAEPO, AblatedAEPOConfig, AEPOConfig, RemainingSum
from corollary_aepo.exact import random_batch, random_position_logits
from corollary_aepo.mixing import REINFORCE

TASK = make_task("digit-sum")
CONFIG = TrainConfig(steps=4, prompts_per_step=9, group_size=4, mini_batches=2, learning_rate=0.05)


class EasyTask:
    """digit-sum's prompts with a reward that an untrained policy sometimes gets."""

    def __getattr__(self, name):
        return getattr(TASK, name)

    def reward(self, prompt, completion):
        return float(completion[0] < 5)


def easy(**options):
    return AEPO(AEPOConfig(**{"target": 1.0, "reinforce_fraction": 0.25, **options}))


def trainer(algorithm, config=CONFIG, dtype=torch.float32, directory=None):
    torch.set_num_threads(1)
    policy = RemainingSum().to(dtype)
    policy.table.data.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    return Trainer(policy, EasyTask(), algorithm, config, seed=0, directory=directory)


def trained(algorithm, config=CONFIG, dtype=torch.float32):
    run = trainer(algorithm, config, dtype)
    metrics = [run.step() for _ in range(config.steps)]
    return run.model.table.detach(), metrics


class Kept(AEPO):
    """Keeps every batch that it prepared."""

    def __init__(self, config=None):
        super().__init__(config)
        self.seen, self.mixed = [], []

    def prepare(self, batch):
        self.seen.append(batch)
        self.mixed.append(super().prepare(batch))
        return self.mixed[-1]


def kept(**options):
    algorithm = Kept(AEPOConfig(**{"target": 1.0, "reinforce_fraction": 0.25, **options}))
    return algorithm, *trained(algorithm)


def test_without_reinforce_samples_the_loss_is_that_of_grpo():
    """The second sample is drawn and thrown away; on the same batch nothing else is left."""
    generator = torch.Generator().manual_seed(0)
    logits = random_position_logits(generator)
    batch = random_batch(generator, logits, torch.full((8,), 5))
    second = random_batch(generator, logits, torch.full((4,), 5), first_group=2)
    for mode in ("replace", "additive"):
        algorithm = AEPO(AEPOConfig(reinforce_num=0, mode=mode))
        prepared = algorithm.prepare(replace(batch, extra=second))
        stats = TokenStats(log_prob=batch.old_log_probs + 0.1)
        assert torch.equal(algorithm.token_loss(prepared, stats), GRPO().token_loss(batch, stats))


def test_the_second_sample_is_the_first_quarter_of_the_prompts_in_whole_groups():
    algorithm, *_ = kept()
    for batch in algorithm.seen:
        second = batch.extra.rollouts
        assert torch.equal(second.prompt_ids, batch.rollouts.prompt_ids[: 2 * 4])  # 9 // 4 prompts of 4
        assert second.group_ids.tolist() == [9] * 4 + [10] * 4


@pytest.mark.parametrize("prompts", [1, 2, 3])
def test_fewer_than_four_prompts_give_one_group(prompts):
    algorithm = Kept(AEPOConfig(reinforce_fraction=0.5))
    trained(algorithm, replace(CONFIG, prompts_per_step=prompts, steps=1))
    assert len(algorithm.seen[0].extra) == 4


def test_the_second_sample_is_drawn_at_t_and_scored_at_one():
    algorithm, *_ = kept(target=0.0)
    hot, cold = algorithm.seen[0].extra, algorithm.seen[1].extra
    assert hot.rollouts.temperatures.unique().tolist() == pytest.approx([1.2])
    assert cold.rollouts.temperatures.unique().tolist() == pytest.approx([0.8])
    for sample in (hot, cold):
        assert (sample.old_log_probs - sample.rollouts.sampling_log_probs).abs().max() > 0.05
    ordinary = algorithm.seen[0]
    torch.testing.assert_close(ordinary.old_log_probs, ordinary.rollouts.sampling_log_probs, rtol=0, atol=1e-5)


def test_reinforce_samples_have_advantage_one_and_are_correct():
    algorithm, _, metrics = kept(select="reward")
    for mixed, log in zip(algorithm.mixed, metrics, strict=True):
        chosen = mixed.per_token[REINFORCE].any(1)
        assert chosen.sum() == log["aepo/num_reinforce"] > 0
        assert (mixed.rollouts.rewards[chosen] == 1).all()
        assert (mixed.advantages[chosen] == 1).all()
        assert len(mixed) == 36


def test_the_controller_reads_the_monte_carlo_entropy_of_the_mixed_batch():
    algorithm, _, metrics = kept()
    log = metrics[-1]
    assert algorithm.controller.entropy == log["aepo/entropy"]
    assert log["aepo/entropy"] != pytest.approx(log["policy/entropy"], abs=1e-4)


def test_the_monte_carlo_entropy_is_minus_the_mean_log_probability():
    """With a step size of next to nothing, at the behaviour policy."""
    algorithm = Kept(AEPOConfig(reinforce_fraction=0.25))
    run = trainer(algorithm, replace(CONFIG, learning_rate=1e-12), dtype=torch.float64)
    metrics = run.step()
    assert metrics["aepo/entropy"] == pytest.approx(-algorithm.mixed[0].old_log_probs.mean().item(), abs=1e-6)


def test_the_controller_may_read_the_analytic_entropy():
    algorithm = easy(entropy_signal="analytic_on_policy")
    _, metrics = trained(algorithm)
    assert algorithm.controller.entropy == metrics[-1]["policy/entropy"]


def test_each_step_uses_the_entropy_of_the_one_before():
    _, _, metrics = kept(target=2.0)
    hot = [log["aepo/temperature"] for log in metrics]
    before = [0.0] + [log["aepo/entropy"] for log in metrics[:-1]]
    assert hot == pytest.approx([1.2 if entropy <= 2.0 else 0.8 for entropy in before])


@pytest.mark.parametrize("mode", ["replace", "additive"])
def test_the_result_does_not_depend_on_micro_batches(mode):
    whole, _ = trained(easy(mode=mode), dtype=torch.float64)
    parts, _ = trained(easy(mode=mode), replace(CONFIG, micro_batch_size=5), dtype=torch.float64)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-10)


def test_in_front_the_reinforce_samples_are_in_the_first_mini_batch():
    class Rows(AEPO):
        shares: list

        def token_loss(self, batch, stats):
            self.shares.append(batch.per_token[REINFORCE].any(1).double().mean().item())
            return super().token_loss(batch, stats)

    for placement in ("front", "shuffled"):
        algorithm = Rows(AEPOConfig(target=9.0, reinforce_num=4, placement=placement, select="reward"))
        algorithm.shares = []
        trained(algorithm)
        first, second = algorithm.shares[::2], algorithm.shares[1::2]
        if placement == "front":
            assert min(first) > 0
            assert max(second) == 0
        else:
            assert max(second) > 0


def test_a_resumed_run_gives_the_same_numbers(tmp_path):
    whole = trainer(easy(target=2.0))
    whole.train()
    trainer(easy(target=2.0), replace(CONFIG, steps=2), directory=tmp_path).train()
    algorithm = easy(target=2.0)
    resumed = trainer(algorithm, directory=tmp_path)
    resumed.train()
    assert torch.equal(resumed.model.table, whole.model.table)
    assert algorithm.state_dict() == whole.algorithm.state_dict()


def test_an_algorithm_logs_its_glossary_and_no_more():
    for algorithm in (easy(), AblatedAEPO(), easy(mode="additive")):
        assert set(trainer(algorithm).step()) == set(METRICS) | set(algorithm.metrics)


def test_no_correct_response_leaves_the_batch_alone():
    class Hopeless(EasyTask):
        def reward(self, prompt, completion):
            return 0.0

    run = trainer(easy())
    run.task = Hopeless()
    metrics = run.step()
    assert metrics["aepo/num_reinforce"] == metrics["aepo/candidates"] == metrics["aepo/hot_accuracy"] == 0
    assert metrics["grad/norm"] == 0


def test_the_default_share_is_the_scripts():
    assert AEPO().max_reinforce(2560) == 60
    assert AEPO().max_reinforce(256) == 6
    assert AEPO(AEPOConfig(reinforce_num=60)).max_reinforce(256) == 60


def test_more_reinforce_samples_than_responses_are_refused():
    with pytest.raises(ValueError, match="reinforce_num must be at most the batch's 36 responses, got 60"):
        trainer(AEPO(AEPOConfig(reinforce_num=60))).step()


def test_an_engine_without_a_second_sample_is_told():
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(generator, random_position_logits(generator), torch.full((4,), 5))
    with pytest.raises(ValueError, match=r"AEPO needs the second sample of extra_rollouts as batch.extra, got None"):
        AEPO().prepare(batch)


def test_without_temperature_the_second_sample_is_ordinary():
    algorithm = AblatedAEPO(AblatedAEPOConfig(without="temperature"))
    _, metrics = trained(algorithm)
    assert {log["aepo/temperature"] for log in metrics} == {1.0}


def ablated(part):
    """The batch and what this ablation makes of it: two groups of 4 in the second sample, the first mixed."""
    generator = torch.Generator().manual_seed(0)
    logits = random_position_logits(generator)
    batch = random_batch(generator, logits, torch.full((16,), 5))
    second = random_batch(generator, logits, torch.full((8,), 5), first_group=4)
    rewards = torch.tensor([0.0, 1, 0, 1, 1, 1, 1, 1]).double()
    advantages = torch.tensor([-0.9, 0.9, -0.8, 0.8, 0, 0, 0, 0]).double()[:, None].expand(8, 5)
    second = replace(second, advantages=advantages, rollouts=replace(second.rollouts, rewards=rewards))
    algorithm = AblatedAEPO(AblatedAEPOConfig(without=part, target=9.0, select="reward", reinforce_fraction=0.25))
    return second, algorithm.prepare(replace(batch, extra=second))


def test_without_selection_wrong_responses_are_reinforced_too():
    second, mixed = ablated("selection")
    assert torch.equal(mixed.rollouts.completion_ids[:4], second.rollouts.completion_ids[:4])
    assert (mixed.advantages[:4] == 1).all()
    assert mixed.rollouts.rewards[:4].tolist() == [0, 1, 0, 1]


def test_without_reinforce_the_second_sample_keeps_its_advantages():
    second, mixed = ablated("reinforce")
    rows = torch.tensor([1, 3, 4, 5])
    assert torch.equal(mixed.rollouts.completion_ids[:4], second.rollouts.completion_ids[rows])
    assert torch.equal(mixed.advantages[:4], second.advantages[rows])


@pytest.mark.parametrize(("estimator", "learns"), [("analytic", True), ("sampled", False)])
def test_the_sampled_entropy_bonus_has_no_gradient_on_average(estimator, learns):
    """The baseline's pitfall, on a sample with exactly the policy's frequencies: the expectation without noise."""
    odds = torch.tensor([16, 4, 4, 1])
    logits = odds.double().log().requires_grad_()
    actions = torch.repeat_interleave(torch.arange(4), odds)[:, None]
    algorithm = make_algorithm("entropy-bonus", coefficient=1.0, estimator=estimator)
    batch = random_batch(torch.Generator(), logits.detach()[None], torch.ones(len(actions), dtype=torch.int64))
    batch = replace(batch, advantages=torch.zeros_like(batch.advantages))
    stats = token_stats(logits.expand(len(actions), 1, -1), actions, stats=("log_prob", "entropy"))
    (gradient,) = torch.autograd.grad(algorithm.token_loss(batch, stats).mean(), logits)
    if learns:
        assert gradient.abs().max() > 0.1
    else:
        assert gradient.abs().max() < 1e-15


def test_the_package_offers_its_algorithms_by_name():
    assert make_algorithm("aepo").config == AEPOConfig()
    assert make_algorithm("aepo", target=0.75).controller.target == 0.75
    assert isinstance(make_algorithm("aepo-ablation", without="selection"), AblatedAEPO)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("aepo", {"target": -1.0}, "target must be finite and at least 0, got -1.0"),
        ("aepo", {"t_high": 0.9}, "t_high must be finite and larger than 1, got 0.9"),
        ("aepo", {"t_low": 1.0}, r"t_low must be in \(0, 1\), got 1.0"),
        ("aepo", {"threshold": 1.5}, r"threshold must be in \[0, 1\), got 1.5"),
        ("aepo", {"reinforce_fraction": 1.1}, r"reinforce_fraction must be in \[0, 1\], got 1.1"),
        ("aepo", {"reinforce_num": -1}, "reinforce_num must be at least 0, or None, got -1"),
        ("aepo", {"extra_fraction": 0.0}, r"extra_fraction must be in \(0, 1\], got 0.0"),
        ("aepo", {"select": "best"}, "select must be one of"),
        ("aepo", {"mode": "both"}, "mode must be one of"),
        ("aepo", {"alpha": 0.1}, "alpha belongs to mode='additive'"),
        ("aepo", {"placement": "end"}, "placement must be one of"),
        ("aepo", {"entropy_signal": "guess"}, "entropy_signal must be one of"),
        ("aepo", {"mode": "additive", "aggregation": "grpo"}, "is worked out for aggregation token-mean, got 'grpo'"),
        ("aepo-ablation", {"without": "luck"}, "without must be one of"),
    ],
)
def test_bad_options_are_refused_before_anything_is_trained(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm(name, **options)


def test_a_target_above_the_vocabularys_entropy_warns():
    with pytest.warns(UserWarning, match="which no policy can reach"):
        make_algorithm("aepo", target=2.5, vocab_size=10)
