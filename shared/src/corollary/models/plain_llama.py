"""The forward pass of a `transformers` Llama as plain tensor operations.

In a model of a CPU's size, what `transformers` wraps around the arithmetic (calls of modules, recording of outputs, a
general mask, a cache object) takes about as long as the arithmetic. Here are the same operations on the same numbers in
the same order, so logits and gradients have the same bits, without the wrapping.
"""

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

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, ``(B, heads, S, head_dim)``."""


class PlainLlama:
    """A view of a model's weights with a forward pass of its own; make it with `PlainLlama.of`, for one use.

    Args:
        model: What `PlainLlama.of` accepts.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

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

    def logits(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        *,
        keep: int,
        cache: Cache | None = None,
    ) -> Tensor:
        """Next-token logits.

        Args:
            input_ids: Token ids, ``(B, T)``.
            position_ids: Their positions, ``(B, T)``.
            mask: True on the real ones of all tokens so far, ``(B, S)`` with ``S >= T``; None if all are real.
            keep: Logits are those of the last ``keep`` tokens.
            cache: Keys and values of the ``S - T`` tokens before; is extended in place. An empty list begins one.

        Returns:
            ``(B, keep, V)``, with the bits of the model's own.
        """
        top = self.model.model
        count, length = input_ids.shape
        hidden = top.embed_tokens(input_ids)
        cosine, sine = _rotation(top.rotary_emb, hidden, position_ids)
        attended = _attended(mask, length)
        causal = attended is None and length > 1
        for number, layer in enumerate(top.layers):
            attention, mlp = layer.self_attn, layer.mlp
            heads = (count, length, -1, attention.head_dim)
            normed = _normed(layer.input_layernorm, hidden)
            query = _linear(attention.q_proj, normed).view(heads).transpose(1, 2)
            key = _linear(attention.k_proj, normed).view(heads).transpose(1, 2)
            value = _linear(attention.v_proj, normed).view(heads).transpose(1, 2)
            query = (query * cosine) + (_half_turned(query) * sine)
            key = (key * cosine) + (_half_turned(key) * sine)
            if cache is not None:
                if number < len(cache):
                    before, values = cache[number]
                    key, value = torch.cat([before, key], dim=-2), torch.cat([values, value], dim=-2)
                    cache[number] = (key, value)
                else:
                    cache.append((key, value))
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=attended, scale=attention.scaling, is_causal=causal
            )
            mixed = mixed.transpose(1, 2).contiguous().reshape(count, length, -1)
            hidden = hidden + _linear(attention.o_proj, mixed)
            normed = _normed(layer.post_attention_layernorm, hidden)
            gated = functional.silu(_linear(mlp.gate_proj, normed)) * _linear(mlp.up_proj, normed)
            hidden = hidden + _linear(mlp.down_proj, gated)
        return _linear(self.model.lm_head, _normed(top.norm, hidden)[:, -keep:, :])


def _stands_for(model: nn.Module) -> bool:
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
    for module in model.modules():
        kind, own = type(module), vars(module)
        if (kind.__module__, kind.__name__) not in _KNOWN or "forward" in own or any(own[name] for name in _HOOKS):
            return False
        # Patched for all models of the class. A list of modules has no forward pass to patch.
        if kind.forward.__module__ != kind.__module__ and kind.__name__ != "ModuleList":
            return False
    return True


@torch.no_grad()
def _agrees(model: nn.Module) -> bool:
    """Whether the bits are those of the model, without and with padding and with a cache."""
    ids = torch.arange(6).remainder(model.config.vocab_size).view(2, 3)
    plain = PlainLlama(model)
    for padding in (0, 1):
        mask = torch.ones(2, 4, dtype=torch.bool)
        mask[1, :padding] = False
        places = (mask.long().cumsum(-1) - 1).clamp(min=0)
        seen = mask if padding else None
        ours: Cache = []
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
                cache=ours,
            )
            if not torch.equal(logits, output.logits):
                return False
    return True


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight, layer.bias)


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    wide = x.to(torch.float32)
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * scaled.to(x.dtype)


@torch.no_grad()
def _rotation(rotary: nn.Module, like: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    angles = position_ids[..., None].float() * rotary.inv_freq.to(torch.float)
    angles = torch.cat((angles, angles), dim=-1)
    cosine, sine = angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
    return cosine.to(like.dtype).unsqueeze(1), sine.to(like.dtype).unsqueeze(1)


def _half_turned(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _attended(mask: Tensor | None, length: int) -> Tensor | None:
    """Which tokens each of the newest ``length`` sees: real ones, up to itself, ``(B, 1, length, S)``."""
    if mask is None:
        return None
    real = mask[:, None, None, :]
    if length == 1:
        return real
    total = mask.shape[1]
    place = torch.arange(total)
    return real & (place <= place[total - length :, None])
