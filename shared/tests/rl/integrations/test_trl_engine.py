"""The hooks of an algorithm in TRL: when they are called, with what, and what becomes of it."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("trl", reason='needs the extra "trl"')

from corollary.rl import (
    DAPO,
    GRPO,
    METRICS,
    Algorithm,
    ClipCov,
    ClipCovConfig,
    DAPOConfig,
    RolloutRequest,
    concatenate,
    make_algorithm,
    score,
)
from corollary.rl.integrations.trl import AlgorithmGRPOTrainer, args_for

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


def clip_cov():
    return ClipCov(ClipCovConfig(fraction=0.2, lower=-1.0, upper=5.0, clip_low=0.01, clip_high=0.01))


SPLITS = [
    {"per_device_train_batch_size": 8, "steps_per_generation": 2, "gradient_accumulation_steps": 1},
    {"per_device_train_batch_size": 4, "steps_per_generation": 4, "gradient_accumulation_steps": 2},
    {"per_device_train_batch_size": 2, "steps_per_generation": 8, "gradient_accumulation_steps": 4},
]
"""Two optimiser steps of 8 completions each, in 1, 2 and 4 micro-batches."""


def trained_in_parts(trainer_of, options, make):
    trainers = []
    for split in SPLITS:
        algorithm = make()
        args = args_for(algorithm, **{**options, **split, "num_iterations": 2})
        trainers.append(trainer_of(args, algorithm))
        trainers[-1].train()
    return trainers


@pytest.mark.parametrize("make", [clip_cov, lambda: make_algorithm("dr-grpo"), lambda: make_algorithm("dapo")])
def test_the_number_of_micro_batches_changes_nothing(trainer_of, worst, options, make):
    whole, *parts = trained_in_parts(trainer_of, options, make)
    logged = {name for row in whole.state.log_history for name in row}
    assert set(whole.algorithm.metrics) | set(METRICS) - {"grad/norm"} <= logged
    for part in parts:
        assert worst(part, whole) < 1e-6  # norms of the model are float32
        for ours, theirs in zip(part.state.log_history, whole.state.log_history, strict=True):
            for name in METRICS.keys() & ours.keys():
                assert ours[name] == pytest.approx(theirs[name], abs=1e-6)


def test_a_preparation_of_micro_batches_would_show(trainer_of, worst, options, monkeypatch):
    right = AlgorithmGRPOTrainer._micro_batch_loss

    def wrong(self, model, step, part):  # the normaliser of the micro-batch
        count = float(step.batch.rows(step.parts[part]).mask.sum())
        return right(self, model, replace(step, token_count=count), part)

    monkeypatch.setattr(AlgorithmGRPOTrainer, "_micro_batch_loss", wrong)
    whole, *parts = trained_in_parts(trainer_of, options, clip_cov)
    assert min(worst(part, whole) for part in parts) > 1e-3


class Watched(Algorithm):
    """GRPO that notes what it is given."""

    def __init__(self):
        super().__init__()
        self.calls, self.batches, self.rollouts, self.observed = [], [], [], []

    def advantages(self, rollouts):
        self.calls.append("advantages")
        self.rollouts.append(rollouts)
        return super().advantages(rollouts)

    def prepare(self, batch):
        self.calls.append("prepare")
        self.batches.append(batch)
        return replace(batch, metrics={"watched/one": 1.0})

    def prepare_mini_batch(self, batch, stats):
        assert not stats.log_prob.requires_grad
        self.calls.append(f"mini {len(batch)}")
        return batch

    def token_loss(self, batch, stats):
        assert stats.log_prob.requires_grad
        self.calls.append(f"loss {len(batch)}")
        return super().token_loss(batch, stats)

    def observe(self, metrics):
        self.calls.append("observe")
        self.observed.append(dict(metrics))

    def state_dict(self):
        return {"seen": len(self.observed)}

    def load_state_dict(self, state):
        self.loaded = dict(state)


STEPS = {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}


def test_the_hooks_follow_the_life_of_a_batch(trainer_of, options):
    algorithm = Watched()
    trainer = trainer_of(args_for(algorithm, **{**options, **STEPS, "num_iterations": 2}), algorithm)
    trainer.train()
    step = ["mini 8", "loss 4", "loss 4"]
    assert algorithm.calls == ["advantages", "prepare", *4 * step, "observe"]
    (observed,) = algorithm.observed
    assert set(observed) == (set(METRICS) - {"grad/norm"}) | {"watched/one"}
    last = trainer.state.log_history[-2]
    assert observed == {name: last[name] for name in observed}
    (batch,) = algorithm.batches
    rewards = batch.rollouts.rewards
    assert batch.rollouts.group_ids.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    starts = [bool(1 <= first <= 5) for first in batch.rollouts.completion_ids[:, 0].tolist()]
    assert rewards.tolist() == [float(start) for start in starts]
    ends = (batch.rollouts.completion_ids == 0).int().argmax(-1)
    expected = torch.where((batch.rollouts.completion_ids == 0).any(-1), ends + 1, 5)
    assert batch.rollouts.lengths.tolist() == expected.tolist()
    assert trainer._logs["advantages"] is not None
    assert list(trainer._logs["advantages"]) == pytest.approx(batch.advantages[:, 0].tolist())


def test_behaviour_statistics_are_those_of_the_policy_before_the_updates(trainer_of, policy, options):
    class Moments(Watched):
        behaviour_stats = frozenset({"log_prob", "entropy", "sum_p2"})

    algorithm = Moments()
    options |= {"max_steps": 2, "temperature": 0.8}
    trainer_of(args_for(algorithm, **options, steps_per_generation=2), algorithm).train()
    (batch,) = algorithm.batches
    names = ("log_prob", "entropy", "sum_p2")
    expected = score(policy(), batch.rollouts, temperature=0.8, stats=names)
    for name in names:
        torch.testing.assert_close(getattr(batch.behaviour, name), getattr(expected, name).detach(), atol=1e-6, rtol=0)
    assert torch.equal(batch.rollouts.sampling_log_probs, batch.old_log_probs)


class SecondSample(Watched):
    """Replaces the first completions of the batch by a second sample's."""

    def extra_rollouts(self, step):
        self.calls.append(f"extra {step}")
        return RolloutRequest(25.0, fraction=0.5)

    def prepare(self, batch):
        batch = super().prepare(batch)
        rest = torch.arange(len(batch.extra), len(batch))
        return replace(concatenate([batch.extra, batch.rows(rest)]), metrics={}, extra=None, in_order=True)


def second_sample(trainer_of, options):
    algorithm = SecondSample()
    options = {**options, "steps_per_generation": 2, "gradient_accumulation_steps": 2, "max_steps": 2}
    trainer = trainer_of(args_for(algorithm, **options, num_iterations=1), algorithm)
    trainer.train()
    return trainer


def check_second_sample(trainer, policy):
    batch = trainer.algorithm.batches[0]
    first, second = batch.rollouts, batch.extra.rollouts
    assert len(second) == len(first) // 2
    assert second.temperatures.tolist() == [25.0] * len(second)
    assert first.temperatures.tolist() == [1.0] * len(first)
    assert not set(second.group_ids.tolist()) & set(first.group_ids.tolist())
    asked = [ids[mask].tolist() for ids, mask in zip(first.prompt_ids, first.prompt_mask, strict=True)]
    again = [ids[mask].tolist() for ids, mask in zip(second.prompt_ids, second.prompt_mask, strict=True)]
    assert again == asked[: len(again)]
    # Sampled almost uniformly, and scored at the training temperature.
    expected = score(policy(), second, temperature=1.0).log_prob.detach()
    torch.testing.assert_close(batch.extra.old_log_probs, expected, atol=1e-6, rtol=0)
    hot = batch.extra.old_log_probs[second.completion_mask].mean()
    assert hot < batch.old_log_probs[first.completion_mask].mean() - 0.15


def test_a_second_sample_is_drawn_at_its_temperature_and_scored_at_the_training_temperature(
    trainer_of, policy, options
):
    trainer = second_sample(trainer_of, options)
    check_second_sample(trainer, policy)
    batch = trainer.algorithm.batches[0]
    assert trainer.generation_config.temperature == trainer.generation_kwargs["temperature"] == 1.0
    assert trainer.algorithm.calls[:4] == ["advantages", "extra 0", "advantages", "prepare"]
    assert [call for call in trainer.algorithm.calls if "extra" in call] == ["extra 0", "extra 1"]
    row = trainer.state.log_history[0]
    assert row["reward"] == pytest.approx(batch.rollouts.rewards.mean().item()), "TRL's log is of the first sample"


def test_a_second_sample_at_the_first_temperature_would_show(trainer_of, policy, options, monkeypatch):
    from contextlib import nullcontext

    from corollary.rl.integrations import trl

    monkeypatch.setattr(trl, "sampling_at", lambda *_: nullcontext())
    with pytest.raises(AssertionError):
        check_second_sample(second_sample(trainer_of, options), policy)


def test_a_scoring_at_the_second_temperature_would_show(trainer_of, policy, options, monkeypatch):
    right = AlgorithmGRPOTrainer._score

    def wrong(self, *rest):
        self.temperature, kept = self.generation_config.temperature, self.temperature
        try:
            return right(self, *rest)
        finally:
            self.temperature = kept

    monkeypatch.setattr(AlgorithmGRPOTrainer, "_score", wrong)
    with pytest.raises(AssertionError):
        check_second_sample(second_sample(trainer_of, options), policy)


def test_rows_in_order_stay_in_order(trainer_of, options):
    seen = []

    class Ordered(SecondSample):
        def token_loss(self, batch, stats):
            seen.append(batch.rollouts.temperatures.tolist())
            return super().token_loss(batch, stats)

    algorithm = Ordered()
    options = {**options, "steps_per_generation": 2, "gradient_accumulation_steps": 1, "max_steps": 2}
    trainer_of(args_for(algorithm, **options), algorithm).train()
    assert seen == [[25.0] * 8, [1.0] * 8]


def test_a_batch_without_rows_to_train_on_leaves_the_policy_alone(trainer_of, policy, options):
    algorithm = DAPO(DAPOConfig())
    trainer = trainer_of(args_for(algorithm, **options), algorithm, reward_funcs=lambda completions, **_: [0.0] * 8)
    trainer.train()
    before = dict(policy().named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_a_batch_with_fewer_rows_than_micro_batches_trains(trainer_of, options):
    class One(GRPO):
        def prepare(self, batch):
            return replace(batch.rows(torch.arange(1)), metrics={})

    algorithm = One()
    trainer = trainer_of(args_for(algorithm, **{**options, **STEPS, "max_steps": 2}), algorithm)
    trainer.train()
    assert len(trainer.losses) == 4
    assert trainer.losses[1:] == [0.0, 0.0, 0.0]


def test_a_reward_that_nobody_gives_is_refused(trainer_of, options):
    algorithm = GRPO()
    trainer = trainer_of(args_for(algorithm, **options), algorithm, reward_funcs=lambda completions, **_: [None] * 8)
    with pytest.raises(ValueError, match="each completion needs a reward"):
        trainer.train()


def test_evaluation_is_that_of_trl(trainer_of, options, prompts):
    algorithm = Watched()
    options |= {"per_device_eval_batch_size": 8, "max_steps": 1}
    trainer = trainer_of(args_for(algorithm, **options), algorithm, eval_dataset=prompts.select(range(4)))
    trainer.train()
    calls = list(algorithm.calls)
    metrics = trainer.evaluate()
    assert {"eval_reward", "eval_loss", "eval_entropy"} <= set(metrics) | set(trainer.state.log_history[-1])
    assert algorithm.calls == calls
