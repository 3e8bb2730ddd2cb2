"""The plain forward pass has the model's bits, stands aside for every other model, and may share prompts."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from corollary.models import PlainLlama, SmallModel, plain_llama
from corollary.rl import Rollouts, score
from corollary.rollout import different_prompts, left_pad, positions, sample_completions

V = 14
PROMPTS = [[1, 2, 3, 4], [5], [6, 7], [8, 9, 10, 11]]


def llama(*, dtype=torch.float32, seed=0, **options):
    config = {
        "vocab_size": V,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**config, **options})).to(dtype).eval()
    with torch.no_grad():  # far from uniform, and no weight of a norm is 1
        for parameter in model.parameters():
            parameter.mul_(6.0) if parameter.ndim == 2 else parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def sequences(*, padded):
    prompts = [prompt if padded else PROMPTS[0] for prompt in PROMPTS for _ in range(3)]
    ids, mask = left_pad(prompts, 0)
    torch.manual_seed(1)
    ids = torch.cat([ids, torch.randint(V, (len(ids), 5))], 1)
    return ids, torch.cat([mask, torch.ones(len(ids), 5, dtype=torch.bool)], 1)


def gradients(model):
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": torch.float64},
        {"dtype": torch.bfloat16},
        {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
        {"num_hidden_layers": 1, "rms_norm_eps": 1e-2, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        {"head_dim": 12},
    ],
)
def test_logits_and_gradients_have_the_bits_of_the_model(options, padded):
    model = llama(**options)
    plain = PlainLlama.of(model)
    assert plain is not None
    ids, mask = sequences(padded=padded)
    weights = torch.randn(len(ids), 6, V)
    theirs = model(
        input_ids=ids, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False, logits_to_keep=6
    ).logits
    (theirs * weights).sum().backward()
    expected = gradients(model)
    ours = plain.logits(ids, positions(mask), mask if padded else None, keep=6)
    (ours * weights).sum().backward()
    assert torch.equal(ours, theirs)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), expected, strict=True))


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_steps_with_a_cache_have_the_bits_of_the_model(padded):
    model, (ids, mask) = llama(), sequences(padded=padded)
    places, past, cache, start = positions(mask), [], None, 0
    for stop in (4, 5, 6, 7, 8, 9):
        output = model(
            input_ids=ids[:, start:stop],
            attention_mask=mask[:, :stop].long(),
            position_ids=places[:, start:stop],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        seen = mask[:, :stop] if padded else None
        ours = PlainLlama(model).logits(ids[:, start:stop], places[:, start:stop], seen, keep=1, past=past)
        assert torch.equal(ours, output.logits)
        start = stop


def doubled(model):
    model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: 2 * output)


def patched(model):
    own = model.model.norm.forward
    model.model.norm.forward = lambda x: 2 * own(x)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def replaced(model):
    old = model.model.layers[1].self_attn.o_proj
    model.model.layers[1].self_attn.o_proj = Doubling(old.in_features, old.out_features, bias=False)


@pytest.mark.parametrize("change", [doubled, patched, replaced])
@pytest.mark.parametrize("used_before", [False, True])
def test_a_changed_model_speaks_for_itself(change, used_before):
    model, changed = llama(), llama()
    if used_before:
        assert PlainLlama.of(changed) is not None
    change(changed)
    assert PlainLlama.of(changed) is None
    rollouts = rollouts_of(model)
    assert (score(changed, rollouts).log_prob - score(model, rollouts).log_prob).abs().max() > 0.01


def test_a_class_that_was_patched_speaks_for_itself(monkeypatch):
    model = llama()
    assert PlainLlama.of(model) is not None
    kind = type(model.model.layers[0].mlp)
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: 2 * own(self, x))
    assert PlainLlama.of(model) is None


def test_other_models_speak_for_themselves():
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=None, eos_token_id=None)
    )
    eager = llama()
    eager.set_attn_implementation("eager")
    long = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    others = [gpt2.eval(), eager, llama().train(), llama(num_key_value_heads=2), llama(hidden_act="gelu")]
    for model in [*others, llama(rope_parameters=long)]:
        assert PlainLlama.of(model) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PlainLlama.of(llama()) is None


def test_a_model_that_computes_otherwise_speaks_for_itself(monkeypatch):
    own = plain_llama._normed
    monkeypatch.setattr(plain_llama, "_normed", lambda norm, x: own(norm, x) * (1 + 1e-6))
    assert PlainLlama.of(llama()) is None


def compiles(test):
    """The compiler's own warnings are not ours, and a cold one takes its time."""
    return pytest.mark.filterwarnings("ignore")(pytest.mark.timeout(600)(test))


def rollouts_of(model, *, share_prompts=False, compiled=False, length=6, seed=0):
    samples = sample_completions(
        model,
        [prompt for prompt in PROMPTS for _ in range(3)],
        max_new_tokens=length,
        generator=torch.Generator().manual_seed(seed),
        pad_token=12,
        stop_token=13,
        share_prompts=share_prompts,
        compiled=compiled,
    )
    count = len(samples.prompt_ids)
    return Rollouts(
        *samples[:5], rewards=torch.zeros(count), group_ids=torch.arange(count), temperatures=torch.ones(count)
    )


@pytest.mark.parametrize("length", [1, 2, 6])
def test_shared_prompts_give_the_same_statistics_and_gradients(length):
    model = llama(dtype=torch.float64)
    rollouts = rollouts_of(model, length=length)
    rollouts = rollouts.rows(torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(3))[:7])
    found = []
    for share in (False, True):
        stats = score(model, rollouts, stats=("log_prob", "entropy"), share_prompts=share)
        (stats.log_prob.sum() + 0.3 * stats.entropy.square().sum()).backward()
        found.append([stats.log_prob.detach(), stats.entropy.detach(), *gradients(model)])
    # The model computes its norms and angles in 32 bits whatever its weights are.
    for apart, shared in zip(*found, strict=True):
        torch.testing.assert_close(shared, apart, rtol=1e-5, atol=1e-5)


def test_prompts_of_one_length_are_shared_too():
    model = llama(dtype=torch.float64)
    rollouts = rollouts_of(model)
    whole = rollouts.prompt_mask.all(-1)
    rollouts = rollouts.rows(whole.nonzero()[:, 0])
    apart, shared = (score(model, rollouts, share_prompts=share).log_prob for share in (False, True))
    assert len(rollouts) == 6
    torch.testing.assert_close(shared, apart, rtol=1e-6, atol=1e-6)


def test_shared_prompts_give_the_same_samples():
    model = llama(dtype=torch.float64)
    apart, shared = rollouts_of(model), rollouts_of(model, share_prompts=True)
    assert torch.equal(shared.completion_ids, apart.completion_ids)
    torch.testing.assert_close(shared.sampling_log_probs, apart.sampling_log_probs, rtol=1e-5, atol=1e-5)


def test_each_prompt_is_computed_once(monkeypatch):
    model, seen = llama(), []
    rollouts = rollouts_of(model)
    own = plain_llama._linear

    def linear(layer, x):
        seen.append(x.shape[:-1].numel())
        return own(layer, x)

    monkeypatch.setattr(plain_llama, "_linear", linear)
    score(model, rollouts, share_prompts=True)
    length = rollouts.completion_ids.shape[1]
    assert seen[-1] == len(rollouts) * length, "logits are made for each completion token"
    assert max(seen) == len(PROMPTS) * 4 + len(rollouts) * (length - 1)


def test_padding_is_not_taken_for_a_token():
    ids, mask = left_pad([[5, 1], [1], [5, 1], [1]], 5)
    rows, which = different_prompts(ids, mask)
    assert (rows.tolist(), which.tolist()) == ([0, 1], [0, 1, 0, 1])


@compiles
@pytest.mark.parametrize("share", [False, True])
def test_a_compiled_pass_gives_the_same_samples_statistics_and_gradients(share):
    model = llama(dtype=torch.float64, num_hidden_layers=2 if share else 1)
    rollouts = rollouts_of(model)
    compiled = rollouts_of(model, share_prompts=share, compiled=True)
    assert torch.equal(compiled.completion_ids, rollouts.completion_ids)
    torch.testing.assert_close(compiled.sampling_log_probs, rollouts.sampling_log_probs, rtol=1e-5, atol=1e-5)
    whole = rollouts.prompt_mask.all(-1)
    # With padding and without, and in another shape: what is compiled is for all of them.
    for rows in (torch.arange(len(rollouts)), torch.arange(5), whole.nonzero()[:, 0]):
        part = rollouts.rows(rows)
        found = []
        for options in ({}, {"share_prompts": share, "compiled": True}):
            stats = score(model, part, stats=("log_prob", "entropy"), **options)
            (stats.log_prob.sum() + 0.3 * stats.entropy.square().sum()).backward()
            found.append([stats.log_prob.detach(), stats.entropy.detach(), *gradients(model)])
        for plain, fused in zip(*found, strict=True):
            torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)


@compiles
def test_one_compilation_serves_batches_of_any_shape():
    model = llama(num_hidden_layers=1)
    rollouts = rollouts_of(model)
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters
    counted.clear()
    with torch.no_grad():
        for count in (12, 9, 7, 5):
            score(model, rollouts.rows(torch.arange(count)), share_prompts=True, compiled=True)
    assert 1 <= counted["stats"]["unique_graphs"] <= 2, "four shapes"
    assert not counted["graph_break"]


@compiles
def test_compiled_attention_in_16_bits_is_as_exact_as_the_fused_one():
    source = torch.Generator().manual_seed(0)
    # Far from uniform: scores that were rounded to 16 bits would be off by more than the weights are.
    query, key, value = (torch.randn(4, 2, 24, 16, generator=source).bfloat16() * scale for scale in (3, 3, 1))

    def error(attend):
        exact = plain_llama._mixed(query.double(), key.double(), value.double(), None, 0.25)
        return (attend(query, key, value, None, 0.25).double() - exact).square().mean().sqrt()

    fused, compiled = error(plain_llama._mixed), error(torch.compile(plain_llama._mixed, fullgraph=True))
    assert 0 < compiled < 2 * fused


def test_without_a_compiler_the_reason_is_one_line(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand much more")

    plain_llama._check_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ValueError, match=r"compiled needs torch\.compile and .*: No working C\+\+ compiler found$"):
        PlainLlama.required(llama(), compiled=True)


def test_sharing_is_refused_where_it_cannot_be():
    model = llama(num_key_value_heads=2)
    with pytest.raises(ValueError, match="share_prompts and compiled need a plain transformers LlamaForCausalLM"):
        rollouts_of(model, share_prompts=True)
    rollouts = rollouts_of(model)
    with pytest.raises(ValueError, match="share_prompts and compiled need a plain transformers LlamaForCausalLM"):
        score(model, rollouts, share_prompts=True)
    with pytest.raises(ValueError, match="head must be 'auto' or 'logits', got 'linear'"):
        score(model, rollouts, share_prompts=True, head="linear")
    with pytest.raises(ValueError, match="share_prompts and compiled need a plain"):
        rollouts_of(model, compiled=True)
    with pytest.raises(ValueError, match="share_prompts and compiled need a plain"):
        score(model, rollouts, compiled=True)
    with pytest.raises(ValueError, match="head must be 'auto' or 'logits', got 'linear'"):
        score(model, rollouts, compiled=True, head="linear")


def test_the_verdict_on_a_model_is_no_part_of_its_state():
    model = SmallModel().build(V, seed=0).eval()
    before = list(model.state_dict())
    assert PlainLlama.of(model) is not None
    assert list(model.state_dict()) == before
