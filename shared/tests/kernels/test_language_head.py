"""Statistics through the heads of real model families, and a clear refusal of heads that are something else."""

import pytest
import torch
from torch import nn

from corollary.kernels import (
    STATISTICS,
    HeadNotFoundError,
    language_head,
    lm_head_token_stats,
    model_token_stats,
    token_stats,
)

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def build(family: str, **options) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **options})
    name = "PhiForCausalLM" if family == "Phi" else f"{family}ForCausalLM"
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():  # far from uniform, and near a cap, so that mistakes show
        for name, parameter in model.named_parameters():
            parameter.normal_() if "bias" in name else parameter.mul_(4.0) if parameter.ndim == 2 else None
    return model


FAMILIES = {
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Llama, untied": ("Llama", {"tie_word_embeddings": False}),
    "Gemma 2, capped": ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 2.0}),
    "Phi, with a bias": ("Phi", {}),
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("keep", [None, 3])
def test_statistics_and_gradients_are_those_of_the_models_logits(family, keep: int | None) -> None:
    model = build(family[0], **family[1])
    ids = torch.randint(40, (2, 7), generator=torch.Generator().manual_seed(1))
    count = keep or 6
    gradients = []
    results = []
    for linear in (True, False):
        if linear:
            stats = model_token_stats(model, ids, keep=keep, temperature=0.7, stats=STATISTICS, chunk_bytes=500)
        else:
            logits = model(input_ids=ids, use_cache=False).logits[:, -count - 1 : -1]
            stats = token_stats(logits, ids[:, -count:], temperature=0.7, stats=STATISTICS)
        results.append(stats)
        total = sum((i + 1) * field.square().sum() for i, field in enumerate(stats[:5]))
        gradients.append(torch.autograd.grad(total, list(model.parameters())))
    torch.testing.assert_close(tuple(results[0]), tuple(results[1]), atol=5e-5, rtol=1e-4)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * max(1.0, other.abs().max().item()), rtol=1e-3)


def test_the_head_comes_with_its_bias_and_cap() -> None:
    phi, gemma = language_head(build("Phi")), language_head(build("Gemma2", head_dim=8, final_logit_softcapping=2.0))
    assert phi.bias is not None
    assert (phi.softcap, gemma.softcap, gemma.bias) == (None, 2.0, None)


def test_a_model_that_scales_its_logits_is_refused() -> None:
    with pytest.raises(HeadNotFoundError, match=r"logits of GraniteForCausalLM .* got a difference of"):
        language_head(build("Granite", logits_scaling=4.0))


def test_the_check_is_done_once_and_keeps_the_mode_of_every_module(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("Llama").train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        language_head(model)
    assert calls == [1]
    assert [module.training for module in model.modules()] == modes
    model.lm_head = nn.Linear(16, 40, bias=False)
    language_head(model)
    assert calls == [1, 1]


class OtherLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


def test_what_is_no_plain_head_on_a_backbone_is_refused() -> None:
    with pytest.raises(HeadNotFoundError, match="got Linear; unwrap it"):
        language_head(nn.Linear(2, 3))
    model = build("Llama")
    with pytest.raises(HeadNotFoundError, match="got NoneType"):
        language_head(model.model)
    model.lm_head = OtherLinear(16, 40)
    with pytest.raises(HeadNotFoundError, match=r"to be a torch.nn.Linear, got OtherLinear"):
        lm_head_token_stats(model, torch.zeros(1, 16), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(
    ("shape", "keep", "message"), [((3,), None, r"\(B, L\)"), ((1, 4), 4, r"keep must be in 1\.\.3")]
)
def test_bad_sequences_are_refused(shape: tuple[int, ...], keep: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_token_stats(build("Llama"), torch.zeros(shape, dtype=torch.long), keep=keep)
