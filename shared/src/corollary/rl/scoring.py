"""Token statistics of completions under a model."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from corollary.kernels import TokenStats, token_stats
from corollary.rl.batch import Rollouts
from corollary.rollout import accepts, positions


def score(
    model: nn.Module,
    rollouts: Rollouts,
    *,
    temperature: float = 1.0,
    stats: Collection[str] = ("log_prob",),
    backend: str = "auto",
) -> TokenStats:
    """The statistics of every completion token, from one forward pass.

    Args:
        model: A `transformers` causal language model.
        rollouts: ``B`` completions of up to ``T`` tokens.
        temperature: Statistics are those of ``softmax(logits / temperature)``.
        stats: Names of `corollary.kernels.TokenStats` fields.
        backend: Of `corollary.kernels.token_stats`.

    Returns:
        Statistics, each ``(B, T)`` and 0 on padding, differentiable in the model's parameters.
    """
    width, length = rollouts.prompt_ids.shape[1], rollouts.completion_ids.shape[1]
    mask = torch.cat([rollouts.prompt_mask, rollouts.completion_mask], dim=1)
    arguments: dict[str, Tensor | int | bool] = {"attention_mask": mask.long(), "use_cache": False}
    if accepts(model, "position_ids"):
        arguments["position_ids"] = positions(mask)
    if accepts(model, "logits_to_keep"):
        # The logits at the last prompt token predict the first completion token.
        arguments["logits_to_keep"] = length + 1
    ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids], dim=1)
    logits = model(input_ids=ids, **arguments).logits
    logits = logits[:, -(length + 1) : -1] if logits.shape[1] == length + 1 else logits[:, width - 1 : -1]
    return token_stats(
        logits,
        rollouts.completion_ids,
        temperature=temperature,
        stats=tuple(sorted(stats)),
        mask=rollouts.completion_mask,
        backend=backend,
    )
