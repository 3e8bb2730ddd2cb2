"""Clip_B in TRL: the mask of the whole generation batch, at the policy that sampled it, narrows the loss."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason='needs the extra "trl" of the core')

from corollary.models import SmallModel
from corollary.rl import score
from corollary.rl.integrations.trl import AlgorithmGRPOTrainer, args_for
from corollary_entropy_dynamics import ClipB, ClipBConfig, clip_b_mask

EXAMPLE = Path(__file__).parents[1] / "examples" / "trl_entropy_dynamics.py"
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


class Seen(ClipB):
    """Clip_B that keeps what it prepares and what its loss counts."""

    def __init__(self, config):
        super().__init__(config)
        self.given, self.prepared, self.counted = [], [], 0

    def prepare(self, batch):
        self.given.append(batch)
        self.prepared.append(super().prepare(batch))
        return self.prepared[-1]

    def token_loss(self, batch, stats):
        self.counted += int(batch.mask.sum())
        return super().token_loss(batch, stats)


def check(example, algorithm, trainer):
    (given,), (prepared,) = algorithm.given, algorithm.prepared
    assert len(given) == 32
    before = SmallModel().build(len(example["symbols"]), seed=1)
    with torch.no_grad():
        stats = score(before, given.rollouts, stats=("log_prob", "entropy"))
    expected = clip_b_mask(stats, given.advantages, given.rollouts.completion_mask, mu=0.5)
    assert torch.equal(prepared.mask, expected.mask)
    kept, all_tokens = int(expected.mask.sum()), int(given.rollouts.completion_mask.sum())
    assert algorithm.counted == kept < all_tokens
    assert logged(trainer, "loss/kept") == [pytest.approx(kept / all_tokens)]
    assert logged(trainer, "frac_clipped") == [pytest.approx(1 - kept / all_tokens)]


def test_the_mask_is_that_of_the_generation_batch(example):
    algorithm = Seen(ClipBConfig(mu=0.5))
    check(example, algorithm, trained(example, algorithm))


def test_a_forgotten_mask_would_show(example):
    class Forgetful(Seen):
        def prepare(self, batch):
            return replace(super().prepare(batch), mask=batch.mask)

    algorithm = Forgetful(ClipBConfig(mu=0.5))
    trainer = trained(example, algorithm)
    with pytest.raises(AssertionError):
        check(example, algorithm, trainer)
