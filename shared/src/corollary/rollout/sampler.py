"""Batched sampling from a causal language model with a key-value cache."""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from corollary.kernels import TokenStats, token_stats
from corollary.models.plain_llama import Past, PlainLlama

UNREAD_LOGITS = 64 << 20
"""Bytes of logits that the sampler holds before it takes statistics of them: few calls, little memory."""


class Samples(NamedTuple):
    """What `sample_completions` gives: ``B`` prompts of up to ``P`` tokens, completions of up to ``T`` tokens."""

    prompt_ids: Tensor
    """``(B, P)``, int64, padded at the left."""
    prompt_mask: Tensor
    """``(B, P)``, bool."""
    completion_ids: Tensor
    """``(B, T)``, int64; ``pad_token`` after the stop token."""
    completion_mask: Tensor
    """``(B, T)``, bool: True up to and including the stop token."""
    log_probs: Tensor
    """``(B, T)``, float32, nats, at the sampling temperature; 0 on padding."""
    stats: TokenStats | None = None
    """The statistics that were asked for, each ``(B, T)``, 0 on padding; None if none were."""


@torch.no_grad()
def sample_completions(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    generator: torch.Generator,
    pad_token: int,
    stop_token: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stats: Collection[str] = (),
    stats_temperature: float | None = None,
    backend: str = "auto",
    share_prompts: bool = False,
    compiled: bool = False,
    batch_size: int | None = None,
) -> Samples:
    r"""Sample one completion for each prompt.

    Tokens are drawn from :math:`\mathrm{softmax}(z / \tau)`; the returned log-probabilities are those of that
    distribution, before ``top_p`` cuts its tail, so that they agree with a forward pass at temperature ``tau``.

    Args:
        model: A `transformers` causal language model (anything that takes ``input_ids``, ``attention_mask``,
            ``past_key_values`` and ``use_cache``). It is put in evaluation mode for the call.
        prompts: Token ids of each prompt, at least one token each. Repeat a prompt to sample it more than once.
        max_new_tokens: The longest completion.
        generator: The only source of randomness, on the model's device. The same model, prompts and generator state
            give the same tokens.
        pad_token: The id written to padding: any id of the vocabulary, since padding is recognised by the masks.
        stop_token: The id that ends a completion, which it belongs to; ``None`` to run to ``max_new_tokens``.
        temperature: :math:`\tau`, larger than 0.
        top_p: Keep the smallest set of tokens whose probability reaches this, in (0, 1]; 1 is off. The draw is then
            off-policy: identities over the policy's own samples hold at 1 only.
        stats: Names of `corollary.kernels.TokenStats` fields to give as well: those of a forward pass on the whole
            sequences but for rounding, and without that pass.
        stats_temperature: Of ``stats``; None for ``temperature``.
        backend: Of `corollary.kernels.token_stats`, for ``stats``.
        share_prompts: Run equal prompts through the model once. Less work, and logits that differ by rounding, so
            now and then another token; only for a model that `corollary.models.PlainLlama` stands for.
        compiled: Compile the forward pass, likewise.
        batch_size: How many prompts are sampled together, which bounds the memory of the key-value cache; ``None``
            for all. Each batch draws after the one before it, so another size gives other tokens.

    Returns:
        Samples; ``T`` is the length of the longest completion of the batch.

    Raises:
        ValueError: an option is out of range, a prompt is empty, the logits of a sequence that is still running
            hold NaN, or ``share_prompts`` or ``compiled`` for a model that it is not for.
    """
    if not temperature > 0 or temperature == float("inf"):
        raise ValueError(f"temperature must be finite and larger than 0, got {temperature}")
    if stats_temperature is not None and not 0 < stats_temperature < float("inf"):
        raise ValueError(f"stats_temperature must be finite and larger than 0, or None, got {stats_temperature}")
    if isinstance(stats, str) or not set(stats) <= set(TokenStats._fields):
        raise ValueError(f"stats must be names among {', '.join(TokenStats._fields)}; got {stats!r}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or None, got {batch_size}")
    device = next(model.parameters()).device
    prompt_ids, prompt_mask = left_pad(prompts, pad_token, device=device)
    was_training = model.training
    # Changing the mode takes longer than looking, for a model that is never trained with dropout.
    switch = any(module.training for module in model.modules())
    if switch:
        model.eval()
    how = _How(
        max_new_tokens=max_new_tokens,
        generator=generator,
        pad_token=pad_token,
        stop_token=stop_token,
        temperature=temperature,
        top_p=top_p,
        stats=tuple(sorted(stats)),
        stats_temperature=temperature if stats_temperature is None else stats_temperature,
        backend=backend,
        share_prompts=share_prompts,
        compiled=compiled,
    )
    size = batch_size or len(prompt_ids)
    try:
        parts = [
            _decode(model, ids, mask, how)
            for ids, mask in zip(prompt_ids.split(size), prompt_mask.split(size), strict=True)
        ]
    finally:
        if switch:
            model.train(was_training)
    found = [part.stats for part in parts if part.stats is not None]
    longest = max(part.completion_ids.shape[1] for part in parts)

    def joined(columns: Sequence[Tensor], value: float) -> Tensor:
        return torch.cat([pad(part, (0, longest - part.shape[1]), value=value) for part in columns])

    return Samples(
        prompt_ids,
        prompt_mask,
        joined([part.completion_ids for part in parts], pad_token),
        joined([part.completion_mask for part in parts], False),
        joined([part.log_probs for part in parts], 0.0),
        TokenStats.joined(found, lambda columns: joined(columns, 0.0)) if found else None,
    )


def left_pad(
    prompts: Sequence[Sequence[int]], pad_token: int, *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Prompts of different lengths as ids and mask, ``(B, P)``, padded at the left.

    Raises:
        ValueError: there is no prompt, or one is empty.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) < 1:
        raise ValueError(f"prompts must be non-empty lists of tokens, got lengths {lengths[:8]}")
    width = max(lengths)
    rows = [[pad_token] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[False] * (width - n) + [True] * n for n in lengths]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)


def positions(mask: Tensor) -> Tensor:
    """Position ids of left-padded sequences: 0 at the first real token, ``(B, S)``."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def accepts(model: nn.Module, argument: str) -> bool:
    """Whether the model's ``forward`` names this argument; families differ (``position_ids``, ``logits_to_keep``).

    A PEFT model passes everything on to the model that it wraps, so that one is asked.
    """
    wrapped = getattr(model, "get_base_model", None)
    asked = wrapped() if wrapped else model
    if "forward" in vars(asked):
        return argument in inspect.signature(asked.forward).parameters
    return argument in _parameters(type(asked).forward)


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    # Of a class's own method only: what is patched into one model may hold that model, which a cache must not.
    return frozenset(inspect.signature(forward).parameters)


@dataclass(frozen=True, kw_only=True)
class _How:
    """The options of `sample_completions`, all decided."""

    max_new_tokens: int
    generator: torch.Generator
    pad_token: int
    stop_token: int | None
    temperature: float
    top_p: float
    stats: tuple[str, ...]
    stats_temperature: float
    backend: str
    share_prompts: bool
    compiled: bool


class _Decoded(NamedTuple):
    """Of one batch, as in `Samples`."""

    completion_ids: Tensor
    completion_mask: Tensor
    log_probs: Tensor
    stats: TokenStats | None


def _decode(model: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, how: _How) -> _Decoded:
    width = prompt_ids.shape[1]
    attention = torch.cat([prompt_mask, prompt_mask.new_ones(len(prompt_ids), how.max_new_tokens)], dim=1)
    position_ids = positions(attention)
    running = prompt_mask.new_ones(len(prompt_ids))
    inputs, seen = prompt_ids, 0
    tokens, log_probs, masks = [], [], []
    stats: list[TokenStats] = []
    unread: list[Tensor] = []
    next_logits = _plain_logits(model, prompt_mask, how) or _model_logits(model)
    for step in range(how.max_new_tokens):
        until = width + step
        logits = next_logits(inputs, attention[:, :until], position_ids[:, seen:until])
        seen = until
        log_p = torch.log_softmax(logits.float() / how.temperature, dim=-1)
        token = _draw(log_p, running, how.top_p, how.generator)
        token = torch.where(running, token, how.pad_token)
        tokens.append(token)
        log_probs.append(torch.where(running, log_p.gather(-1, token[:, None])[:, 0], 0.0))
        masks.append(running)
        if how.stats:
            unread.append(logits.contiguous())  # a view could hold the logits of a whole prompt
            if len(unread) * logits.numel() * logits.element_size() >= UNREAD_LOGITS:
                stats.append(_stats(unread, tokens, masks, how))
                unread.clear()
        if how.stop_token is not None:
            running = running & (token != how.stop_token)
            if not bool(running.any()):
                break
        inputs = token[:, None]
    if unread:
        stats.append(_stats(unread, tokens, masks, how))
    return _Decoded(
        torch.stack(tokens, 1),
        torch.stack(masks, 1),
        torch.stack(log_probs, 1),
        TokenStats.joined(stats, lambda columns: torch.cat(columns, 1)) if stats else None,
    )


def _stats(unread: Sequence[Tensor], tokens: Sequence[Tensor], masks: Sequence[Tensor], how: _How) -> TokenStats:
    """Of the newest tokens, as many as there are logits."""
    newest = slice(-len(unread), None)
    return token_stats(
        torch.stack(list(unread), 1),
        torch.stack(list(tokens[newest]), 1),
        temperature=how.stats_temperature,
        stats=how.stats,
        mask=torch.stack(list(masks[newest]), 1),
        backend=how.backend,
    )


NextLogits = Callable[[Tensor, Tensor, Tensor], Tensor]
"""New tokens ``(B, T)``, the mask of all tokens so far ``(B, S)``, positions ``(B, T)``: the last logits ``(B, V)``."""


def _model_logits(model: nn.Module) -> NextLogits:
    """Through the model's own ``forward``, which keeps the cache of one sequence of calls."""
    takes_positions, takes_logits_to_keep = accepts(model, "position_ids"), accepts(model, "logits_to_keep")
    cache = None

    def next_logits(inputs: Tensor, mask: Tensor, position_ids: Tensor) -> Tensor:
        nonlocal cache
        arguments: dict[str, Any] = {"attention_mask": mask.long(), "use_cache": True}
        if takes_logits_to_keep:
            # Of a long prompt only the last logits matter; all of them would be (B, P, V).
            arguments["logits_to_keep"] = 1
        if takes_positions:
            arguments["position_ids"] = position_ids
        output = model(input_ids=inputs, past_key_values=cache, **arguments)
        cache = output.past_key_values
        return output.logits[:, -1]

    return next_logits


def _plain_logits(model: nn.Module, prompt_mask: Tensor, how: _How) -> NextLogits | None:
    """In less time, with the same bits where no shortcut is taken, for a model that `PlainLlama` stands for."""
    share_prompts, shortcut = how.share_prompts, how.share_prompts or how.compiled
    plain = PlainLlama.required(model, compiled=how.compiled) if shortcut else PlainLlama.of(model)
    if plain is None:
        return None
    padded = not bool(prompt_mask.all())
    past: Past = []

    def next_logits(inputs: Tensor, mask: Tensor, position_ids: Tensor) -> Tensor:
        if share_prompts and not past:
            return of_shared_prompts(inputs, mask, position_ids)
        return plain.logits(inputs, position_ids, mask if padded else None, keep=1, past=past)[:, -1]

    def of_shared_prompts(inputs: Tensor, mask: Tensor, position_ids: Tensor) -> Tensor:
        rows, which = different_prompts(inputs, mask)
        logits = plain.logits(inputs[rows], position_ids[rows], mask[rows] if padded else None, keep=1, past=past)
        past[:] = [(keys[which], values[which]) for keys, values in past]
        return logits[which, -1]

    return next_logits


def different_prompts(prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Of prompts ``(B, P)`` a row for each different one, ``(U,)``, and the number of each row's prompt, ``(B,)``."""
    numbers: dict[tuple[int, ...], int] = {}
    which, rows = [], []
    # A token id is not negative, so that -1 tells padding from a token that looks like it.
    for row, tokens in enumerate(prompt_ids.where(prompt_mask, -1).tolist()):
        number = numbers.setdefault(tuple(tokens), len(numbers))
        if number == len(rows):
            rows.append(row)
        which.append(number)
    return torch.tensor(rows, device=prompt_ids.device), torch.tensor(which, device=prompt_ids.device)


def _draw(log_p: Tensor, running: Tensor, top_p: float, generator: torch.Generator) -> Tensor:
    """One token of each row; every row draws, so that a row's end does not shift its neighbours' random numbers."""
    p = log_p.exp()
    broken = p.isnan().any(-1)
    if bool(broken.any()):
        if bool((broken & running).any()):
            raise ValueError(f"the model's logits hold NaN for {int((broken & running).sum())} sequence(s)")
        p = torch.where(broken[:, None], 1.0, p)
    if top_p < 1:
        ordered, order = p.sort(dim=-1, descending=True)
        # A token stays while the mass before it is below top_p: the set reaches top_p, and is never empty.
        ordered = torch.where(ordered.cumsum(-1) - ordered < top_p, ordered, 0.0)
        p = torch.zeros_like(p).scatter(-1, order, ordered)
    return torch.multinomial(p, 1, generator=generator)[:, 0]
