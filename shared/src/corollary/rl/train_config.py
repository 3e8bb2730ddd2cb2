"""How the reference trainer trains: what changes the result, and what changes it by rounding alone."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; what to optimise is the algorithm's configuration."""

    steps: int = 100
    """Rollout batches."""
    prompts_per_step: int = 32
    """Prompts of a rollout batch."""
    group_size: int = 8
    """Completions of each prompt."""
    epochs: int = 1
    """Passes over a rollout batch."""
    mini_batches: int = 4
    """Optimiser steps of a pass. With 1 (and one epoch) training is strictly on-policy and no ratio is ever clipped."""
    micro_batch_size: int | None = None
    """Completions per forward and backward pass; None for a whole mini-batch (scoring: the whole rollout batch). It
    changes memory and not the result, for every algorithm that takes nothing over the tokens of a micro-batch."""
    learning_rate: float = 1e-6
    """AdamW, constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    """Sampling temperature."""
    score_temperature: float | None = None
    """Temperature of the log-probabilities and statistics that training uses; None for the sampling temperature."""
    top_p: float = 1.0
    """Nucleus sampling; 1 is off."""
    checkpoint_every: int = 25
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "prompts_per_step", "group_size", "epochs", "mini_batches", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1, or None, got {self.micro_batch_size}")
        if self.mini_batches > self.prompts_per_step * self.group_size:
            raise ValueError(
                f"mini_batches must be at most the batch's {self.prompts_per_step * self.group_size} completions, "
                f"got {self.mini_batches}"
            )
        for name in ("learning_rate", "max_grad_norm", "temperature", "score_temperature"):
            value = getattr(self, name)
            if not (0 < value < math.inf if value is not None else name == "score_temperature"):
                raise ValueError(f"{name} must be finite and larger than 0, got {value}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and at least 0, got {self.weight_decay}")


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """Less work for the same result but for rounding, so that now and then another token is sampled.

    Recorded runs take none of them. ``share_prompts`` and ``compiled`` are only for models that
    `corollary.models.PlainLlama` stands for: a plain Llama on a CPU with one key head per query head, which leaves out
    grouped-query attention.
    """

    share_prompts: bool = False
    """Compute each prompt once, not once for each of its completions, when sampling and in forward passes. Saves most
    where prompts are long."""
    sampler_stats: bool = False
    """Take the statistics at the behaviour policy (the denominator of the ratio) from the sampler's logits, and not
    from one more forward pass. In 32 bits both agree to about 1e-6; in 16 bits they need not, and a first ratio that is
    not 1 trains on the difference."""
    compiled: bool = False
    """`torch.compile` the forward and backward passes, which needs a C++ compiler. It takes up to a minute before the
    first step, and attention is written out, so that memory grows with the square of a sequence's length: for small
    models and short sequences."""
