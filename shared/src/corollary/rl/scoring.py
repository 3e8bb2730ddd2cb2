"""Token statistics of completions under a model."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from corollary.kernels import HeadNotFoundError, TokenStats, language_head, model_token_stats, token_stats
from corollary.models import PlainLlama
from corollary.rl.batch import Rollouts
from corollary.rollout import accepts, different_prompts, positions

HEADS = ("auto", "logits", "linear")
"""What ``head`` accepts."""

LARGE_LOGITS = 512 << 20
"""Bytes of a batch's logits from which on ``head="auto"`` goes without them on a CPU too."""

SMALL_LOGITS = 4 << 20
"""Bytes of a batch's logits up to which a copy without gaps costs less than the look-ups of rows that it spares."""


def score(
    model: nn.Module,
    rollouts: Rollouts,
    *,
    temperature: float = 1.0,
    stats: Collection[str] = ("log_prob",),
    backend: str = "auto",
    head: str = "auto",
    share_prompts: bool = False,
    compiled: bool = False,
) -> TokenStats:
    """The statistics of every completion token, from one forward pass.

    Args:
        model: A `transformers` causal language model.
        rollouts: ``B`` completions of up to ``T`` tokens.
        temperature: Statistics are those of ``softmax(logits / temperature)``.
        stats: Names of `corollary.kernels.TokenStats` fields.
        backend: Of `corollary.kernels.token_stats`.
        head: ``"logits"`` runs the whole model and holds the completions' logits. ``"linear"`` runs the backbone and
            makes logits a chunk at a time (`corollary.kernels.model_token_stats`), which takes less memory and one
            more matrix product in the backward pass. ``"auto"`` is ``"linear"`` on CUDA, and elsewhere for logits of
            at least `LARGE_LOGITS` bytes, if the model's head is found; else ``"logits"``.
        share_prompts: Run equal prompts through the model once, and hold the logits whatever ``head`` says. Less work,
            and the same statistics but for rounding; only for a model that `corollary.models.PlainLlama` stands for.
        compiled: Compile the forward and backward pass, likewise for these models, and hold the logits.

    Returns:
        Statistics, each ``(B, T)`` and 0 on padding, differentiable in the model's parameters.

    Raises:
        ValueError: ``head`` is unknown; it is ``"linear"`` and the model's head is not found (HeadNotFoundError); or
            ``share_prompts`` or ``compiled`` with a model that it is not for, or with ``head="linear"``.
    """
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}; got {head!r}")
    if (share_prompts or compiled) and head == "linear":
        raise ValueError("share_prompts and compiled hold logits: head must be 'auto' or 'logits', got 'linear'")
    width, length = rollouts.prompt_ids.shape[1], rollouts.completion_ids.shape[1]
    if share_prompts:
        rows, which = different_prompts(rollouts.prompt_ids, rollouts.prompt_mask)
        return token_stats(
            PlainLlama.required(model, compiled=compiled).shared_logits(
                rollouts.prompt_ids[rows], rollouts.prompt_mask[rows], which, rollouts.completion_ids
            ),
            rollouts.completion_ids,
            temperature=temperature,
            stats=tuple(sorted(stats)),
            mask=rollouts.completion_mask,
            backend=backend,
        )
    ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids], dim=1)
    mask = torch.cat([rollouts.prompt_mask, rollouts.completion_mask], dim=1)
    names = tuple(sorted(stats))
    if head == "linear" or (head == "auto" and not compiled and _worth_it(model, rollouts)):
        return model_token_stats(
            model,
            ids,
            attention_mask=mask.long(),
            position_ids=positions(mask) if accepts(model, "position_ids") else None,
            keep=length,
            temperature=temperature,
            stats=names,
            mask=rollouts.completion_mask,
            backend=backend,
        )
    # The logits at the last prompt token predict the first completion token.
    if (plain := PlainLlama.required(model, compiled=True) if compiled else PlainLlama.of(model)) is not None:
        logits = plain.logits(ids, positions(mask), None if bool(mask.all()) else mask, keep=length + 1)
    else:
        logits = _logits(model, ids, mask, keep=length + 1)
    logits = logits[:, -(length + 1) : -1] if logits.shape[1] == length + 1 else logits[:, width - 1 : -1]
    if logits.numel() * logits.dtype.itemsize <= SMALL_LOGITS:
        logits = logits.contiguous()
    return token_stats(
        logits,
        rollouts.completion_ids,
        temperature=temperature,
        stats=names,
        mask=rollouts.completion_mask,
        backend=backend,
    )


def _logits(model: nn.Module, ids: Tensor, mask: Tensor, *, keep: int) -> Tensor:
    """All logits, or the last ``keep`` if the model can be told."""
    arguments: dict[str, Tensor | int | bool] = {"attention_mask": mask.long(), "use_cache": False}
    if accepts(model, "position_ids"):
        arguments["position_ids"] = positions(mask)
    if accepts(model, "logits_to_keep"):
        arguments["logits_to_keep"] = keep
    return model(input_ids=ids, **arguments).logits


def _worth_it(model: nn.Module, rollouts: Rollouts) -> bool:
    find = getattr(model, "get_output_embeddings", None)
    weight = getattr(find() if find else None, "weight", None)
    if not isinstance(weight, Tensor):
        return False
    size = rollouts.completion_ids.numel() * weight.shape[0] * weight.dtype.itemsize
    if not weight.is_cuda and size < LARGE_LOGITS:
        return False
    try:
        language_head(model)
    except HeadNotFoundError:
        return False
    return True
