"""The reference trainer: one process, one file, every step of policy optimisation in the order it happens.

It is here to be read and trusted. Larger models are trained by the same `Algorithm` objects in TRL or verl.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corollary.kernels import TokenStats
from corollary.models import PlainLlama
from corollary.rl.algorithm import Algorithm
from corollary.rl.batch import Batch, Rollouts
from corollary.rl.losses import aggregate, binary_mask
from corollary.rl.metrics_file import MetricsFile
from corollary.rl.scoring import score
from corollary.rl.train_config import Shortcuts, TrainConfig
from corollary.rollout import sample_completions
from corollary.runs import load_checkpoint, save_checkpoint
from corollary.tasks import Prompt, Task

METRICS: dict[str, str] = {
    "reward/mean": "Mean reward of the step's completions, before the update.",
    "reward/mixed_groups": "Share of groups with at least two different rewards: the only ones with a gradient.",
    "policy/entropy": "Mean entropy of the next-token distribution over the step's completion tokens, in nats, "
    "at the training temperature and the behaviour policy.",
    "policy/log_prob": "Mean log-probability of the sampled tokens, nats, likewise.",
    "completion/length": "Mean number of tokens of a completion, the stop token included.",
    "loss/kept": "Share of completion tokens that the algorithm left in the loss.",
    "loss/policy": "Mean loss over the step's mini-batches.",
    "grad/norm": "Mean gradient norm over the mini-batches, before clipping.",
    "clip/high": "Share of the tokens in the loss at which the upper clip stops the gradient (A > 0).",
    "clip/low": "The same for the lower clip (A < 0).",
    "clip/dual": "The same for the dual clip (A < 0).",
}
"""What the trainer logs each step; an algorithm's own metrics are in its ``metrics``."""

_UNSET = {"rollout_batch": "None"} | {name: str(value) for name, value in asdict(Shortcuts()).items()}
"""Options that a checkpoint from before they existed says nothing of."""


class TrainingError(RuntimeError):
    """Training cannot go on: a loss or a gradient is not finite."""


class Trainer:
    """Trains a causal language model on a task with an algorithm of the GRPO family.

    Args:
        model: Any `transformers` causal language model, on its device. Dropout is switched off: a ratio of
            probabilities under two dropout masks is no importance ratio.
        task: Prompts and verifier.
        algorithm: What to optimise.
        config: How.
        seed: Fixes prompts, sampling and mini-batches. The same seed, thread count and machine give the same numbers.
        directory: Where ``metrics.jsonl``, ``timings.jsonl`` and ``checkpoint.pt`` go; None to keep nothing. If it
            holds a checkpoint, training goes on from there, to the same numbers as if it had never stopped.
        on_step: Called with the number of finished steps and the metrics of the last one.
        backend: Of `corollary.kernels.token_stats`.
        head: Of `corollary.rl.score`: whether logits are held whole or made a chunk at a time.
        shortcuts: Less work for the same result but for rounding; none by default.
        rollout_batch: Completions that are sampled together; None for all of a step. It bounds the memory of
            sampling, and another number gives other samples.

    Raises:
        ValueError: a shortcut that is not for this model, or nothing that compiles.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        algorithm: Algorithm,
        config: TrainConfig,
        *,
        seed: int,
        directory: Path | None = None,
        on_step: Callable[[int, Mapping[str, float]], None] | None = None,
        backend: str = "auto",
        head: str = "auto",
        shortcuts: Shortcuts | None = None,
        rollout_batch: int | None = None,
    ) -> None:
        self.model = model.eval()
        self.shortcuts = shortcuts if shortcuts is not None else Shortcuts()
        if self.shortcuts.share_prompts or self.shortcuts.compiled:
            PlainLlama.required(self.model, compiled=self.shortcuts.compiled)
        self.task = task
        self.algorithm = algorithm
        self.config = config
        self.seed = seed
        self.directory = directory
        self.on_step = on_step
        self.backend = backend
        self.head = head
        self.rollout_batch = rollout_batch
        self.device = next(model.parameters()).device
        self.prompts = task.prompts("train")
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.steps_done: int = 0
        self.score_temperature = config.temperature if config.score_temperature is None else config.score_temperature
        self._seconds: dict[str, float] = {}

    def train(self) -> None:
        """Run the remaining steps.

        Raises:
            TrainingError: a loss or gradient is not finite. The last checkpoint stays as it is.
        """
        checkpoint = self.directory / "checkpoint.pt" if self.directory else None
        if checkpoint and checkpoint.exists():
            self.load_state_dict(load_checkpoint(checkpoint))
        with (
            MetricsFile(self.directory, "metrics.jsonl", keep=self.steps_done) as metrics_file,
            MetricsFile(self.directory, "timings.jsonl", keep=self.steps_done) as timings_file,
        ):
            while self.steps_done < self.config.steps:
                try:
                    metrics = self.step()
                except ValueError as error:
                    # NaN weights first show as NaN logits, which sampler and statistics refuse as bad input.
                    if all(bool(p.isfinite().all()) for p in self.model.parameters()):
                        raise
                    raise self._training_error("the model's weights are not finite") from error
                metrics_file.append(metrics)
                timings_file.append(self._seconds)
                if checkpoint and (
                    self.steps_done % self.config.checkpoint_every == 0 or self.steps_done == self.config.steps
                ):
                    metrics_file.sync()
                    timings_file.sync()
                    save_checkpoint(checkpoint, self.state_dict())
                if self.on_step:
                    self.on_step(self.steps_done, metrics)

    def step(self) -> dict[str, float]:
        """One rollout batch and the updates on it.

        Returns:
            The metrics of `METRICS` and of the algorithm.
        """
        self._seconds = {}
        prompts = self._next_prompts()
        batch = self._batch(prompts, self.config.temperature)
        if request := self.algorithm.extra_rollouts(self.steps_done):
            again = prompts[: request.count(len(prompts))]
            extra = self._batch(again, request.temperature, first_group=len(prompts))
            batch = replace(batch, extra=extra)
        rollouts = batch.rollouts
        log_probs, entropy = batch.behaviour.required("log_prob", "entropy")
        metrics = {
            "reward/mean": rollouts.rewards.double().mean().item(),
            "reward/mixed_groups": _mixed_groups(rollouts),
            "policy/entropy": _masked_mean(entropy, rollouts.completion_mask),
            "policy/log_prob": _masked_mean(log_probs, rollouts.completion_mask),
            "completion/length": rollouts.lengths.double().mean().item(),
        }
        batch = self.algorithm.prepare(batch)
        batch = replace(batch, mask=binary_mask(batch.mask, batch.rollouts.completion_mask.shape))
        metrics["loss/kept"] = (batch.mask.sum() / batch.rollouts.completion_mask.sum().clamp(min=1)).item()
        metrics.update(batch.metrics)
        with self._timed("update"):
            metrics.update(self._update(batch))
        self.algorithm.observe(metrics)
        self.steps_done += 1
        return metrics

    def _next_prompts(self) -> list[Prompt]:
        """The prompts of this step: passes over the training prompts, each in an order of its own."""
        count, per_step = len(self.prompts), self.config.prompts_per_step
        first, last = self.steps_done * per_step, (self.steps_done + 1) * per_step - 1
        order = {epoch: _epoch_order(count, self.seed, epoch) for epoch in range(first // count, last // count + 1)}
        return [self.prompts[order[position // count][position % count]] for position in range(first, last + 1)]

    def _batch(self, prompts: Sequence[Prompt], temperature: float, *, first_group: int = 0) -> Batch:
        """Sample, verify, score at the behaviour policy, and compute advantages."""
        repeated = [prompt for prompt in prompts for _ in range(self.config.group_size)]
        needed = self.algorithm.behaviour_stats | {"log_prob", "entropy"}
        with self._timed("rollout"):
            samples = sample_completions(
                self.model,
                [prompt.tokens for prompt in repeated],
                max_new_tokens=self.task.max_completion_length,
                generator=self.generator,
                pad_token=self.task.pad_token,
                stop_token=self.task.stop_token,
                temperature=temperature,
                top_p=self.config.top_p,
                stats=needed if self.shortcuts.sampler_stats else (),
                stats_temperature=self.score_temperature,
                backend=self.backend,
                share_prompts=self.shortcuts.share_prompts,
                compiled=self.shortcuts.compiled,
                batch_size=self.rollout_batch,
            )
        with self._timed("reward"):
            completions = [
                row[:n]
                for row, n in zip(
                    samples.completion_ids.tolist(), samples.completion_mask.sum(-1).tolist(), strict=True
                )
            ]
            rewards = [self.task.reward(prompt, tokens) for prompt, tokens in zip(repeated, completions, strict=True)]
        rollouts = Rollouts(
            prompt_ids=samples.prompt_ids,
            prompt_mask=samples.prompt_mask,
            completion_ids=samples.completion_ids,
            completion_mask=samples.completion_mask,
            sampling_log_probs=samples.log_probs,
            rewards=torch.tensor(rewards, device=self.device),
            group_ids=first_group
            + torch.arange(len(prompts), device=self.device).repeat_interleave(self.config.group_size),
            temperatures=torch.full((len(repeated),), temperature, device=self.device),
        )
        with self._timed("score"), torch.no_grad():
            behaviour = samples.stats or TokenStats.joined(
                [self._score(rollouts.rows(rows), needed) for rows in self._micro_batches(torch.arange(len(rollouts)))]
            )
        advantages = self.algorithm.advantages(rollouts)
        if advantages.ndim == 1:
            advantages = advantages[:, None].expand_as(rollouts.completion_mask)
        return Batch(
            rollouts=rollouts,
            advantages=advantages * rollouts.completion_mask,
            behaviour=behaviour,
            mask=rollouts.completion_mask,
            generator=self.generator,
        )

    def _update(self, batch: Batch) -> dict[str, float]:
        """Every optimiser step on the batch."""
        losses, norms = [], []
        totals: dict[str, list[Tensor]] = defaultdict(lambda: [torch.zeros(()), torch.zeros(())])
        for _ in range(self.config.epochs):
            if batch.in_order:
                order = torch.arange(len(batch), device=self.device)
            else:
                order = torch.randperm(len(batch), generator=self.generator, device=self.device)
            # An algorithm may have shrunk the batch below the number of mini-batches.
            for mini_batch in order.tensor_split(min(self.config.mini_batches, len(batch))):
                loss, norm = self._optimiser_step(batch.rows(mini_batch), totals)
                losses.append(loss)
                norms.append(norm)
        means = {name: (total / count).item() for name, (total, count) in totals.items()}
        return {"loss/policy": sum(losses) / len(losses), "grad/norm": sum(norms) / len(norms), **means}

    def _optimiser_step(self, batch: Batch, totals: dict[str, list[Tensor]]) -> tuple[float, float]:
        """One AdamW step on a mini-batch, accumulated over micro-batches."""
        parts = self._micro_batches(torch.arange(len(batch), device=self.device))
        shared = None
        if type(self.algorithm).prepare_mini_batch is not Algorithm.prepare_mini_batch:
            batch, shared = self._prepare_mini_batch(batch, parts)
            for name, value in batch.metrics.items():
                _add(totals[name], torch.tensor(value), torch.ones(()))
        # The normalisers are the mini-batch's, so that the micro-batches' losses add up to the mini-batch's loss.
        kept = batch.mask.sum(-1)
        token_count, sequence_count = float(kept.sum()), float((kept > 0).sum())
        for parameter in self.parameters:
            parameter.grad = None
        loss = 0.0
        for rows in parts:
            # A mini-batch in one part that no method has changed is what its own rows would give once more.
            micro = batch if len(parts) == 1 and shared is None else batch.rows(rows)
            stats = shared if shared is not None else self._score(micro.rollouts, self.algorithm.update_stats)
            micro_loss = aggregate(
                self.algorithm.token_loss(micro, stats),
                micro.mask,
                self.algorithm.config.aggregation,
                max_length=self.task.max_completion_length,
                token_count=token_count,
                sequence_count=sequence_count,
            )
            micro_loss.backward()
            loss += micro_loss.item()
            with torch.no_grad():
                for name, (total, count) in self.algorithm.update_metrics(micro, stats).items():
                    _add(totals[name], total, count)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._training_error(f"the loss is {loss} and the gradient norm {norm}")
        self.optimizer.step()
        return loss, norm

    def _prepare_mini_batch(self, batch: Batch, parts: Sequence[Tensor]) -> tuple[Batch, TokenStats | None]:
        """The algorithm's change to a mini-batch; and the statistics with gradient, if one forward pass serves both."""
        stats = self.algorithm.update_stats
        shared = self._score(batch.rollouts, stats) if len(parts) == 1 else None
        with torch.no_grad():
            if shared is not None:
                seen = TokenStats(*(None if value is None else value.detach() for value in shared))
            else:
                seen = TokenStats.joined([self._score(batch.rollouts.rows(rows), stats) for rows in parts])
            prepared = self.algorithm.prepare_mini_batch(batch, seen)
        mask = binary_mask(prepared.mask, batch.rollouts.completion_mask.shape)
        return replace(prepared, mask=mask), shared

    def _training_error(self, reason: str) -> TrainingError:
        last = self.directory / "checkpoint.pt" if self.directory else None
        kept = f"the last good checkpoint is {last}" if last and last.exists() else "no checkpoint was written"
        return TrainingError(f"step {self.steps_done}: {reason}; training stopped, {kept}")

    def _micro_batches(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(self.config.micro_batch_size or max(len(rows), 1))

    def _score(self, rollouts: Rollouts, stats: frozenset[str]) -> TokenStats:
        return score(
            self.model,
            rollouts,
            temperature=self.score_temperature,
            stats=stats,
            backend=self.backend,
            head=self.head,
            share_prompts=self.shortcuts.share_prompts,
            compiled=self.shortcuts.compiled,
        )

    @contextmanager
    def _timed(self, phase: str):
        start = time.perf_counter()
        yield
        name = f"time/{phase}_s"
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "steps_done": self.steps_done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "algorithm": self.algorithm.state_dict(),
            "identity": self._identity(),
        }

    def _identity(self) -> dict[str, str]:
        """What must be the same for a resumed run to be the same run. The number of steps may grow."""
        return {
            "seed": str(self.seed),
            "training": str(replace(self.config, steps=1, checkpoint_every=1)),
            "algorithm": f"{type(self.algorithm).__name__}({self.algorithm.config})",
            "task": self.task.name,
            "rollout_batch": str(self.rollout_batch),
        } | {name: str(value) for name, value in asdict(self.shortcuts).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ValueError: it comes from a run with another seed, task, training configuration, algorithm, rollout batch
                or shortcut.
        """
        theirs = _UNSET | state["identity"]
        for name, ours in self._identity().items():
            if theirs[name] != ours:
                raise ValueError(f"the checkpoint was made with {name} {theirs[name]}, got {name} {ours}")
        self.steps_done = state["steps_done"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.algorithm.load_state_dict(state["algorithm"])


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    # An epoch lasts many steps, and a step touches two at most unless the task has very few prompts.
    return np.random.default_rng([seed, epoch]).permutation(count).tolist()


def _add(so_far: list[Tensor], total: Tensor, count: Tensor) -> None:
    so_far[0] = so_far[0] + total.detach().double()
    so_far[1] = so_far[1] + count.double()


def _masked_mean(values: Tensor, mask: Tensor) -> float:
    return (values.double() * mask).sum().div(mask.sum().clamp(min=1)).item()


def _mixed_groups(rollouts: Rollouts) -> float:
    rewards: dict[int, set[float]] = defaultdict(set)
    for group, reward in zip(rollouts.group_ids.tolist(), rollouts.rewards.tolist(), strict=True):
        rewards[group].add(reward)
    return sum(len(different) > 1 for different in rewards.values()) / len(rewards)
