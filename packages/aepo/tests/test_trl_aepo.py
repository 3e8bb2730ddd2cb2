"""AEPO in TRL: the second sample, its place in the batch, and the controller."""

import runpy
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason='needs the extra "trl" of the core')

from corollary.models import SmallModel
from corollary.rl import score
from corollary.rl.integrations.trl import AlgorithmGRPOTrainer, args_for
from corollary_aepo import AEPO, AEPOConfig

EXAMPLE = Path(__file__).parents[1] / "examples" / "trl_aepo.py"
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


class Seen(AEPO):
    """AEPO that keeps what it prepares and observes."""

    def __init__(self, config):
        super().__init__(config)
        self.given, self.prepared, self.entropies = [], [], []

    def prepare(self, batch):
        self.given.append(batch)
        self.prepared.append(super().prepare(batch))
        return self.prepared[-1]

    def observe(self, metrics):
        super().observe(metrics)
        self.entropies.append(self.controller.entropy)


def run(example, **options):
    algorithm = Seen(AEPOConfig(select="reward", threshold=0.5, reinforce_fraction=0.25, **options))
    return algorithm, trained(example, algorithm, max_steps=4, logging_steps=2)


def check(example, algorithm, trainer):
    first = algorithm.given[0]
    second = first.extra
    assert (len(first), len(second)) == (32, 8), "a quarter of the prompts, in whole groups"
    assert second.rollouts.temperatures[0].item() == pytest.approx(9.0)
    assert first.rollouts.temperatures[0].item() == 1.0
    with torch.no_grad():
        scored = score(SmallModel().build(len(example["symbols"]), seed=1), second.rollouts, temperature=1.0)
    torch.testing.assert_close(second.old_log_probs, scored.log_prob, atol=1e-5, rtol=0)
    mixed = algorithm.prepared[0]
    chosen = int((mixed.rollouts.temperatures > 1).sum())
    assert 0 < chosen <= 8
    assert len(mixed) == 32
    assert mixed.rollouts.rewards[:chosen].tolist() == [1.0] * chosen
    assert bool((mixed.advantages[:chosen][mixed.mask[:chosen]] == 1).all())
    torch.testing.assert_close(
        mixed.rollouts.completion_ids[chosen:, : first.mask.shape[1]], first.rollouts.completion_ids[chosen:]
    )
    assert logged(trainer, "aepo/num_reinforce")[0] == chosen
    entropy = logged(trainer, "aepo/entropy")
    assert algorithm.entropies == pytest.approx(entropy)
    assert logged(trainer, "aepo/temperature") == pytest.approx([9.0, 0.5 if entropy[0] > 0.1 else 9.0])
    assert trainer.temperature == trainer.generation_config.temperature == 1.0


def test_the_second_sample_takes_its_place_and_the_controller_sees_the_entropy(example):
    check(example, *run(example, target=0.1, t_high=9.0, t_low=0.5))


def test_a_second_sample_at_the_training_temperature_would_show(example, monkeypatch):
    from contextlib import nullcontext

    from corollary.rl.integrations import trl

    monkeypatch.setattr(trl, "sampling_at", lambda *_: nullcontext())
    with pytest.raises(AssertionError):
        check(example, *run(example, target=0.1, t_high=9.0, t_low=0.5))


def test_an_entropy_that_the_controller_does_not_see_would_show(example, monkeypatch):
    monkeypatch.setattr(AEPO, "observe", lambda self, metrics: None)
    with pytest.raises((AssertionError, TypeError)):
        check(example, *run(example, target=0.1, t_high=9.0, t_low=0.5))
