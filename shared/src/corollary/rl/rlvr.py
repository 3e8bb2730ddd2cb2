"""One run of reinforcement learning with verifiable rewards: warm start, training, held-out evaluation."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import nn

from corollary.evaluation import distinct_correct
from corollary.models import StartingPolicy
from corollary.rl.algorithm import make_algorithm
from corollary.rl.train_config import TrainConfig
from corollary.rl.trainer import Trainer
from corollary.rollout import sample_completions
from corollary.runs import Recipe, Run, RunDirectory, write_atomically
from corollary.tasks import Task, make_task

EVALUATION = "evaluation"
"""Stem of the file with the held-out prompts of the training task."""


@dataclass(frozen=True, kw_only=True)
class RLVR(Recipe):
    """Train a warm-started policy on a task, then sample the held-out prompts.

    The seed is the reinforcement learning's: all seeds start from the one warm-started policy, so differences between
    methods at equal seed are paired, and intervals speak of this starting point.
    """

    name: ClassVar[str] = "rlvr"
    version: ClassVar[int] = 1

    task: str
    algorithm: str
    """A name from `corollary.rl.algorithm_names`."""
    options: tuple[tuple[str, Any], ...] = ()
    """Fields of the algorithm's configuration, as sorted pairs; see `corollary.runs.options_of`."""
    train: TrainConfig = field(default_factory=TrainConfig)
    warm_start: StartingPolicy
    warm_start_seed: int = 0
    evaluation_samples: int = 64
    """Completions of each held-out prompt after training, at temperature 1; 0 skips the evaluation."""

    @property
    def label(self) -> str:
        """What the display calls it."""
        options = ", ".join(f"{name} {value}" for name, value in self.options)
        return f"{self.algorithm}{f' ({options})' if options else ''} on {self.task}"

    def requires(self, seed: int) -> tuple[Run, ...]:
        """The warm start."""
        return (Run(self.warm_start, self.warm_start_seed),)

    def execute(self, seed: int, directory: RunDirectory) -> None:
        """Train and evaluate; goes on from the last checkpoint if there is one."""
        task = make_task(self.task)
        model = self.warm_start.load(directory.store, seed=self.warm_start_seed)
        algorithm = make_algorithm(self.algorithm, **dict(self.options))
        trainer = Trainer(
            model,
            task,
            algorithm,
            self.train,
            seed=seed,
            directory=directory.path,
            on_step=lambda step, metrics: directory.progress(
                step,
                self.train.steps,
                f"reward {metrics['reward/mean']:.2f}, entropy {metrics['policy/entropy']:.2f}",
            ),
        )
        trainer.train()
        if self.evaluation_samples:
            for name, questions in self.evaluations().items():
                result = evaluate(model, questions, samples=self.evaluation_samples, seed=seed)
                write_atomically(directory.path / f"{name}.json", json.dumps(result))

    def evaluations(self) -> dict[str, Task]:
        """The tasks whose held-out prompts the trained policy answers, by the stem of the file of results.

        A recipe that asks for more, such as harder prompts than those of training, overrides this.
        """
        return {EVALUATION: make_task(self.task)}


def evaluate(
    model: nn.Module, task: Task, *, samples: int, seed: int, temperature: float = 1.0
) -> dict[str, list[Any]]:
    """Sample every held-out prompt.

    Returns:
        Lists over the held-out prompts: ``answer``, ``samples`` (how many), ``correct`` (how many of them) and
        ``distinct`` (different correct answers among them).
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    result: dict[str, list[Any]] = {"answer": [], "samples": [], "correct": [], "distinct": []}
    for prompt in task.prompts("held_out"):
        drawn = sample_completions(
            model,
            [prompt.tokens] * samples,
            max_new_tokens=task.max_completion_length,
            generator=generator,
            pad_token=task.pad_token,
            stop_token=task.stop_token,
            temperature=temperature,
        )
        completions = [
            tuple(row[:n])
            for row, n in zip(drawn.completion_ids.tolist(), drawn.completion_mask.sum(-1).tolist(), strict=True)
        ]
        correct = [task.correct(prompt, tokens) for tokens in completions]
        result["answer"].append(prompt.answer)
        result["samples"].append(samples)
        result["correct"].append(sum(correct))
        result["distinct"].append(distinct_correct([task.answer_key(tokens) for tokens in completions], correct))
    return result


def read_metrics(directory: Path) -> pd.DataFrame:
    """The metrics of a run, one row a step."""
    return pd.read_json(directory / "metrics.jsonl", lines=True)


def read_evaluation(directory: Path, name: str = EVALUATION) -> pd.DataFrame:
    """A held-out evaluation of a run, one row a prompt; ``name`` is one of `RLVR.evaluations`."""
    return pd.DataFrame(json.loads((directory / f"{name}.json").read_text()))
