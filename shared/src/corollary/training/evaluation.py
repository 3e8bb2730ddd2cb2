"""Accuracy on held-out prompts: pass@1, and pass@k of several samples."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from corollary.evaluation import mean_interval, pass_at_k
from corollary.rollout import sample_completions
from corollary.tasks import Task

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation."""

    step: int
    """Training steps before it."""
    prompts: int
    samples: int
    """Completions of each prompt."""
    pass_at_1: float
    """Mean share of correct completions."""
    low: float | None
    """Lower bound of the 95 % Student-t interval over prompts; None where they show no spread."""
    high: float | None
    pass_at_k: float
    """Share of prompts with a correct completion among all ``samples``."""
    cut_off: float
    """Share of completions that did not end with the stop token."""
    length: float
    """Mean tokens of a completion."""


def held_out_accuracy(
    model: "nn.Module",
    task: Task,
    *,
    step: int,
    seed: int,
    limit: int,
    samples: int = 1,
    temperature: float = 1.0,
    batch_size: int | None = None,
) -> Evaluation:
    """Sample the first held-out prompts and grade them.

    The random numbers depend on ``seed`` and ``step`` alone, not on those of training, so that an evaluation changes
    nothing in the run it looks at.

    Args:
        model: On its device.
        task: Its held-out prompts and `Task.correct`.
        step: Training steps so far.
        seed: The run's.
        limit: How many prompts.
        samples: Completions of each.
        temperature: Of the samples.
        batch_size: Completions that are sampled together; None for 64.

    Raises:
        ValueError: there is no held-out prompt.
    """
    prompts = task.prompts("held_out")[:limit]
    if not prompts:
        raise ValueError(f"the task {task.name} has no held-out prompt, or {limit} were asked for")
    number = int.from_bytes(hashlib.sha256(f"evaluation {seed} {step}".encode()).digest()[:8]) >> 1
    generator = torch.Generator(next(model.parameters()).device).manual_seed(number)
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    correct, ended, lengths = [], [], []
    for start in range(0, len(repeated), batch_size or 64):
        batch = repeated[start : start + (batch_size or 64)]
        drawn = sample_completions(
            model,
            [prompt.tokens for prompt in batch],
            max_new_tokens=task.max_completion_length,
            generator=generator,
            pad_token=task.pad_token,
            stop_token=task.stop_token,
            temperature=temperature,
        )
        for prompt, row, n in zip(
            batch, drawn.completion_ids.tolist(), drawn.completion_mask.sum(-1).tolist(), strict=True
        ):
            correct.append(task.correct(prompt, row[:n]))
            ended.append(task.stop_token is None or row[n - 1] == task.stop_token)
            lengths.append(n)
    counts = np.array(correct).reshape(len(prompts), samples).sum(1)
    interval = mean_interval(counts / samples)
    spread = len(prompts) > 1 and interval.low < interval.high
    return Evaluation(
        step=step,
        prompts=len(prompts),
        samples=samples,
        pass_at_1=interval.mean,
        low=max(0.0, interval.low) if spread else None,
        high=min(1.0, interval.high) if spread else None,
        pass_at_k=float(pass_at_k(samples, counts, samples).mean()),
        cut_off=1 - float(np.mean(ended)),
        length=float(np.mean(lengths)),
    )
