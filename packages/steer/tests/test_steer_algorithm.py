from dataclasses import replace

import pytest
import torch

from corollary.models import SmallModel
from corollary.rl import GRPO, METRICS, OPO, RLOO, GRPOConfig, TrainConfig, Trainer, aggregate, make_algorithm
from corollary.tasks import make_task
from corollary_steer import Steer, SteerConfig, SteerLoss, entropy_change

TASK = make_task("digit-sum")
CONFIG = TrainConfig(steps=2, prompts_per_step=8, group_size=4, mini_batches=2, learning_rate=1e-2)


class EasyTask:
    """digit-sum's prompts with a reward that an untrained policy sometimes gets."""

    def __getattr__(self, name):
        return getattr(TASK, name)

    def reward(self, prompt, completion):
        return float(completion[0] < 5)


def trainer(algorithm, config=CONFIG, dtype=torch.float64):
    torch.set_num_threads(1)
    model = SmallModel(hidden_size=32, layers=1, heads=2, intermediate_size=48).build(TASK.vocab_size, seed=0).to(dtype)
    with torch.no_grad():  # a policy with peaked and flat states
        model.model.embed_tokens.weight.mul_(3)
    return Trainer(model, EasyTask(), algorithm, config, seed=0)


def trained(algorithm, config=CONFIG, dtype=torch.float64):
    run = trainer(algorithm, config, dtype)
    metrics = [run.step() for _ in range(config.steps)]
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]), metrics


def batch_of(algorithm):
    run = trainer(algorithm)
    batch = run._batch(run._next_prompts(), 1.0)
    generator = torch.Generator().manual_seed(0)
    moved = batch.old_log_probs + 0.2 * torch.randn(batch.mask.shape, generator=generator, dtype=torch.float64)
    return batch, batch.behaviour._replace(log_prob=moved.clamp(max=0.0))


@pytest.mark.parametrize("scope", ["micro", "mini"])
def test_without_damping_training_is_grpo_with_the_same_clip_to_the_bit(scope):
    base = GRPO(GRPOConfig(clip_low=0.2, clip_high=0.28, dual_clip=10.0))
    weights, _ = trained(Steer(SteerConfig(lambda_min=1.0, scope=scope)), dtype=torch.float32)
    assert torch.equal(weights, trained(base, dtype=torch.float32)[0])


def test_damping_changes_training():
    weights, metrics = trained(Steer())
    assert not torch.equal(weights, trained(Steer(SteerConfig(lambda_min=1.0)))[0])
    assert metrics[0]["weight/min"] == pytest.approx(0.7)


SPLIT = replace(CONFIG, micro_batch_size=3)


def check_that_the_split_does_not_matter():
    whole, metrics = trained(Steer(SteerConfig(lambda_min=0.3)))
    parts, split_metrics = trained(Steer(SteerConfig(lambda_min=0.3)), SPLIT)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    assert split_metrics[0] == pytest.approx(metrics[0])


def test_the_mini_batch_maximum_does_not_depend_on_micro_batches():
    check_that_the_split_does_not_matter()


def test_a_maximum_over_the_micro_batch_would_be_noticed(monkeypatch):
    monkeypatch.setattr(Steer, "prepare_mini_batch", lambda self, batch, stats: batch)
    with pytest.raises(AssertionError):
        check_that_the_split_does_not_matter()


def test_the_released_micro_batch_maximum_depends_on_them():
    config = SteerConfig(lambda_min=0.3, scope="micro")
    whole, metrics = trained(Steer(config))
    assert torch.equal(whole, trained(Steer(replace(config, scope="mini")))[0])
    parts, split_metrics = trained(Steer(config), SPLIT)
    assert (parts - whole).abs().max() > 1e-6
    # Every part has a token that gets the smallest weight, so their mean maximum is smaller.
    assert split_metrics[0]["omega/max"] < metrics[0]["omega/max"]


def test_one_process_has_the_same_maximum_globally():
    assert torch.equal(trained(Steer(SteerConfig(scope="global")))[0], trained(Steer())[0])


def test_the_global_scope_asks_the_process_group(monkeypatch):
    seen = []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor, op, group: seen.append(group))
    for scope in ("mini", "global"):
        algorithm = Steer(SteerConfig(scope=scope))
        batch, stats = batch_of(algorithm)
        algorithm.process_group = "ranks"
        algorithm.prepare_mini_batch(batch, stats)
    assert seen == ["ranks"]


def test_the_token_loss_is_that_of_the_plain_module():
    algorithm = Steer(SteerConfig(lambda_min=0.4))
    batch, stats = batch_of(algorithm)
    prepared = algorithm.prepare_mini_batch(batch, stats)
    ours = aggregate(algorithm.token_loss(prepared, stats), batch.mask)
    plain, metrics = SteerLoss(algorithm.config)(
        stats.log_prob, batch.old_log_probs, batch.advantages, batch.mask, batch.behaviour.entropy
    )
    torch.testing.assert_close(ours, plain)
    assert {name: metrics[name] for name in prepared.metrics} == pytest.approx(dict(prepared.metrics))


def test_the_entropy_is_the_behaviour_policys():
    algorithm = Steer()
    batch, stats = batch_of(algorithm)
    weights = algorithm.weights(batch, stats).weights
    later = stats._replace(entropy=stats.entropy * 0.1)
    assert torch.equal(algorithm.weights(batch, later).weights, weights)
    other = replace(batch, behaviour=batch.behaviour._replace(entropy=batch.behaviour.entropy * 0.1))
    assert not torch.equal(algorithm.weights(other, stats).weights, weights)


def test_only_the_loss_carries_a_gradient():
    algorithm = Steer()
    batch, stats = batch_of(algorithm)
    leaf = stats.log_prob.clone().requires_grad_()
    prepared = algorithm.prepare_mini_batch(batch, stats)
    weights = prepared.per_token["weights"]
    assert not weights.requires_grad
    algorithm.token_loss(prepared, stats._replace(log_prob=leaf)).sum().backward()
    base = stats.log_prob.clone().requires_grad_()
    unweighted = Steer(SteerConfig(lambda_min=1.0))
    unweighted.token_loss(unweighted.prepare_mini_batch(batch, stats), stats._replace(log_prob=base)).sum().backward()
    torch.testing.assert_close(leaf.grad, weights * base.grad)


def test_the_exact_form_asks_for_the_sums_and_uses_the_behaviour_policys():
    assert Steer().behaviour_stats == {"log_prob", "entropy"}
    algorithm = Steer(SteerConfig(form="exact"))
    assert algorithm.behaviour_stats == {"log_prob", "entropy", "sum_p2", "sum_p2_log_p"}
    batch, stats = batch_of(algorithm)
    b = batch.behaviour
    omega = entropy_change(
        batch.advantages,
        b.entropy,
        b.log_prob,
        stats.log_prob,
        form="exact",
        sum_p2=b.sum_p2,
        sum_p2_log_p=b.sum_p2_log_p,
    ).abs()
    largest = omega[batch.mask].max()
    expected = torch.where(batch.mask, 0.7 ** (omega / largest.clamp(min=0.02)), 0.0)
    torch.testing.assert_close(algorithm.weights(batch, stats).weights, expected)
    assert not torch.equal(trained(algorithm)[0], trained(Steer())[0])


def test_advantages_can_be_those_of_rloo_and_opo():
    algorithm = Steer()
    batch, _ = batch_of(algorithm)
    rollouts = batch.rollouts
    assert torch.equal(algorithm.advantages(rollouts), GRPO().advantages(rollouts))
    rloo = Steer(SteerConfig(advantage="rloo")).advantages(rollouts)
    assert torch.equal(rloo, RLOO().advantages(rollouts))
    opo = Steer(SteerConfig(advantage="opo")).advantages(rollouts)
    assert torch.equal(opo, OPO().advantages(rollouts))
    assert not torch.allclose(rloo, opo)


@pytest.mark.parametrize("scope", ["micro", "mini", "global"])
def test_an_algorithm_logs_its_glossary_and_no_more(scope):
    algorithm = Steer(SteerConfig(scope=scope))
    assert set(trainer(algorithm).step()) == set(METRICS) | set(algorithm.metrics)


def test_the_divergence_is_the_mean_of_an_unbiased_estimate():
    algorithm = Steer()
    batch, stats = batch_of(algorithm)
    total, count = algorithm.update_metrics(batch, stats)["kl/old"]
    ratio = (stats.log_prob - batch.old_log_probs)[batch.mask].exp()
    assert (total / count).item() == pytest.approx((ratio - 1 - ratio.log()).mean().item())
    assert total > 0


def test_the_package_offers_its_algorithm_by_name():
    algorithm = make_algorithm("steer", lambda_min=0.8, mapping="linear", weight_max=1.2)
    assert isinstance(algorithm, Steer)
    assert algorithm.config == SteerConfig(lambda_min=0.8, mapping="linear", weight_max=1.2)


def test_the_defaults_are_the_papers():
    c = SteerConfig()
    assert (c.lambda_min, c.mapping, c.mode, c.floor, c.form) == (0.7, "exponential", "symmetric", 0.02, "released")
    assert (c.clip_low, c.clip_high, c.dual_clip, c.aggregation) == (0.2, 0.28, 10.0, "token-mean")
    assert (c.use_clip_indicator, c.on_nonfinite, c.scope) == (False, "raise", "mini")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_min": 0.0}, r"lambda_min must be in \(0, 1\], got 0.0"),
        ({"scope": "batch"}, "scope must be one of .*, got 'batch'"),
        ({"advantage": "ppo"}, "advantage must be one of .*, got 'ppo'"),
        ({"form": "theorem"}, "form must be one of .*, got 'theorem'"),
        ({"weight_max": 1.2}, "weight_max is for the linear mapping"),
        ({"clip_low": 2.0}, r"clip_low must be in \[0, 1\), got 2.0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_trained(options, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm("steer", **options)
