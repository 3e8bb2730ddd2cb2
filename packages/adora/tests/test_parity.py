import numpy as np
import pytest

from corollary.tasks import make_task
from corollary_adora import Parity
from corollary_adora.parity import (
    BLANK,
    BOS,
    DIRECT_ACCURACY,
    EQUALS,
    EVEN,
    MISTAKEN,
    ODD,
    PAD,
    SLOTS,
    SO_EVEN,
    SO_ODD,
    STOP,
    TRUNCATED,
)

TASK = make_task("parity")
BITS = [1, 0, 1, 1, 0, 0]


def bits_of(prompt):
    return [token for token in prompt.tokens if token < BOS]


def test_the_prompt_has_a_place_for_every_slot():
    prompt = TASK.prompt(BITS)
    assert prompt.tokens == (BOS, *BITS, *[BLANK] * 6, EQUALS)
    assert prompt.answer == 1


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ([SO_ODD, STOP], True),
        ([ODD, ODD, EVEN, ODD, ODD, ODD, SO_ODD, STOP], True),
        ([EVEN, EVEN, SO_ODD, STOP], True),  # the answer counts, not the way to it
        ([SO_EVEN, SO_ODD, STOP], True),  # the last answer counts
        ([SO_EVEN, STOP], False),
        ([SO_ODD], False),  # cut off
        ([SO_ODD, EVEN, STOP], False),
        ([ODD, STOP], False),
        ([STOP], False),
        ([], False),
    ],
)
def test_the_verifier(completion, right):
    prompt = TASK.prompt(BITS)
    assert TASK.correct(prompt, completion) is right
    assert TASK.reward(prompt, completion) == float(right)


def test_a_scratchpad_without_a_mistake_is_right():
    assert TASK.scratchpad(TASK.prompt(BITS)) == [ODD, ODD, EVEN, ODD, ODD, ODD, SO_ODD, STOP]
    for name in ("parity", "parity-long"):
        task = make_task(name)
        for prompt in task.prompts("held_out"):
            written = task.scratchpad(prompt)
            assert task.correct(prompt, written)
            assert len(written) == len(bits_of(prompt)) + 2 <= task.max_completion_length


def test_training_and_held_out_prompts_are_disjoint_and_balanced():
    train, held_out = TASK.prompts("train"), TASK.prompts("held_out")
    assert (len(train), len(held_out)) == (240, 30)
    assert len({prompt.tokens for prompt in train + held_out}) == 270
    for prompts in (train, held_out):
        assert {len(bits_of(prompt)) for prompt in prompts} == set(range(6, 11))
        assert sum(prompt.answer for prompt in prompts) == len(prompts) / 2
        assert all(prompt.answer == sum(bits_of(prompt)) % 2 for prompt in prompts)


def test_long_prompts_are_longer_than_all_others():
    prompts = make_task("parity-long").prompts("held_out")
    assert {len(bits_of(prompt)) for prompt in prompts} == {12}
    assert len({prompt.tokens for prompt in prompts}) == 30


COUNT = 40_000


@pytest.fixture(scope="module")
def shown():
    return TASK.demonstrations(COUNT, np.random.default_rng(0))


@pytest.fixture(scope="module")
def rows(shown):
    """Prompt and completion of every demonstration."""
    found = []
    for tokens, mask in zip(shown.tokens.tolist(), shown.completion_mask.tolist(), strict=True):
        prompt = TASK.prompt([token for token in tokens[:14] if token < BOS])
        assert tuple(tokens[:14]) == prompt.tokens
        found.append((prompt, [token for token, used in zip(tokens, mask, strict=True) if used]))
    return found


class TestDemonstrations:
    def test_a_completion_follows_its_prompt_and_is_padded(self, shown):
        assert shown.tokens.shape == (COUNT, 14 + SLOTS + 2)
        assert not shown.completion_mask[:, :14].any()
        assert (shown.tokens[:, 14:][~shown.completion_mask[:, 14:]] == PAD).all()
        assert (shown.tokens[shown.completion_mask] != PAD).all()

    def test_every_completion_is_parities_an_answer_and_stop(self, rows):
        for _, completion in rows:
            *parities, answer, stop = completion
            assert set(parities) <= {EVEN, ODD}
            assert answer in (SO_EVEN, SO_ODD)
            assert stop == STOP

    def near(self, values, probability):
        """Within four standard errors."""
        error = (probability * (1 - probability) / len(values)) ** 0.5
        assert np.mean(values) == pytest.approx(probability, abs=4 * error)

    def test_most_answer_at_once_and_hardly_better_than_chance(self, rows):
        self.near([len(completion) == 2 for _, completion in rows], 0.7)
        self.near([TASK.correct(*row) for row in rows if len(row[1]) == 2], DIRECT_ACCURACY)

    def test_a_third_of_the_scratchpads_are_flawed_and_complete_ones_mostly_right(self, rows):
        pads = [row for row in rows if len(row[1]) > 2]
        complete = [row for row in pads if len(row[1]) == len(bits_of(row[0])) + 2]
        self.near([len(row[1]) < len(bits_of(row[0])) + 2 for row in pads], TRUNCATED)
        self.near([TASK.correct(*row) for row in complete], 1 - MISTAKEN)
        flawed = TRUNCATED + (1 - TRUNCATED) * MISTAKEN
        assert flawed == pytest.approx(1 / 3, abs=0.01)
        self.near([completion != TASK.scratchpad(prompt) for prompt, completion in pads], flawed)

    def test_a_mistake_is_one_wrong_step_that_is_carried_on(self, rows):
        pads = [row for row in rows if len(row[1]) == len(bits_of(row[0])) + 2]
        seen = set()
        for prompt, completion in pads:
            right = TASK.scratchpad(prompt)
            wrong = [ours != theirs for ours, theirs in zip(completion[:-1], right[:-1], strict=True)]
            assert wrong == sorted(wrong)
            seen.add(sum(wrong))
        assert seen == {0, *range(2, 12)}  # a wrong last parity takes the answer along

    def test_a_truncated_scratchpad_says_where_it_stopped(self, rows):
        lacking = set()
        for prompt, completion in rows:
            missing = len(bits_of(prompt)) + 2 - len(completion)
            if len(completion) > 2 and missing:
                lacking.add(missing)
                assert completion[:-2] == TASK.scratchpad(prompt)[: len(completion) - 2]
                assert completion[-2] - SO_EVEN == completion[-3] - EVEN
        assert lacking == {1, 2, 3}


def test_no_direct_answers_on_request():
    shown = TASK.demonstrations(200, np.random.default_rng(0), jitter=1, jitter_probability=0.0)
    assert shown.completion_mask.sum(1).min() > 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": ()}, r"bits must be numbers from 1 to 12, got \(\)"),
        ({"bits": (13,)}, r"bits must be numbers from 1 to 12, got \(13,\)"),
        ({"bits": (3,), "train": 8}, "must be even and together at most 8, got 8 and 2"),
        ({"train": 3}, "must be even and together at most 64, got 3 and 2"),
    ],
)
def test_impossible_tasks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Parity("x", **{"bits": (6,), "train": 4, "held_out": 2, **options})


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be 'train' or 'held_out', got 'test'"):
        TASK.prompts("test")
