"""The forward pass of a `transformers` Llama as plain tensor operations.

In a model of a CPU's size, what `transformers` wraps around the arithmetic (calls of modules, recording of outputs, a
general mask, a cache object) takes about as long as the arithmetic. Here are the same operations on the same numbers in
the same order, so logits and gradients have the same bits, without the wrapping. Sharing prompts and compiling the
pass, which go further, are for those who ask for them: they differ by rounding.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_LLAMA = "transformers.models.llama.modeling_llama"
_KNOWN = {
    *((_LLAMA, name) for name in ("LlamaForCausalLM", "LlamaModel", "LlamaDecoderLayer", "LlamaAttention")),
    *((_LLAMA, name) for name in ("LlamaMLP", "LlamaRMSNorm", "LlamaRotaryEmbedding")),
    ("torch.nn.modules.linear", "Linear"),
    ("torch.nn.modules.sparse", "Embedding"),
    ("torch.nn.modules.container", "ModuleList"),
    ("torch.nn.modules.activation", "SiLU"),
    ("transformers.activations", "SiLUActivation"),
}
"""Module and name of every class that the forward pass below stands for."""

COMPILATIONS = 64
"""Variants of both passes that a process compiles at most; one more is an error."""

Past = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, ``(B, heads, S, head_dim)``."""

Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""Number of the layer, queries, keys and values of all tokens as rows, scale: what each token takes in, as rows."""


class PlainLlama:
    """A view of a model's weights with a forward pass of its own; make it with `PlainLlama.of`, for one use.

    Args:
        model: What `PlainLlama.of` accepts.
        compiled: Run the pass through `torch.compile`, for any shapes. Sums are then taken in another order.
    """

    def __init__(self, model: nn.Module, *, compiled: bool = False) -> None:
        # Its modules are transformers' own, which a type checker sees as any module.
        self.model: Any = model
        self.compiled = compiled

    @classmethod
    def of(cls, model: nn.Module) -> "PlainLlama | None":
        """The view, or None for a model that it does not stand for.

        It stands for `LlamaForCausalLM` in evaluation mode on a CPU, with attention ``sdpa``, one key head per query
        head, SiLU and the default rotary embedding. A module of another class (a quantised or LoRA layer), a hook, a
        patched ``forward``, autocast, or `torch.compile` around the call are all left to the model itself. So is a
        model whose first answers differ in any bit, as under a version of `transformers` that computes otherwise.
        """
        if not _stands_for(model):
            return None
        agreed = vars(model).get("_corollary_plain_agrees")
        if agreed is None:
            agreed = _agrees(model)
            # Beside the model, not in its state: a plain attribute that neither a state dict nor a copy of one holds.
            object.__setattr__(model, "_corollary_plain_agrees", agreed)
        return cls(model) if agreed else None

    @classmethod
    def required(cls, model: nn.Module, *, compiled: bool = False) -> "PlainLlama":
        """The view.

        Raises:
            ValueError: `PlainLlama.of` gives none, or it is to be compiled and nothing can be.
        """
        if cls.of(model) is None:
            raise ValueError(
                "share_prompts and compiled need a plain transformers LlamaForCausalLM in evaluation mode on a CPU "
                "(attention sdpa, one key head per query head, no hooks, adapters or autocast), "
                f"got a {type(model).__name__} that is none"
            )
        if compiled:
            _check_compiler()
        return cls(model, compiled=compiled)

    def logits(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        *,
        keep: int,
        past: Past | None = None,
    ) -> Tensor:
        """Next-token logits.

        Args:
            input_ids: Token ids, ``(B, T)``.
            position_ids: Their positions, ``(B, T)``.
            mask: True on the real ones of all tokens so far, ``(B, S)`` with ``S >= T``; None if all are real.
            keep: Logits are those of the last ``keep`` tokens.
            past: Keys and values of the ``S - T`` tokens before; is extended in place. An empty list begins one.

        Returns:
            ``(B, keep, V)``, with the bits of the model's own unless compiled.
        """
        return self._run("_logits", input_ids, position_ids, mask, keep, past)

    def _run(self, name: str, *arguments: Any) -> Tensor:
        if not self.compiled:
            return getattr(self, name)(*arguments)
        # The default of 8 counts all models of a process, with and without gradient, padding and cache.
        with torch._dynamo.config.patch(recompile_limit=COMPILATIONS):
            return _compiled(name)(self.model, *arguments)

    def _logits(
        self, input_ids: Tensor, position_ids: Tensor, mask: Tensor | None, keep: int, past: Past | None
    ) -> Tensor:
        (count, length), size = input_ids.shape, self.model.model.layers[0].self_attn.head_dim
        hidden = self.model.model.embed_tokens(input_ids)
        cosine, sine = (x.unsqueeze(1) for x in _rotation(self.model.model.rotary_emb, hidden, position_ids))
        attended = None if mask is None else _attended(mask, length)

        def attend(number: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            query, key, value = (x.view(count, length, -1, size).transpose(1, 2) for x in (query, key, value))
            query, key = _rotated(query, cosine, sine), _rotated(key, cosine, sine)
            if past is not None:
                if number < len(past):
                    keys, values = past[number]
                    key, value = torch.cat([keys, key], dim=-2), torch.cat([values, value], dim=-2)
                    past[number] = (key, value)
                else:
                    past.append((key, value))
            return _mixed(query, key, value, attended, scale)

        hidden = self._hidden(hidden.view(count * length, -1), attend)
        return _linear(self.model.lm_head, hidden.view(count, length, -1)[:, -keep:, :])

    def shared_logits(self, prompt_ids: Tensor, prompt_mask: Tensor, which: Tensor, completion_ids: Tensor) -> Tensor:
        """The logits that predict each completion token, from one pass in which each prompt is computed once.

        They are those of whole sequences but for rounding: the products have other shapes.

        Args:
            prompt_ids: Token ids of the different prompts, ``(U, P)``.
            prompt_mask: True on the real ones, ``(U, P)``; padding is at the left.
            which: The prompt of each completion, ``(B,)``.
            completion_ids: ``(B, T)``; padding at the right may hold any token.

        Returns:
            ``(B, T, V)``; what comes after padding means nothing.
        """
        # Without padding one row stands for all.
        padded = not bool(prompt_mask.all())
        return self._run("_shared_logits", prompt_ids, prompt_mask, padded, which, completion_ids)

    def _shared_logits(
        self, prompt_ids: Tensor, prompt_mask: Tensor, padded: bool, which: Tensor, completion_ids: Tensor
    ) -> Tensor:
        top = self.model.model
        (prompts, width), count, length = prompt_ids.shape, which.shape[0], completion_ids.shape[1] - 1
        size = top.layers[0].self_attn.head_dim
        # The last token predicts nothing. All but attention works on rows, one for each token of either kind.
        ids = torch.cat([prompt_ids.flatten(), completion_ids[:, :-1].flatten()])
        real = prompt_mask.long()
        places = (real.cumsum(-1) - 1).clamp(min=0)
        after = real.sum(-1)[which][:, None] + torch.arange(length)
        hidden = top.embed_tokens(ids)
        rotation = _rotation(top.rotary_emb, hidden, torch.cat([places.flatten(), after.flatten()]))
        cosine, sine = (x.unsqueeze(1) for x in rotation)
        seen = prompt_mask[which] if padded else prompt_mask[:1]
        seen = torch.cat([seen, seen.new_ones(seen.shape[0], length)], dim=1)
        before, after_prompt = (_attended(prompt_mask, width) if padded else None), _attended(seen, length)
        split = [prompts * width, count * length]

        def attend(_: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            query, key, value = (x.view(ids.shape[0], -1, size) for x in (query, key, value))
            query, key = _rotated(query, cosine, sine), _rotated(key, cosine, sine)
            (q, query), (k, key), (v, value) = (x.split(split) for x in (query, key, value))
            q, k, v = (x.view(prompts, width, -1, size).transpose(1, 2) for x in (q, k, v))
            rows = [_mixed(q, k, v, before, scale)]
            if length:
                query, key, value = (x.view(count, length, -1, size).transpose(1, 2) for x in (query, key, value))
                key, value = torch.cat([k[which], key], dim=2), torch.cat([v[which], value], dim=2)
                rows.append(_mixed(query, key, value, after_prompt, scale))
            return torch.cat(rows)

        of_prompts, of_completions = self._hidden(hidden, attend).split(split)
        first = of_prompts.view(prompts, width, -1)[:, -1][which]
        hidden = torch.cat([first[:, None], of_completions.view(count, length, first.shape[-1])], dim=1)
        return _linear(self.model.lm_head, hidden)

    def _hidden(self, rows: Tensor, attend: Attend) -> Tensor:
        """Embeddings to last hidden states, one row for each token; only ``attend`` knows which belong together."""
        for number, layer in enumerate(self.model.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            normed = _normed(layer.input_layernorm, rows)
            query, key, value = (_linear(x, normed) for x in (attention.q_proj, attention.k_proj, attention.v_proj))
            rows = rows + _linear(attention.o_proj, attend(number, query, key, value, attention.scaling))
            normed = _normed(layer.post_attention_layernorm, rows)
            gated = functional.silu(_linear(mlp.gate_proj, normed)) * _linear(mlp.up_proj, normed)
            rows = rows + _linear(mlp.down_proj, gated)
        return _normed(self.model.model.norm, rows)


@cache
def _compiled(name: str) -> Callable[..., Tensor]:
    """A method, compiled once for all models and shapes."""

    def run(model: nn.Module, *arguments: Any) -> Tensor:
        return getattr(PlainLlama(model), name)(*arguments)

    return torch.compile(run, dynamic=True, fullgraph=True)


@cache
def _check_compiler() -> None:
    """Compile something small; once is enough."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"compiled needs torch.compile and a C++ compiler, which do not work here: {reason}"
        ) from error


def _stands_for(model: Any) -> bool:
    if (type(model).__module__, type(model).__name__) != (_LLAMA, "LlamaForCausalLM"):
        return False
    config = model.config
    if (
        model.training
        or config._attn_implementation != "sdpa"
        or config.hidden_act != "silu"
        or config.num_key_value_heads != config.num_attention_heads
        or config.num_hidden_layers != len(model.model.layers)
        or not getattr(config, "is_causal", True)
        or config.output_attentions
        or config.output_hidden_states
        or model.model.rotary_emb.rope_type != "default"
        or model.model.embed_tokens.weight.device.type != "cpu"
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
    ):
        return False
    left: list[nn.Module] = [model]
    while left:
        module = left.pop()
        kind, own = type(module), vars(module)
        if not _is_known(kind, kind.forward) or "forward" in own:
            return False
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
            return False
        left.extend(own["_modules"].values())
    return True


@cache
def _is_known(kind: type[nn.Module], forward: Callable[..., Any]) -> bool:
    """Whether it is one of these classes, and nobody replaced its ``forward`` for all of its modules."""
    if (kind.__module__, kind.__name__) not in _KNOWN:
        return False
    return kind.__name__ == "ModuleList" or forward.__module__ == kind.__module__


@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Whether the bits are those of the model, without and with padding and with a cache."""
    ids = torch.arange(6).remainder(model.config.vocab_size).view(2, 3)
    plain = PlainLlama(model)
    for padding in (0, 1):
        mask = torch.ones(2, 4, dtype=torch.bool)
        mask[1, :padding] = False
        places = (mask.long().cumsum(-1) - 1).clamp(min=0)
        seen = mask if padding else None
        ours: Past = []
        theirs = None
        for tokens, start, stop in ((ids, 0, 3), (ids[:, :1], 3, 4)):
            output = model(
                input_ids=tokens,
                attention_mask=mask[:, :stop].long(),
                position_ids=places[:, start:stop],
                past_key_values=theirs,
                use_cache=True,
            )
            theirs = output.past_key_values
            logits = plain.logits(
                tokens,
                places[:, start:stop],
                None if seen is None else seen[:, :stop],
                keep=stop - start,
                past=ours,
            )
            if not torch.equal(logits, output.logits):
                return False
    return True


def _linear(layer: Any, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight, layer.bias)


def _normed(norm: Any, x: Tensor) -> Tensor:
    wide = x.to(torch.float32)
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * scaled.to(x.dtype)


@torch.no_grad()
def _rotation(rotary: Any, like: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    angles = position_ids[..., None].float() * rotary.inv_freq.to(torch.float)
    angles = torch.cat((angles, angles), dim=-1)
    cosine, sine = angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
    return cosine.to(like.dtype), sine.to(like.dtype)


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return (x * cosine) + (torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sine)


def _mixed(query: Tensor, key: Tensor, value: Tensor, attended: Tensor | None, scale: float) -> Tensor:
    """Attention of ``(B, heads, T, head_dim)``, as rows ``(B T, heads head_dim)``; without a mask it is causal."""
    causal = attended is None and query.shape[2] > 1
    if torch.compiler.is_compiling():
        # The fused attention of a CPU is a call that nothing is fused with, slower than this on short sequences.
        if causal:
            attended = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        # Scores in 32 bits at least, as the fused one holds them.
        wide = torch.promote_types(query.dtype, torch.float32)
        weights = (query.to(wide) * scale) @ key.to(wide).transpose(-1, -2)
        if attended is not None:
            # Not minus infinity: padding sees nothing, and nothing sees it, but its weights must not be NaN.
            weights = weights.masked_fill(~attended, torch.finfo(weights.dtype).min)
        mixed = weights.softmax(-1).to(value.dtype) @ value
        return mixed.transpose(1, 2).reshape(query.shape[0] * query.shape[2], -1)
    mixed = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attended, scale=scale, is_causal=causal
    )
    return mixed.transpose(1, 2).contiguous().view(query.shape[0] * query.shape[2], -1)


def _attended(mask: Tensor, length: int) -> Tensor:
    """Which tokens each of the newest ``length`` sees: real ones, up to itself, ``(B, 1, length, S)``."""
    real = mask[:, None, None, :]
    if length == 1:
        return real
    total = mask.shape[1]
    place = torch.arange(total)
    return real & (place <= place[total - length :, None])
