"""Token statistics of a `transformers` model through its head, without its logits."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from corollary.kernels._linear import CHUNK_BYTES, linear_token_stats
from corollary.kernels._token_stats import TokenStats

_checked: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
"""The head with which each model was found to make its logits."""


class HeadNotFoundError(ValueError):
    """The model's logits are not ``softcap(linear(hidden))`` in a way that is known here."""


class LanguageHead(NamedTuple):
    """What turns a model's last hidden states into its logits."""

    backbone: nn.Module
    """Gives ``last_hidden_state``."""
    weight: Tensor
    """Shape ``(V, D)``; the very parameter, so that gradients reach it (and the embedding that it may be tied to)."""
    bias: Tensor | None
    """Shape ``(V,)``."""
    softcap: float | None
    """Gemma 2's ``final_logit_softcapping``."""


def language_head(model: nn.Module) -> LanguageHead:
    """Find the head of a `transformers` causal language model, and check that it makes the model's logits.

    Model families multiply logits with constants of many names. So the first call for a model compares the logits of
    two tokens with those of the head, in evaluation mode, and refuses the model if they differ.

    Raises:
        HeadNotFoundError: there is no plain linear head on a backbone (a wrapped, sharded, quantised or adapted one
            is none), or the model does more to its logits than a linear layer and a cap.
    """
    name = type(model).__name__
    find = getattr(model, "get_output_embeddings", None)
    backbone = getattr(model, "base_model", None)
    if find is None or backbone is None:
        raise HeadNotFoundError(f"expected a transformers model with a language-model head, got {name}; unwrap it")
    head = find()
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        raise HeadNotFoundError(f"expected the head of {name} to be a torch.nn.Linear, got {type(head).__name__}")
    if type(head.weight) not in (nn.Parameter, Tensor):
        raise HeadNotFoundError(f"expected the head of {name} to be whole, got a weight of {type(head.weight)}")
    if backbone is model:
        raise HeadNotFoundError(f"expected {name} to have a backbone below its head (base_model_prefix), got none")
    found = LanguageHead(backbone, head.weight, head.bias, _softcap(model))
    if _checked.get(model) is not head:
        _check(model, found)
        _checked[model] = head
    return found


def _softcap(model: nn.Module) -> float | None:
    config = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "final_logit_softcapping", None)


@torch.no_grad()
def _check(model: nn.Module, head: LanguageHead) -> None:
    ids = torch.tensor([[0, head.weight.shape[0] - 1]], device=head.weight.device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        expected = model(input_ids=ids, use_cache=False).logits
        hidden = head.backbone(input_ids=ids, use_cache=False).last_hidden_state
    except (TypeError, AttributeError) as error:
        raise HeadNotFoundError(
            f"expected {type(model).__name__} and its backbone to take input_ids: {error}"
        ) from None
    finally:
        for module, training in modes.items():
            module.training = training
    logits = nn.functional.linear(hidden, head.weight, head.bias)
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    scale = float(expected.abs().max())
    error = float((logits - expected).abs().max()) if logits.shape == expected.shape else float("nan")
    if not error <= scale * 2 * torch.finfo(expected.dtype).eps ** 0.75:
        raise HeadNotFoundError(
            f"expected the logits of {type(model).__name__} to be its head applied to its last hidden states, got a "
            f"difference of {error:.2g} where logits reach {scale:.2g}; it scales or changes them in between"
        )


def lm_head_token_stats(
    model: nn.Module,
    hidden: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    stats: Sequence[str] = ("log_prob", "entropy"),
    mask: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    backend: str = "auto",
    forward: str = "chunked",
) -> TokenStats:
    """Statistics of tokens that a model's head predicts from last hidden states.

    Args:
        model: A `transformers` causal language model; weight, bias and cap are taken from it.
        hidden: ``last_hidden_state`` of its backbone at the predicting positions, shape ``(..., D)``.
        targets: The predicted tokens, shape ``(...)``.
        temperature: See :func:`linear_token_stats`, as for the options below.
        stats: Names of statistics.
        mask: 1 for valid tokens, shape ``(...)``.
        chunk_bytes: Bytes of logits that exist at one time.
        backend: Of :func:`token_stats`.
        forward: Of :func:`linear_token_stats`.

    Returns:
        TokenStats of shape ``(...)``, differentiable in ``hidden`` and the head.

    Raises:
        HeadNotFoundError: see :func:`language_head`.
        ValueError: see :func:`linear_token_stats`.
    """
    head = language_head(model)
    return linear_token_stats(
        hidden,
        head.weight,
        targets,
        bias=head.bias,
        softcap=head.softcap,
        temperature=temperature,
        stats=stats,
        mask=mask,
        chunk_bytes=chunk_bytes,
        backend=backend,
        forward=forward,
    )


def model_token_stats(
    model: nn.Module,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    keep: int | None = None,
    temperature: float | Tensor = 1.0,
    stats: Sequence[str] = ("log_prob", "entropy"),
    mask: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    backend: str = "auto",
    forward: str = "chunked",
) -> TokenStats:
    """Statistics of the tokens of sequences under a causal language model, whose logits are never all held.

    Args:
        model: A `transformers` causal language model.
        input_ids: ``B`` sequences of ``L`` tokens, shape ``(B, L)``. Each token is predicted from those before it.
        attention_mask: What the backbone takes, shape ``(B, L)``, or None.
        position_ids: Likewise.
        keep: Only the last ``K`` tokens, 1 to ``L - 1``; None for all ``L - 1`` that have a predecessor.
        temperature: See :func:`linear_token_stats`, as for the options below.
        stats: Names of statistics.
        mask: 1 for valid tokens, shape ``(B, K)``.
        chunk_bytes: Bytes of logits that exist at one time.
        backend: Of :func:`token_stats`.
        forward: Of :func:`linear_token_stats`.

    Returns:
        TokenStats of shape ``(B, K)``, differentiable in the model's parameters.

    Raises:
        HeadNotFoundError: see :func:`language_head`.
        ValueError: ``input_ids`` is not ``(B, L)``, ``keep`` is out of range; and see :func:`linear_token_stats`.
    """
    if input_ids.ndim != 2 or input_ids.shape[1] < 2:
        raise ValueError(f"input_ids must be (B, L) with L >= 2, got shape {tuple(input_ids.shape)}")
    length = input_ids.shape[1]
    count = length - 1 if keep is None else keep
    if not 1 <= count < length:
        raise ValueError(f"keep must be in 1..{length - 1}, got {keep}")
    arguments: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
    if attention_mask is not None:
        arguments["attention_mask"] = attention_mask
    if position_ids is not None:
        arguments["position_ids"] = position_ids
    hidden = language_head(model).backbone(**arguments).last_hidden_state
    return lm_head_token_stats(
        model,
        hidden[:, length - count - 1 : -1],
        input_ids[:, length - count :],
        temperature=temperature,
        stats=stats,
        mask=mask,
        chunk_bytes=chunk_bytes,
        backend=backend,
        forward=forward,
    )
