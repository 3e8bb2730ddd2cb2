import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from corollary.models import SmallModel
from corollary.rl import Rollouts, score
from corollary.rollout import left_pad, positions, sample_completions, sampler

V = 14


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = SmallModel(hidden_size=32, layers=2, heads=2, intermediate_size=48).build(V, seed=0)
    with torch.no_grad():  # far from uniform, so that mistakes show
        for parameter in model.parameters():
            parameter.mul_(6.0) if parameter.ndim == 2 else None
    return model.eval()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(model, prompts, seed=0, **options):
    options = {"max_new_tokens": 6, "pad_token": 12, "stop_token": 13, **options}
    return sample_completions(model, prompts, generator=generator(seed), **options)


def rollouts_of(samples, temperature=1.0):
    n = len(samples.prompt_ids)
    return Rollouts(
        *samples[:5], rewards=torch.zeros(n), group_ids=torch.arange(n), temperatures=torch.full((n,), temperature)
    )


PROMPTS = [[1], [2, 3, 4], [5, 6], [7, 8, 9, 10, 11]]


def test_the_same_prompts_and_seed_give_the_same_tokens(model):
    first, second, other = (sample(model, PROMPTS * 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.completion_ids, second.completion_ids)
    assert torch.equal(first.log_probs, second.log_probs)
    assert not torch.equal(first.completion_ids, other.completion_ids)


def test_the_global_generator_is_neither_used_nor_moved(model):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = sample(model, PROMPTS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(sample(model, PROMPTS).completion_ids, first.completion_ids)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_log_probs_are_those_of_a_full_forward_pass_of_each_sequence_alone(model, temperature):
    # Alone: without left padding, without the cache, without the rest of the batch.
    samples = sample(model, PROMPTS, temperature=temperature)
    for row, prompt in enumerate(PROMPTS):
        n = int(samples.completion_mask[row].sum())
        completion = samples.completion_ids[row, :n]
        ids = torch.cat([torch.tensor(prompt), completion])[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float() / temperature
        expected = torch.log_softmax(logits, -1).gather(-1, completion[:, None])[:, 0]
        torch.testing.assert_close(samples.log_probs[row, :n], expected, atol=2e-5, rtol=0)


def test_scoring_gives_back_the_samplers_log_probs(model):
    samples = sample(model, PROMPTS, temperature=0.7)
    stats = score(model, rollouts_of(samples, 0.7), temperature=0.7, stats=("log_prob", "entropy"))
    torch.testing.assert_close(stats.log_prob.detach(), samples.log_probs, atol=2e-5, rtol=0)
    assert (stats.entropy[~samples.completion_mask] == 0).all()


def test_a_model_family_with_learned_positions_agrees_too():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=V, n_embd=32, n_layer=2, n_head=2, n_positions=16, bos_token_id=None, eos_token_id=None
    )
    gpt2 = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        gpt2.transformer.wpe.weight.mul_(50)  # positions must matter
    samples = sample(gpt2, PROMPTS)
    stats = score(gpt2, rollouts_of(samples))
    torch.testing.assert_close(stats.log_prob.detach(), samples.log_probs, atol=2e-5, rtol=0)
    for row, prompt in enumerate(PROMPTS):
        n = int(samples.completion_mask[row].sum())
        alone = sample_logits(gpt2, prompt, samples.completion_ids[row, :n])
        torch.testing.assert_close(samples.log_probs[row, :n], alone, atol=2e-5, rtol=0)


def sample_logits(model, prompt, completion):
    with torch.no_grad():
        logits = model(input_ids=torch.cat([torch.tensor(prompt), completion])[None]).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(-1, completion[:, None])[:, 0]


class Fixed(nn.Module):
    """The same next-token logits whatever came before."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None):
        return CausalLMOutputWithPast(logits=self.logits.expand(*input_ids.shape, -1))


def test_tokens_follow_the_distribution_at_the_temperature():
    logits = [2.0, 1.0, 0.0, -1.0]
    count, temperature = 40_000, 1.7
    samples = sample(Fixed(logits), [[0]] * count, max_new_tokens=1, stop_token=None, temperature=temperature)
    p = torch.softmax(torch.tensor(logits) / temperature, -1)
    observed = torch.bincount(samples.completion_ids[:, 0], minlength=4)
    chi_squared = ((observed - count * p) ** 2 / (count * p)).sum().item()
    assert chi_squared < 16.3  # 3 degrees of freedom: exceeded once in a thousand


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    model = Fixed(p.log().tolist())
    for top_p, kept in ((0.4, {0}), (0.6, {0, 1}), (0.81, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        samples = sample(model, [[0]] * 2000, max_new_tokens=1, stop_token=None, top_p=top_p)
        assert set(samples.completion_ids.flatten().tolist()) == kept, top_p
        # The log-probabilities stay those of the full distribution.
        torch.testing.assert_close(samples.log_probs.exp(), p[samples.completion_ids])


def test_a_completion_ends_with_its_stop_token_and_padding_follows():
    samples = sample(Fixed([0.0, 0.0, 0.0, 0.0]), [[0]] * 200, max_new_tokens=8, stop_token=3, pad_token=1)
    for ids, mask, log_probs in zip(
        samples.completion_ids.tolist(),
        samples.completion_mask.tolist(),
        samples.log_probs.tolist(),
        strict=True,
    ):
        n = sum(mask)
        assert mask == [True] * n + [False] * (len(mask) - n)
        assert 3 not in ids[: n - 1]
        assert ids[n - 1] == 3 or n == 8
        assert ids[n:] == [1] * (len(ids) - n)
        assert log_probs[n:] == [0.0] * (len(ids) - n)


def test_sampling_stops_when_every_sequence_has_stopped():
    samples = sample(Fixed([0.0, -1e9, -1e9]), [[0], [1]], max_new_tokens=50, stop_token=0)
    assert samples.completion_ids.shape == (2, 1)


def test_the_model_is_left_in_the_mode_it_was_in(model):
    model.train()
    sample(model, [[1]])
    assert model.training
    model.eval()


def test_left_padding_and_positions():
    ids, mask = left_pad([[1], [2, 3, 4]], 9)
    assert ids.tolist() == [[9, 9, 1], [2, 3, 4]]
    assert mask.tolist() == [[False, False, True], [True, True, True]]
    assert positions(mask).tolist() == [[0, 0, 0], [0, 1, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be finite and larger than 0, got 0.0"),
        ({"temperature": float("inf")}, "temperature must be finite"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\]"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample(Fixed([0.0, 0.0]), [[0]], **options)


@pytest.mark.parametrize("prompts", [[], [[1], []]])
def test_empty_prompts_are_refused(prompts):
    with pytest.raises(ValueError, match="non-empty"):
        sample(Fixed([0.0, 0.0]), prompts)


def test_nan_logits_stop_the_sampling():
    with pytest.raises(ValueError, match=r"NaN for 2 sequence\(s\)"):
        sample(Fixed([0.0, float("nan")]), [[0], [1]])


def test_one_batch_gives_the_same_samples_as_no_limit(model):
    whole, limited = sample(model, PROMPTS), sample(model, PROMPTS, batch_size=len(PROMPTS))
    assert all(torch.equal(a, b) for a, b in zip(whole[:5], limited[:5], strict=True))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_are_padded_to_one_width_and_have_the_log_probs_of_the_whole(model, batch_size):
    seen = []
    hook = model.register_forward_pre_hook(
        lambda _, arguments, options: seen.append(len(options["input_ids"])), with_kwargs=True
    )
    samples = sample(model, PROMPTS, batch_size=batch_size, max_new_tokens=5)
    hook.remove()
    assert max(seen) == batch_size
    stats = score(model, rollouts_of(samples))
    mask = samples.completion_mask
    assert samples.completion_ids.shape == mask.shape == samples.log_probs.shape
    assert (samples.completion_ids[~mask] == 12).all()
    torch.testing.assert_close(samples.log_probs, stats.log_prob, atol=1e-5, rtol=1e-5)


def test_a_batch_size_below_one_is_refused(model):
    with pytest.raises(ValueError, match="batch_size must be at least 1, or None, got 0"):
        sample(model, PROMPTS, batch_size=0)


@pytest.mark.parametrize("held", [1, 10**9])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"batch_size": 3}, {"stats_temperature": 1.7}])
def test_statistics_of_the_sampler_are_those_of_scoring(model, monkeypatch, held, options):
    monkeypatch.setattr(sampler, "UNREAD_LOGITS", held)
    names = ("log_prob", "entropy", "sum_p2")
    samples = sample(model, PROMPTS * 2, temperature=0.7, stats=names, **options)
    rollouts = rollouts_of(samples, 0.7)
    assert not rollouts.completion_mask.all(), "nothing is padded"
    scored = score(model, rollouts, temperature=options.get("stats_temperature", 0.7), stats=names)
    for name in names:
        ours = getattr(samples.stats, name)
        torch.testing.assert_close(ours, getattr(scored, name).detach(), atol=2e-5, rtol=1e-5)
        assert (ours[~samples.completion_mask] == 0).all()
    assert samples.stats.varentropy is None


def test_batches_of_different_length_are_padded_in_the_statistics_too(model):
    samples = sample(model, PROMPTS * 2, stats=("entropy",), batch_size=1, seed=3)
    lengths = samples.completion_mask.sum(-1)
    assert lengths.min() < lengths.max()
    stats = score(model, rollouts_of(samples), stats=("entropy",))
    torch.testing.assert_close(samples.stats.entropy, stats.entropy.detach(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stats": "entropy"}, "stats must be names among log_prob, .*; got 'entropy'"),
        ({"stats": ("entropy", "mean")}, r"stats must be names among .*; got \('entropy', 'mean'\)"),
        ({"stats": ("entropy",), "stats_temperature": -1.0}, "stats_temperature must be .*, got -1"),
        ({"stats_temperature": 0.0}, "stats_temperature must be .*, got 0"),
    ],
)
def test_bad_statistics_are_refused_before_anything_is_drawn(model, options, message):
    source = generator()
    before = source.get_state()
    with pytest.raises(ValueError, match=message):
        sample_completions(model, PROMPTS, max_new_tokens=2, pad_token=12, generator=source, **options)
    assert torch.equal(source.get_state(), before)


def test_no_statistics_unless_they_are_asked_for(model):
    assert sample(model, PROMPTS).stats is None
