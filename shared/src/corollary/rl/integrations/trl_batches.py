"""A process's share of TRL's generation batch: how it is sampled, gathered, cut into steps and logged."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl.algorithm import RolloutRequest
from corollary.rl.batch import Batch, Rollouts
from corollary.rl.integrations.metric_totals import MetricTotals


@dataclass
class OpenBatch:
    """The prepared batch that is being trained on."""

    batch: Batch
    mini_batches: tuple[Tensor, ...]
    """Rows of each optimiser step of one pass."""
    totals: MetricTotals


@dataclass(frozen=True)
class OpenStep:
    """The rows of one optimiser step, and what its micro-batches share."""

    batch: Batch
    parts: tuple[Tensor, ...]
    """Rows of each micro-batch."""
    token_count: float
    """Tokens in the loss of this step, of all processes."""
    sequence_count: float
    """Sequences with such a token, likewise."""
    shared: TokenStats | None
    """The statistics of the step's only micro-batch, if one forward pass served its preparation too."""


def rows_or_silent(batch: Batch, rows: Tensor) -> Batch:
    """The rows of a batch; of no row, one that the loss does not count.

    An algorithm may leave fewer rows than a step has micro-batches. Each must still pass through the model once: other
    processes wait for its gradients.
    """
    if len(rows):
        return batch.rows(rows)
    first = batch.rows(torch.zeros(1, dtype=torch.long, device=rows.device))
    return replace(first, mask=torch.zeros_like(first.mask))


def cut(batch: Batch, count: int) -> tuple[Tensor, ...]:
    """The rows of each of a pass's ``count`` optimiser steps, drawn as TRL draws them: once for all passes."""
    device = batch.mask.device
    order = torch.arange(len(batch)) if batch.in_order else torch.randperm(len(batch))
    return order.to(device).tensor_split(count)


def local_request(request: RolloutRequest, prompts: int, processes: int) -> int:
    """How many of its ``prompts`` a process samples again.

    Raises:
        ValueError: the request is for a number of prompts that cannot be divided among the processes.
    """
    if request.prompts is None:
        return request.count(prompts)
    if request.prompts % processes:
        raise ValueError(f"the second sample's prompts must be divisible by {processes} processes, got {request}")
    return replace(request, prompts=request.prompts // processes).count(prompts)


def rollouts_of(prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor) -> Rollouts:
    """Rollouts of which only the tokens are known yet; it is all that scoring looks at."""
    unknown = torch.full(completion_ids.shape, torch.nan, device=completion_ids.device)
    return Rollouts(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        sampling_log_probs=unknown,
        rewards=unknown.new_full((len(unknown),), torch.nan),
        group_ids=torch.zeros(len(unknown), dtype=torch.long, device=unknown.device),
        temperatures=unknown.new_full((len(unknown),), torch.nan),
    )


def gathered(rollouts: Rollouts, accelerator: Any) -> Rollouts:
    """The rollouts of all processes, in the order of their ranks, padded to the widest."""
    if accelerator.num_processes == 1:
        return rollouts

    def gather(name: str, value: Tensor) -> Tensor:
        # Collectives of booleans are not implemented by every backend.
        plain = value.long() if value.dtype == torch.bool else value
        if plain.ndim == 2:
            plain = accelerator.pad_across_processes(plain, dim=1, pad_first=name.startswith("prompt"))
        return accelerator.gather(plain.contiguous()).to(value.dtype)

    return Rollouts(**{name: gather(name, value) for name, value in vars(rollouts).items()})


def local_advantages(advantages: Tensor, completion_mask: Tensor, process: int) -> Tensor:
    """One process's rows of the advantages of all, ``(B, T)`` and 0 on padding.

    Args:
        advantages: Of all responses, one number each, or one for each token.
        completion_mask: Of this process's responses, ``(B, T)``.
        process: Its rank.
    """
    count, length = completion_mask.shape
    rows = advantages[process * count : (process + 1) * count]
    rows = rows[:, None].expand(count, length) if rows.ndim == 1 else rows[:, :length]
    return rows * completion_mask


def add_rollout_metrics(totals: MetricTotals, batch: Batch) -> None:
    """What the reference trainer logs of a batch before an algorithm prepares it."""
    rollouts, valid = batch.rollouts, batch.rollouts.completion_mask
    log_probs, entropy = batch.behaviour.required("log_prob", "entropy")
    totals.add("reward/mean", rollouts.rewards.double().sum(), len(rollouts))
    groups = rollouts.group_ids.unique()
    mixed = [rollouts.rewards[rollouts.group_ids == group].unique().numel() > 1 for group in groups]
    totals.add("reward/mixed_groups", float(sum(mixed)), len(groups))
    totals.add("policy/entropy", (entropy.double() * valid).sum(), valid.sum())
    totals.add("policy/log_prob", (log_probs.double() * valid).sum(), valid.sum())
    totals.add("completion/length", rollouts.lengths.sum(), len(rollouts))


def sampling_temperature(trainer: Any) -> float:
    """The temperature at which a `trl.GRPOTrainer` samples now."""
    return trainer.vllm_generation.temperature if trainer.use_vllm else trainer.generation_config.temperature


def sampler_log_probs(trainer: Any, out: Mapping[str, Tensor], log_probs: Tensor, valid: Tensor) -> Tensor:
    """What the sampler reports of its tokens; else the policy's own, if it samples from just that; else NaN.

    Args:
        trainer: A `trl.GRPOTrainer`.
        out: What its generation gave.
        log_probs: Of the policy at the temperature of its arguments, ``(B, T)``.
        valid: The completion mask, ``(B, T)``.
    """
    if "sampling_per_token_logps" in out:
        return torch.where(valid, out["sampling_per_token_logps"].to(log_probs.dtype), 0.0)
    whole = trainer.top_p == 1.0 and not trainer.top_k and not trainer.min_p and trainer.repetition_penalty == 1.0
    same = sampling_temperature(trainer) == trainer.temperature and not trainer.args.generation_kwargs
    return log_probs if whole and same else log_probs.masked_fill(valid, torch.nan)


def show_advantages(trainer: Any, advantages: Tensor, valid: Tensor) -> None:
    """Put the algorithm's advantages, a response's mean, into TRL's table of completions in place of TRL's own."""
    if advantages.ndim == 2:
        advantages = (advantages * valid).sum(-1) / valid.sum(-1).clamp(min=1)
    shown = trainer._logs["advantages"]
    shown.clear()
    shown.extend(advantages.tolist())


@contextmanager
def sampling_at(trainer: Any, temperature: float):
    """Let a `trl.GRPOTrainer` sample at another temperature. Its scoring keeps the one of its arguments.

    Raises:
        ValueError: it samples with a function of the user's own, which nobody can ask for another temperature.
    """
    if trainer.rollout_func is not None:
        raise ValueError("a second sample at another temperature needs TRL's own generation, got rollout_func")
    if trainer.use_vllm:
        engine = trainer.vllm_generation
        before, engine.temperature = engine.temperature, temperature
        try:
            yield
        finally:
            engine.temperature = before
        return
    # The model's own generation_config is overwritten with these keywords, and then with the configuration.
    before = (trainer.generation_config.temperature, trainer.generation_kwargs["temperature"])
    trainer.generation_config.temperature = trainer.generation_kwargs["temperature"] = temperature
    try:
        yield
    finally:
        trainer.generation_config.temperature, trainer.generation_kwargs["temperature"] = before


@contextmanager
def unlogged(trainer: Any):
    """Keep what a `trl.GRPOTrainer` logs of a sample out of its log. Tokens count as seen all the same."""
    metrics, logs = trainer._metrics, trainer._logs
    trainer._metrics = {mode: defaultdict(list) for mode in metrics}
    trainer._logs = defaultdict(list)
    trainer._logs |= {"rewards": defaultdict(list), "extra": defaultdict(list)}
    try:
        yield
    finally:
        trainer._metrics, trainer._logs = metrics, logs
    metrics["train"]["num_tokens"] = [trainer.state.num_input_tokens_seen]
