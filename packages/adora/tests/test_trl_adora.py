"""ADORA in TRL: the weighted advantages arrive in the loss."""

import runpy
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason='needs the extra "trl" of the core')

from corollary.models import SmallModel
from corollary.rl import group_advantages, make_algorithm
from corollary.rl.integrations.trl import AlgorithmGRPOTrainer, args_for
from corollary_adora import adora_weights
from corollary_adora.algorithms import Adora

EXAMPLE = Path(__file__).parents[1] / "examples" / "trl_adora.py"
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


def watched(example):
    """The rollouts and the rows of the loss of a run."""
    algorithm = make_algorithm("adora", preset="llm_2026", criteria="difficulty", correct_threshold=0.5, w_tas=3.0)
    prepared, rows = [], []
    prepare, loss = algorithm.prepare, algorithm.token_loss
    algorithm.prepare = lambda batch: (prepared.append(batch), prepare(batch))[1]
    algorithm.token_loss = lambda batch, stats: (rows.append(batch), loss(batch, stats))[1]
    return algorithm, prepared, rows, trained(example, algorithm)


def check(algorithm, prepared, rows, trainer):
    (batch,) = prepared
    rollouts = batch.rollouts
    assert len(rollouts) == 32
    correct = rollouts.rewards > 0.5
    weights = adora_weights(correct, rollouts.lengths, rollouts.group_ids, config=algorithm.rule)
    assert len(weights.unique()) == 2
    expected = (group_advantages(rollouts.rewards, rollouts.group_ids) * weights)[:, None] * rollouts.completion_mask
    torch.testing.assert_close(batch.advantages, expected)
    of_tokens = {tuple(ids): row for ids, row in zip(rollouts.completion_ids.tolist(), expected, strict=True)}
    assert sum(len(part) for part in rows) == 32
    seen = torch.cat([part.advantages for part in rows])
    assert sorted(seen.sum(-1).tolist()) == pytest.approx(sorted(expected.sum(-1).tolist()))
    assert of_tokens
    assert logged(trainer, "adora/weight") == [pytest.approx(weights.mean().item())]


def test_the_weighted_advantages_are_those_of_the_loss(example):
    check(*watched(example))


def test_advantages_without_weights_would_show(example, monkeypatch):
    monkeypatch.setattr(Adora, "advantages", lambda self, rollouts: self.estimator(rollouts))
    run = watched(example)
    with pytest.raises(AssertionError):
        check(*run)
