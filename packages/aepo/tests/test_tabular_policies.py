import math

import pytest
import torch

from corollary.rl import Rollouts, score
from corollary.rollout import sample_completions
from corollary.runs import Run, RunStore
from corollary.tasks import make_task
from corollary_aepo import PreviousDigit, RemainingSum, TabularStart, entropy_ceiling
from corollary_aepo.digit_strings import answers, exact_policy

TASK = make_task("digit-sum")
PROMPTS = [prompt.tokens for prompt in TASK.prompts("train")]


def random_policy(kind, dtype=torch.float64):
    policy = kind().to(dtype)
    policy.table.data.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    return policy


def drawn(policy, prompts, temperature=1.0, seed=0):
    return sample_completions(
        policy,
        prompts,
        max_new_tokens=6,
        generator=torch.Generator().manual_seed(seed),
        pad_token=TASK.pad_token,
        stop_token=TASK.stop_token,
        temperature=temperature,
    )


def rollouts(samples):
    n = len(samples.prompt_ids)
    return Rollouts(
        prompt_ids=samples.prompt_ids,
        prompt_mask=samples.prompt_mask,
        completion_ids=samples.completion_ids,
        completion_mask=samples.completion_mask,
        sampling_log_probs=samples.log_probs,
        rewards=torch.zeros(n),
        group_ids=torch.arange(n),
        temperatures=torch.ones(n),
    )


@pytest.mark.parametrize("kind", [RemainingSum, PreviousDigit])
def test_the_forward_pass_scores_what_the_sampler_drew(kind):
    """Sampling sees a token at a time with the past in the cache, scoring the whole sequence at once."""
    policy = random_policy(kind)
    samples = drawn(policy, PROMPTS)
    assert samples.completion_ids.max() <= 9
    assert samples.completion_mask.all()
    ours = score(policy, rollouts(samples)).log_prob
    torch.testing.assert_close(ours.float(), samples.log_probs, rtol=0, atol=1e-5)


def test_log_probabilities_by_hand():
    policy = random_policy(RemainingSum)
    samples = drawn(policy, PROMPTS[:3])
    ours = score(policy, rollouts(samples)).log_prob
    for row in range(3):
        left = 10 * PROMPTS[row][1] + PROMPTS[row][2]
        for position, digit in enumerate(samples.completion_ids[row].tolist()):
            expected = torch.log_softmax(policy.table[position, left + 54], -1)[digit]
            assert ours[row, position].item() == pytest.approx(expected.item())
            left -= digit


def test_the_previous_digit_by_hand():
    policy = random_policy(PreviousDigit)
    samples = drawn(policy, PROMPTS[:3])
    ours = score(policy, rollouts(samples)).log_prob
    for row in range(3):
        target, previous = 10 * PROMPTS[row][1] + PROMPTS[row][2], 10
        for position, digit in enumerate(samples.completion_ids[row].tolist()):
            expected = torch.log_softmax(policy.table[position, target * 11 + previous], -1)[digit]
            assert ours[row, position].item() == pytest.approx(expected.item())
            previous = digit


def test_the_gradient_reaches_the_table():
    policy = random_policy(RemainingSum)
    score(policy, rollouts(drawn(policy, PROMPTS[:2]))).log_prob.sum().backward()
    assert (policy.table.grad != 0).any(-1).sum() == 12  # two answers of six digits, all in other states


def test_exact_entropy_and_accuracy_are_those_of_samples():
    policy = random_policy(RemainingSum)
    targets = [prompt.answer for prompt in TASK.prompts("train")]
    entropy, accuracy = exact_policy(policy, targets)
    samples = drawn(policy, [prompt for prompt in PROMPTS for _ in range(400)])
    stats = score(policy, rollouts(samples), stats=("entropy",))
    right = samples.completion_ids.sum(1) == torch.tensor(targets).repeat_interleave(400)
    assert entropy == pytest.approx(stats.entropy.mean().item(), abs=0.01)
    assert accuracy == pytest.approx(right.double().mean().item(), abs=0.01)


def test_the_uniform_policy_over_answers_reaches_the_ceiling():
    """A table whose probabilities are those of the uniform distribution over right answers."""
    policy = RemainingSum().double()
    for position in range(6):
        ways = answers(5 - position)
        for state in range(109):
            left = state - 54
            count = [ways[left - digit] if 0 <= left - digit < len(ways) else 0 for digit in range(10)]
            policy.table.data[position, state] = torch.tensor([math.log(c) if c else -1e4 for c in count])
    targets = [prompt.answer for prompt in TASK.prompts("train")]
    entropy, accuracy = exact_policy(policy, targets)
    assert accuracy == pytest.approx(1.0)
    assert entropy == pytest.approx(entropy_ceiling(targets))


def test_numbers_of_answers():
    assert answers(1) == [1] * 10
    assert sum(answers(6)) == 10**6
    assert (answers(6)[8], answers(6)[27]) == (1287, 55252)


@pytest.mark.parametrize("targets", [[], [55], [-1]])
def test_impossible_targets_are_refused(targets):
    with pytest.raises(ValueError, match=r"targets must be at least one sum in \[0, 54\]"):
        entropy_ceiling(targets)


def test_the_start_is_as_described(tmp_path):
    """About 1.95 nats and an accuracy of 0.18; and targets of the control claims are below the ceiling."""
    from corollary_aepo.experiments import TABLE_TARGETS

    store, run = RunStore(tmp_path), Run(TabularStart(), 0)
    store.execute(run)
    targets = [prompt.answer for prompt in TASK.prompts("train")]
    entropy, accuracy = exact_policy(run.recipe.load(store, seed=0), targets)
    assert entropy == pytest.approx(1.95, abs=0.05)
    assert accuracy == pytest.approx(0.18, abs=0.02)
    assert max(TABLE_TARGETS) < entropy_ceiling(targets) < entropy


@pytest.mark.parametrize("memory", ["remaining-sum", "previous-digit"])
def test_the_table_holds_smoothed_frequencies(tmp_path, memory):
    """Without jitter every answer is right, so the first digit of target 48 is 3 at least."""
    start = TabularStart(memory=memory, demonstrations=50_000, smoothing=1e-6, jitter_probability=0.0)
    store, run = RunStore(tmp_path), Run(start, 0)
    store.execute(run)
    policy = start.load(store, seed=0)
    logits = policy(torch.tensor([[10, 4, 8, 11]]), logits_to_keep=1).logits[0, 0]
    p = torch.softmax(logits, -1)
    ways = torch.tensor([answers(5)[48 - digit] if digit >= 3 else 0 for digit in range(10)]).double()
    torch.testing.assert_close(p.double(), ways / ways.sum(), rtol=0, atol=0.04)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "none"}, "memory must be one of remaining-sum, previous-digit; got 'none'"),
        ({"demonstrations": 0}, "demonstrations must be at least 1, got 0"),
        ({"smoothing": 0.0}, "smoothing must be larger than 0, got 0.0"),
    ],
)
def test_bad_starts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TabularStart(**options)
