"""Any `Algorithm` in TRL: a `trl.GRPOTrainer` whose advantages, weights, masks and loss are the algorithm's.

::

    algorithm = make_algorithm("steer", lambda_min=0.7)
    args = args_for(algorithm, output_dir="out", num_generations=8)
    trainer = AlgorithmGRPOTrainer(model, reward, args, train_dataset=data, algorithm=algorithm)
    trainer.train()

TRL generates, rewards, steps, logs and saves. A *batch* of an algorithm is TRL's generation batch, and a *mini-batch*
is an optimiser step: ``gradient_accumulation_steps`` micro-batches, of which a generation batch has
``steps_per_generation``, ``num_iterations`` times over.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from corollary.kernels import TokenStats
from corollary.rl.algorithm import Algorithm
from corollary.rl.batch import Batch, Rollouts
from corollary.rl.integrations.metric_totals import MetricTotals
from corollary.rl.integrations.scoring_forward import Completions, add_scoring, detached, joined, scored
from corollary.rl.integrations.trl_batches import (
    OpenBatch,
    OpenStep,
    add_rollout_metrics,
    cut,
    gathered,
    local_advantages,
    local_request,
    rollouts_of,
    rows_or_silent,
    sampler_log_probs,
    sampling_at,
    sampling_temperature,
    show_advantages,
    unlogged,
)
from corollary.rl.integrations.trl_checkpoints import load_state, save_state
from corollary.rl.integrations.trl_options import args_for, check_args, check_trainer, grpo_options
from corollary.rl.losses import aggregate, binary_mask, importance_ratio

try:
    from trl import GRPOConfig, GRPOTrainer  # ty: ignore[import-not-found]
    from trl.trainer.utils import use_adapter  # ty: ignore[import-not-found]
except ModuleNotFoundError as error:
    if error.name != "trl":
        raise
    raise ImportError('this engine needs TRL: pip install "corollary[trl]"') from error

__all__ = ["AlgorithmGRPOTrainer", "GRPOConfig", "args_for", "check_args", "grpo_options"]

REFERENCE = "reference_log_prob"
"""The place of the reference policy's log-probabilities in `Batch.per_token`, if ``beta`` is not 0."""


class AlgorithmGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` for an `Algorithm`. `args_for` makes arguments that agree with the algorithm's configuration.

    Logged beside TRL's own metrics, once a generation batch, when its last optimiser step is done:
    `corollary.rl.METRICS` without ``grad/norm``, which TRL logs as ``grad_norm``, and the algorithm's metrics.
    `Algorithm.observe` gets the same.

    Args:
        model: As the following two and all further arguments, positional or not, what `trl.GRPOTrainer` takes.
        reward_funcs: Their weighted sum is a completion's reward.
        args: Arguments that `check_args` accepts.
        algorithm: What to optimise.
        backend: Of `corollary.kernels.token_stats`.
        head: Of `corollary.rl.score`.

    Raises:
        ValueError: ``args`` is missing, contradicts the algorithm or has options that would be ignored; or something
            else is asked for that is not supported: tools and environments, images, models with an auxiliary loss,
            prompt tuning, or weights that are sharded over processes (FSDP, DeepSpeed ZeRO-3).

    Implementation notes:
        * Log-probabilities and entropies are those of `corollary.kernels` at ``args.temperature``, whatever temperature
          a second sample was drawn at. The statistics of the behaviour policy take one forward pass over the batch;
          TRL's own such pass is left out.
        * A loss is divided by what the whole optimiser step holds, on all processes, so that neither the number of
          micro-batches nor of processes changes it. TRL's ``dapo`` and ``bnpo`` divide by other numbers if there are
          several steps or micro-batches: see `grpo_options`.
        * Rows are put into a random order once a batch, as in TRL, where the reference trainer draws one each pass.
        * An algorithm that drops rows gets smaller micro-batches, and as many optimiser steps as ever; one that adds
          rows gets larger ones.
        * With several processes each must hold whole groups. `Algorithm.advantages` then sees the rollouts of all;
          `Algorithm.prepare` and the hooks after it see the process's own, and ``process_group``.
        * ``beta`` adds TRL's KL term to the loss of each token.
        * Evaluation is TRL's: its ``eval_loss`` is that of GRPO with ``args``, not the algorithm's.
        * A checkpoint inside a batch (``save_steps`` not a multiple of the batch's optimiser steps) is continued with
          new completions for the rest of that batch; at the end of one, training goes on to the same numbers.
    """

    # What comes after `args` is TRL's and changes from release to release, hence the rest that only passes through.
    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        *rest: Any,
        algorithm: Algorithm,
        backend: str = "auto",
        head: str = "auto",
        **options: Any,
    ) -> None:
        if args is None:
            raise ValueError("args must be given, such as args_for(algorithm, output_dir=...), got None")
        check_args(args, algorithm)
        super().__init__(model, reward_funcs, args, *rest, **options)
        check_trainer(self)
        self.algorithm = algorithm
        self.backend, self.head = backend, head
        shared = distributed.is_available() and distributed.is_initialized()
        algorithm.process_group = distributed.group.WORLD if shared else None
        self._generator = torch.Generator(self.accelerator.device)
        self._generator.manual_seed(args.seed + self.accelerator.process_index)
        for scored_model in (self.model, self.ref_model):
            if scored_model is not None:
                add_scoring(scored_model.get_base_model() if hasattr(scored_model, "peft_config") else scored_model)
        self._batch: OpenBatch | None = None
        self._mini_batch: OpenStep | None = None
        self._rewarded: tuple[Tensor, list[int]] | None = None

    @property
    def _passes_over_micro_batches(self) -> int:
        """Micro-batches that are trained on before the next generation batch."""
        return self.args.steps_per_generation * self.num_iterations

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The next micro-batch's inputs: none here, as `compute_loss` takes its rows from the open batch."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        if self._step % self._passes_over_micro_batches == 0 or self._batch is None:
            self._batch = self._new_batch(generation_batch)
        return {}

    # The batch: rollouts, behaviour statistics, advantages, preparation.

    def _new_batch(self, inputs: list[dict[str, Any]]) -> OpenBatch:
        groups = len(inputs) // self.num_generations
        first_group = self.accelerator.process_index * groups
        batch = self._sampled(inputs, first_group)
        request = self.algorithm.extra_rollouts(self._step // self._passes_over_micro_batches)
        if request is not None:
            count = local_request(request, groups, self.accelerator.num_processes)
            first_group = self.accelerator.num_processes * groups + self.accelerator.process_index * count
            # TRL's log, the table of completions included, is of the first sample.
            with unlogged(self), sampling_at(self, request.temperature):
                batch = replace(batch, extra=self._sampled(inputs[: count * self.num_generations], first_group))
        totals = MetricTotals(batch.mask.device)
        add_rollout_metrics(totals, batch)
        batch = self.algorithm.prepare(batch)
        batch = replace(batch, mask=binary_mask(batch.mask, batch.rollouts.completion_mask.shape))
        totals.add("loss/kept", batch.mask.sum(), batch.rollouts.completion_mask.sum())
        totals.add_means(batch.metrics)
        if self.beta != 0.0:
            reference = self._reference_log_probs(batch.rollouts)
            batch = replace(batch, per_token={**batch.per_token, REFERENCE: reference})
        steps = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        return OpenBatch(batch, cut(batch, steps), totals)

    def _sampled(self, inputs: list[dict[str, Any]], first_group: int) -> Batch:
        """Generate, reward, score at the behaviour policy, and compute advantages."""
        out = self._generate_and_score_completions(inputs)
        if "tool_mask" in out or "pixel_values" in out:
            raise ValueError("completions must be the policy's own tokens after text, got an env_mask or images")
        rewards, lengths = self._taken_rewards()
        count, process = len(inputs), self.accelerator.process_index
        # TRL's mask leaves out truncated completions if it was asked to; they are part of the sample all the same.
        places = torch.arange(out["completion_ids"].shape[1], device=rewards.device)
        valid = places < torch.tensor(lengths, device=rewards.device)[:, None]
        rollouts = replace(
            rollouts_of(out["prompt_ids"], out["prompt_mask"].bool(), out["completion_ids"], valid),
            rewards=rewards[process * count : (process + 1) * count],
            group_ids=first_group + torch.arange(count, device=rewards.device) // self.num_generations,
            temperatures=torch.full((count,), sampling_temperature(self), device=rewards.device),
        )
        behaviour = self._score_rows(self.model, rollouts, self.algorithm.behaviour_stats | {"log_prob", "entropy"})
        rollouts = replace(
            rollouts, sampling_log_probs=sampler_log_probs(self, out, *behaviour.required("log_prob"), valid)
        )
        everything = gathered(rollouts, self.accelerator)
        advantages = self.algorithm.advantages(everything)
        show_advantages(self, advantages, everything.completion_mask)
        return Batch(
            rollouts=rollouts,
            advantages=local_advantages(advantages, valid, process),
            behaviour=behaviour,
            mask=valid & out["completion_mask"].bool(),
            generator=self._generator,
        )

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        """TRL's, kept for `_sampled` with the lengths: neither is in what TRL returns."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._rewarded = (rewards, [len(ids) for ids in completion_ids_list])
        return rewards

    def _taken_rewards(self) -> tuple[Tensor, list[int]]:
        """The rewards of all processes, ``(B,)``, and the lengths of this one's completions."""
        assert self._rewarded is not None
        (each, lengths), self._rewarded = self._rewarded, None
        unknown = each.isnan().all(dim=1)
        if bool(unknown.any()):
            raise ValueError(f"each completion needs a reward, got None from all functions for {int(unknown.sum())}")
        return (each * self.reward_weights.to(each.device)).nansum(dim=1), lengths

    # Scoring.

    def _score(self, model: nn.Module, rollouts: Rollouts, stats: frozenset[str]) -> TokenStats:
        request = Completions(rollouts, stats, self.temperature, backend=self.backend, head=self.head)
        with self.accelerator.autocast():
            return scored(model, request)

    @torch.no_grad()
    def _score_rows(self, model: nn.Module, rollouts: Rollouts, stats: frozenset[str]) -> TokenStats:
        """The statistics without gradient, as many rows at a time as a micro-batch has."""
        rows = torch.arange(len(rollouts), device=rollouts.rewards.device)
        parts = rows.split(self.args.per_device_train_batch_size)
        return joined([self._score(model, rollouts.rows(part), stats) for part in parts])

    def _reference_log_probs(self, rollouts: Rollouts) -> Tensor:
        wanted = frozenset({"log_prob"})
        if self.ref_model is not None:
            return self._score_rows(self.ref_model, rollouts, wanted).required("log_prob")[0]
        policy = self.accelerator.unwrap_model(self.model)
        with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
            return self._score_rows(self.model, rollouts, wanted).required("log_prob")[0]

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's passes: with our kernels in evaluation, and none in training, where `_sampled` has its own."""
        valid = attention_mask[:, -logits_to_keep:].bool()
        if self.model.training:
            nothing = torch.zeros(valid.shape, device=valid.device)
            return nothing, nothing, None
        rollouts = rollouts_of(
            prompt_ids=input_ids[:, :-logits_to_keep],
            prompt_mask=attention_mask[:, :-logits_to_keep].bool(),
            completion_ids=input_ids[:, -logits_to_keep:],
            completion_mask=valid,
        )
        stats = self._score_rows(model, rollouts, frozenset({"log_prob", "entropy"}))
        log_probs, entropy = stats.required("log_prob", "entropy")
        return log_probs, entropy, None

    # The optimiser step.

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The micro-batch's share of the algorithm's loss."""
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if return_outputs:
            raise ValueError("return_outputs must be False: the loss is all there is")
        accumulated = self.args.gradient_accumulation_steps
        if self.current_gradient_accumulation_steps != accumulated:
            raise RuntimeError(
                f"an optimiser step needs {accumulated} micro-batches, got {self.current_gradient_accumulation_steps}"
            )
        assert self._batch is not None
        step, part = divmod(self._step % self.args.steps_per_generation, accumulated)
        if part == 0 or self._mini_batch is None:
            self._mini_batch = self._new_mini_batch(model, self._batch, step)
        loss = self._micro_batch_loss(model, self._mini_batch, part)
        if part == accumulated - 1:
            self._mini_batch = None
        if (self._step + 1) % self._passes_over_micro_batches == 0:
            self._close(self._batch)
        return loss

    def _update_stats(self) -> frozenset[str]:
        return self.algorithm.update_stats | ({"log_prob"} if self.beta != 0.0 else set())

    def _new_mini_batch(self, model: nn.Module, opened: OpenBatch, step: int) -> OpenStep:
        """Let the algorithm prepare the rows of an optimiser step, and count what their losses are divided by."""
        batch, shared = rows_or_silent(opened.batch, opened.mini_batches[step]), None
        count = self.args.gradient_accumulation_steps
        if type(self.algorithm).prepare_mini_batch is not Algorithm.prepare_mini_batch:
            stats = self._update_stats()
            if count == 1:
                shared = self._score(model, batch.rollouts, stats)
            with torch.no_grad():
                seen = detached(shared) if shared is not None else self._score_rows(self.model, batch.rollouts, stats)
                batch = self.algorithm.prepare_mini_batch(batch, seen)
            batch = replace(batch, mask=binary_mask(batch.mask, batch.rollouts.completion_mask.shape))
            opened.totals.add_means(batch.metrics)
        kept = batch.mask.sum(-1)
        counts = self._summed(torch.stack([kept.sum(), (kept > 0).sum()]).double())
        parts = torch.arange(len(batch), device=kept.device).tensor_split(count)
        return OpenStep(batch, parts, *counts.tolist(), shared=shared)

    def _micro_batch_loss(self, model: nn.Module, step: OpenStep, part: int) -> Tensor:
        micro = rows_or_silent(step.batch, step.parts[part])
        stats = step.shared if step.shared is not None else self._score(model, micro.rollouts, self._update_stats())
        token_loss = self.algorithm.token_loss(micro, stats)
        assert self._batch is not None
        totals, processes = self._batch.totals, self.accelerator.num_processes
        if self.beta != 0.0:
            (log_probs,) = stats.required("log_prob")
            divergence = reference_kl(log_probs, self._reference_of(micro))
            if self.args.use_bias_correction_kl:
                divergence = divergence * importance_ratio(log_probs, micro.old_log_probs)
            token_loss = token_loss + self.beta * divergence
            totals.add("kl", torch.where(micro.mask, divergence, 0.0).sum(), micro.mask.sum())
        loss = aggregate(
            token_loss,
            micro.mask,
            self.algorithm.config.aggregation,
            max_length=self.max_completion_length,
            token_count=step.token_count,
            sequence_count=step.sequence_count,
        )
        totals.add("loss/policy", loss, 1 / (len(step.parts) * processes))
        with torch.no_grad():
            for name, (total, count) in self.algorithm.update_metrics(micro, stats).items():
                totals.add(name, total, count)
        # Gradients are averaged over processes, and this loss is a share of the sum.
        return loss * processes

    def _reference_of(self, micro: Batch) -> Tensor:
        if REFERENCE not in micro.per_token:
            raise ValueError(f"{type(self.algorithm).__name__} must keep Batch.per_token for beta != 0, got none of it")
        return micro.per_token[REFERENCE]

    def _close(self, opened: OpenBatch) -> None:
        """Log the batch's metrics and show them to the algorithm."""
        metrics = opened.totals.means(self._summed)
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        self.algorithm.observe(metrics)
        self._batch = None

    def _summed(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum")

    # Checkpoints.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's, and the algorithm's state, of each process its own."""
        super()._save_checkpoint(model, trial)
        if not self.args.save_only_model:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            save_state(folder, self.accelerator.process_index, self.algorithm, self._generator, self._step)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """TRL's, and the algorithm's state."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            process = self.accelerator.process_index
            self._step = load_state(Path(checkpoint), process, self.algorithm, self._generator)


def reference_kl(log_probs: Tensor, reference: Tensor) -> Tensor:
    r"""TRL's KL penalty of each token, :math:`e^d - d - 1` with :math:`d = \log\pi_\text{ref} - \log\pi`.

    Args:
        log_probs: Of the policy that is trained, nats, ``(B, T)``; carries the gradient.
        reference: Of the reference policy, ``(B, T)``.
    """
    difference = reference - log_probs
    return difference.exp() - difference - 1
