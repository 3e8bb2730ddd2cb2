"""STEER in TRL: the weights of the optimiser step arrive in the loss."""

import runpy
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason='needs the extra "trl" of the core')

from corollary.models import SmallModel
from corollary.rl import aggregate, clipped_surrogate
from corollary.rl.integrations.trl import AlgorithmGRPOTrainer, args_for
from corollary_steer import Steer, SteerConfig
from corollary_steer.weights import steer_weights

EXAMPLE = Path(__file__).parents[1] / "examples" / "trl_steer.py"
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),  # TRL's, of transformers' names
    pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning"),  # a default of transformers, on a CPU
]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """What the example script made, after its training."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    return runpy.run_path(str(EXAMPLE))


def logged(trainer, name):
    return [row[name] for row in trainer.state.log_history if name in row]


def trained(example, algorithm, **options):
    """A run on the example's prompts: two optimiser steps of two micro-batches each on one generation batch."""
    size = {
        "per_device_train_batch_size": 8,
        "steps_per_generation": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 2,
    }
    rest = {
        "max_completion_length": 6,
        "learning_rate": 1e-2,
        "bf16": False,
        "save_strategy": "no",
        "report_to": "none",
    }
    args = args_for(algorithm, output_dir="out", **{**size, **rest, **options})
    trainer = AlgorithmGRPOTrainer(
        SmallModel().build(len(example["symbols"]), seed=1),
        example["reward"],
        args,
        train_dataset=example["data"],
        processing_class=example["tokenizer"],
        algorithm=algorithm,
    )
    trainer.train()
    return trainer


def test_the_example_trains_and_logs_the_metrics_of_the_method(example):
    trainer = example["trainer"]
    assert trainer.state.global_step == 8
    for name in example["algorithm"].metrics:
        assert len(logged(trainer, name)) == 4, name


class Seen(Steer):
    """STEER that keeps the tensors of its loss."""

    def __init__(self, config):
        super().__init__(config)
        self.steps, self.losses = [], []

    def prepare_mini_batch(self, batch, stats):
        self.steps.append((batch, stats))
        return super().prepare_mini_batch(batch, stats)

    def token_loss(self, batch, stats):
        loss = super().token_loss(batch, stats)
        self.losses.append((batch, stats.log_prob.detach(), loss.detach()))
        return loss


def check(algorithm, trainer):
    assert len(algorithm.steps) == 2
    assert len(algorithm.losses) == 4
    micro = iter(algorithm.losses)
    total = 0.0
    for batch, stats in algorithm.steps:
        entropy, old = batch.behaviour.entropy, batch.old_log_probs
        weights = steer_weights(batch.advantages, entropy, old, stats.log_prob, batch.mask, lambda_min=0.5).weights
        assert weights[batch.mask].min() < 0.9
        expected = weights * clipped_surrogate(
            stats.log_prob, old, batch.advantages, clip_low=0.2, clip_high=0.28, dual_clip=10.0
        )
        got = [next(micro), next(micro)]
        loss = torch.cat([part[2] for part in got])
        torch.testing.assert_close(loss[batch.mask], expected[batch.mask], atol=1e-5, rtol=1e-5)
        total += aggregate(expected, batch.mask, "token-mean").item() / 2
    assert logged(trainer, "loss/policy")[-1] == pytest.approx(total, abs=1e-5)


def test_the_weights_are_those_of_the_whole_optimiser_step(example):
    algorithm = Seen(SteerConfig(lambda_min=0.5))
    check(algorithm, trained(example, algorithm))


def test_weights_of_each_micro_batch_would_show(example):
    algorithm = Seen(SteerConfig(lambda_min=0.5, scope="micro"))
    trainer = trained(example, algorithm)
    with pytest.raises(AssertionError):
        check(algorithm, trainer)


def test_a_loss_without_weights_would_show(example, monkeypatch):
    monkeypatch.setattr(Steer, "token_loss", lambda self, batch, stats: super(Steer, self).token_loss(batch, stats))
    algorithm = Seen(SteerConfig(lambda_min=0.5))
    trainer = trained(example, algorithm)
    with pytest.raises(AssertionError):
        check(algorithm, trainer)
