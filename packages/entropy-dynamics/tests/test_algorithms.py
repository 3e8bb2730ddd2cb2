from dataclasses import replace

import pytest
import torch

from corollary.models import SmallModel
from corollary.rl import GRPO, METRICS, TrainConfig, Trainer, make_algorithm
from corollary.rl.scoring import score
from corollary.tasks import make_task
from corollary_entropy_dynamics import (
    ClipB,
    ClipBConfig,
    ClipV,
    ClipVConfig,
    ObservedGRPO,
    SignMask,
    SignMaskConfig,
    deviation,
)

TASK = make_task("digit-sum")
CONFIG = TrainConfig(steps=3, prompts_per_step=8, group_size=4, mini_batches=2, learning_rate=1e-2)


class EasyTask:
    """digit-sum's prompts with a reward that an untrained policy sometimes gets."""

    def __getattr__(self, name):
        return getattr(TASK, name)

    def reward(self, prompt, completion):
        return float(completion[0] < 5)


def trainer(algorithm, config=CONFIG, dtype=torch.float32):
    torch.set_num_threads(1)
    model = SmallModel(hidden_size=32, layers=1, heads=2, intermediate_size=48).build(TASK.vocab_size, seed=0).to(dtype)
    with torch.no_grad():  # a policy with peaked and flat states
        model.model.embed_tokens.weight.mul_(3)
    return Trainer(model, EasyTask(), algorithm, config, seed=0)


def trained(algorithm, config=CONFIG, dtype=torch.float32):
    run = trainer(algorithm, config, dtype)
    metrics = [run.step() for _ in range(config.steps)]
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]), metrics


def batch_of(algorithm):
    run = trainer(algorithm, dtype=torch.float64)
    return run, run._batch(run._next_prompts(), 1.0)


def test_observing_changes_nothing():
    assert torch.equal(trained(ObservedGRPO())[0], trained(GRPO())[0])


@pytest.mark.parametrize(
    "idle", [ClipB(ClipBConfig(mu=1e6)), ClipV(ClipVConfig(mu=1e6))], ids=lambda algorithm: type(algorithm).__name__
)
def test_a_mask_that_drops_nothing_is_grpo_to_the_bit(idle):
    assert torch.equal(trained(idle)[0], trained(GRPO())[0])


@pytest.mark.parametrize(
    "algorithm",
    [ClipB(ClipBConfig(mu=0.5)), ClipV(ClipVConfig(mu=0.5, max_fraction=1.0))],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_a_mask_that_drops_tokens_trains_differently_and_says_how_many(algorithm):
    weights, metrics = trained(algorithm)
    assert not torch.equal(weights, trained(GRPO())[0])
    first = metrics[0]
    assert 0 < first["frac_clipped"] < 0.5
    assert first["frac_clipped"] == pytest.approx(first["frac_clipped_neg"])
    assert first["loss/kept"] == pytest.approx(1 - first["frac_clipped"])


def test_the_mask_does_not_depend_on_micro_batches():
    algorithm = ClipB(ClipBConfig(mu=0.5))
    whole, _ = trained(algorithm, dtype=torch.float64)
    parts, _ = trained(algorithm, replace(CONFIG, micro_batch_size=3), dtype=torch.float64)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


def test_the_loss_is_normalised_over_the_kept_tokens():
    algorithm = ClipB(ClipBConfig(mu=0.5))
    run, batch = batch_of(algorithm)
    prepared = algorithm.prepare(batch)
    kept = prepared.mask
    assert kept.sum() < batch.mask.sum()
    log_probs = score(run.model, batch.rollouts).log_prob
    (-(batch.advantages * log_probs)[kept].sum() / kept.sum()).backward()
    expected = torch.cat([p.grad.flatten() for p in run.model.parameters()])
    other = trainer(algorithm, replace(CONFIG, mini_batches=1, max_grad_norm=1e9), dtype=torch.float64)
    other.optimizer = torch.optim.SGD(other.model.parameters(), lr=1.0)
    before = torch.cat([p.detach().flatten() for p in other.model.parameters()])
    other.step()
    after = torch.cat([p.detach().flatten() for p in other.model.parameters()])
    torch.testing.assert_close(before - after, expected, rtol=1e-5, atol=1e-8)


def test_advantages_are_those_of_grpo():
    _, batch = batch_of(ClipB(ClipBConfig(mu=0.5)))
    prepared = ClipB(ClipBConfig(mu=0.5)).prepare(batch)
    assert torch.equal(prepared.advantages, batch.advantages)


def test_the_source_of_the_log_probability_can_be_chosen():
    _, batch = batch_of(ClipB())
    shifted = replace(batch, rollouts=replace(batch.rollouts, sampling_log_probs=batch.rollouts.sampling_log_probs * 3))
    masks = {
        source: ClipB(ClipBConfig(mu=0.5, log_prob_source=source)).prepare(shifted).mask
        for source in ("recomputed", "rollout")
    }
    assert torch.equal(masks["recomputed"], ClipB(ClipBConfig(mu=0.5)).prepare(batch).mask)
    assert not torch.equal(masks["rollout"], masks["recomputed"])


@pytest.mark.parametrize("advantage", [1, -1])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sign_mask_leaves_the_gradient_of_its_tokens_alone(advantage, sign):
    algorithm = SignMask(SignMaskConfig(keep_advantage=advantage, keep_deviation=sign))
    _, batch = batch_of(algorithm)
    prepared = algorithm.prepare(batch)
    stats = prepared.behaviour._replace(log_prob=prepared.behaviour.log_prob.clone().requires_grad_())
    algorithm.token_loss(prepared, stats).sum().backward()
    expected = (batch.advantages.sign() == advantage) & (deviation(batch.behaviour).sign() == sign)
    assert torch.equal(stats.log_prob.grad != 0, expected)
    assert expected.any()
    assert torch.equal(prepared.mask, batch.mask)  # the normaliser stays


def test_an_algorithm_logs_its_glossary_and_no_more():
    for algorithm in (ObservedGRPO(), ClipB(), ClipV(), SignMask()):
        assert set(trainer(algorithm).step()) == set(METRICS) | set(algorithm.metrics)


def test_metrics_of_the_upper_clip_are_those_of_the_tokens_without_gradient():
    algorithm = ObservedGRPO()
    _, batch = batch_of(algorithm)
    prepared = algorithm.prepare(batch)
    generator = torch.Generator().manual_seed(0)
    moved = batch.old_log_probs + 0.4 * torch.randn(batch.mask.shape, generator=generator, dtype=torch.float64)
    stats = batch.behaviour._replace(log_prob=moved.requires_grad_())
    algorithm.token_loss(prepared, stats).sum().backward()
    stopped = (moved.grad == 0) & (batch.advantages != 0) & batch.mask
    high = stopped & (batch.advantages > 0)
    free = batch.mask & ~stopped
    old = batch.old_log_probs.exp()
    with torch.no_grad():
        sums = algorithm.update_metrics(prepared, stats)
    means = {name: (total / count).item() for name, (total, count) in sums.items()}
    assert high.any()
    assert means["clip/high"] == pytest.approx(high.sum().item() / batch.mask.sum().item())
    assert means["clip_high/old_prob"] == pytest.approx(old[high].mean().item())
    assert means["clip_high/negative_deviation"] == pytest.approx(
        (deviation(batch.behaviour)[high] < 0).double().mean().item()
    )
    assert means["unclipped/old_prob"] == pytest.approx(old[free].mean().item())


def test_logged_discriminators_are_those_of_the_completion_tokens():
    algorithm = ObservedGRPO()
    _, batch = batch_of(algorithm)
    metrics = algorithm.prepare(batch).metrics
    valid = batch.rollouts.completion_mask
    assert not valid.all()
    p, log_p, entropy = (x[valid] for x in (batch.old_log_probs.exp(), batch.old_log_probs, batch.behaviour.entropy))
    s = p * (entropy + log_p)
    d = s - (entropy * batch.behaviour.sum_p2[valid] + batch.behaviour.sum_p2_log_p[valid])
    assert metrics["discriminator/mean"] == pytest.approx(s.mean().item())
    assert metrics["discriminator/std"] == pytest.approx(s.std(correction=0).item())
    assert metrics["deviation/mean"] == pytest.approx(d.mean().item())
    assert metrics["deviation/std"] == pytest.approx(d.std(correction=0).item())
    assert metrics["predicted/entropy_change"] == pytest.approx(-(batch.advantages[valid] * d).mean().item())
    assert metrics["batch/tokens"] == valid.sum().item()


def test_clip_b_needs_no_more_than_log_probability_and_entropy():
    _, batch = batch_of(ClipB(ClipBConfig(mu=0.5)))
    assert batch.behaviour.sum_p2 is None
    assert ClipB(ClipBConfig(mu=0.5)).prepare(batch).mask.sum() < batch.mask.sum()


def test_the_package_offers_its_algorithms_by_name():
    assert make_algorithm("clip-b").config == ClipBConfig(mu=2.5)
    assert make_algorithm("clip-v").config == ClipVConfig(mu=8.5, max_fraction=1e-4)
    assert isinstance(make_algorithm("sign-mask", keep_deviation=-1), SignMask)
    assert isinstance(make_algorithm("grpo-observed"), ObservedGRPO)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip-b", {"mu": 0.0}, "mu must be larger than 0, got 0.0"),
        ("clip-b", {"log_prob_source": "old"}, "log_prob_source must be 'recomputed' or 'rollout', got 'old'"),
        ("clip-b", {"clip_low": 2.0}, r"clip_low must be in \[0, 1\), got 2.0"),
        ("clip-v", {"mu": -1.0}, "mu must be larger than 0, got -1.0"),
        ("clip-v", {"max_fraction": 0.0}, r"max_fraction must be in \(0, 1\], got 0.0"),
        ("sign-mask", {"keep_deviation": 0}, "keep_deviation must be 1 or -1, got 0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_trained(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm(name, **options)
