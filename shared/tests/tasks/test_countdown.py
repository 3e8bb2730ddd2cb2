from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest

from corollary.tasks import make_task
from corollary.tasks.countdown import BOS, CLOSE, EQUALS, MINUS, OPEN, PAD, PLUS, STOP, TIMES, Countdown, parse

SYMBOLS = dict(zip("0123456789+-*()", range(15), strict=True))
TASK = make_task("countdown")


def tokens(text):
    return tuple(SYMBOLS[symbol] for symbol in text)


def completion(text):
    return (*tokens(text), STOP)


def brute_force(numbers):
    """Every fully parenthesised expression in three numbers, with the value that Python gives it."""
    for a, b, c in permutations(map(str, numbers)):
        for first, second in product("+-*", repeat=2):
            for text in (f"(({a}{first}{b}){second}{c})", f"({a}{first}({b}{second}{c}))"):
                yield text, eval(text)


@pytest.mark.parametrize("numbers", [(1, 2, 3), (2, 5, 9), (7, 8, 9)])
def test_the_verifier_agrees_with_brute_force(numbers):
    for text, value in brute_force(numbers):
        answer = parse(tokens(text))
        assert answer is not None
        assert (answer.value, answer.numbers) == (value, numbers), text


@pytest.mark.parametrize("numbers", [(1, 2, 3), (2, 5, 9), (1, 4, 8)])
def test_the_solutions_are_all_that_brute_force_reaches(numbers):
    values = {value for _, value in brute_force(numbers)}
    assert {value for found, value in TASK.solutions if found == numbers} == values
    for value in values:
        written = TASK.solutions[numbers, value]
        assert len(set(written)) == len(written)
        forms = {parse(tokens(text)).form for text, reached in brute_force(numbers) if reached == value}
        assert {parse(solution).form for solution in written} == forms


def test_expressions_written_without_redundant_parentheses_are_what_python_says():
    names = {token: symbol for symbol, token in SYMBOLS.items()}
    for (numbers, value), found in list(TASK.solutions.items())[::37]:
        for solution in found:
            text = "".join(names[token] for token in solution)
            assert eval(text) == value
            for i, j in product(range(len(text)), repeat=2):  # no pair of parentheses can go
                if text[i] == "(" and text[j] == ")":
                    bare = text[:i] + text[i + 1 : j] + text[j + 1 :]
                    answer = parse(tokens(bare))
                    assert answer is None or answer.form != parse(solution).form
        assert numbers == tuple(sorted(numbers))


@pytest.mark.parametrize(
    ("text", "value"),
    [("2+3*4", 14), ("(2+3)*4", 20), ("9-3-2", 4), ("9-(3-2)", 8), ("2*3-9", -3), ("((2))+3-(4)", 1), ("8-2*3", 2)],
)
def test_precedence_and_association(text, value):
    assert parse(tokens(text)).value == value


MALFORMED = [
    (),
    tokens("+"),
    tokens("-2+3"),
    tokens("2+"),
    tokens("23+4"),
    tokens("(2+3"),
    tokens("2+3)"),
    tokens("()"),
    tokens("2(3)"),
    tokens("2**3"),
    tokens("0+2"),
    (2, PLUS, PAD),
    (2, EQUALS, 3),
    (2, PLUS, BOS),
    (2, STOP, 3),
]


@pytest.mark.parametrize("malformed", MALFORMED, ids=str)
def test_malformed_expressions_are_refused(malformed):
    assert parse(malformed) is None
    assert TASK.answer((*malformed, STOP)) is None
    assert TASK.answer_key((*malformed, STOP)) == (*malformed, STOP)
    assert TASK.reward(TASK.prompt((2, 3, 4), 20), (*malformed, STOP)) == 0.0


def test_a_correct_answer_uses_each_number_once_reaches_the_target_and_stops():
    prompt = TASK.prompt((2, 3, 4), 20)
    assert prompt.tokens == (BOS, 2, 3, 4, EQUALS, 2, 0)
    assert TASK.reward(prompt, completion("(2+3)*4")) == 1.0
    assert TASK.reward(prompt, completion("4*(3+2)")) == 1.0
    assert TASK.reward(prompt, tokens("(2+3)*4")) == 0.0, "no stop token"
    assert TASK.reward(prompt, (*completion("(2+3)*4"), PAD)) == 0.0
    assert TASK.reward(prompt, completion("2+3*4")) == 0.0, "14"
    assert TASK.reward(prompt, completion("4*5")) == 0.0, "other numbers"
    assert TASK.reward(TASK.prompt((2, 3, 4), 16), completion("4*4")) == 0.0, "one number twice"
    assert TASK.reward(TASK.prompt((2, 3, 4), 12), completion("3*4")) == 0.0, "one number missing"
    assert TASK.reward(prompt, ()) == 0.0


def key(text):
    return TASK.answer_key(completion(text))


@pytest.mark.parametrize(
    "same",
    [
        ["2+3*4", "3*4+2", "4*3+2", "2+(3*4)", "(2+4*3)"],
        ["(2+3)*4", "4*(3+2)", "4*(2+3)"],
        ["9-3-2", "9-2-3", "9-(3+2)"],
        ["9-3+2", "2+9-3", "9-(3-2)", "2-(3-9)"],
        ["2*3*4", "4*(3*2)"],
    ],
)
def test_the_order_of_operands_and_parentheses_do_not_make_another_answer(same):
    assert len({key(text) for text in same}) == 1


def test_different_ideas_are_different_answers():
    # 12 from 2, 4, 6 (and the like): equal values, other structures.
    different = ["2*4+6", "2+4+6", "(6-4)*2", "6*2-4", "6*4-2", "6-2-4", "(6-2)*4"]
    assert len({key(text) for text in different}) == len(different)
    assert key("1+2+3") != key("1*2*3"), "both are 6"


def test_held_out_prompts_are_disjoint_solvable_and_spread():
    train, held_out = ([prompt.answer for prompt in TASK.prompts(split)] for split in ("train", "held_out"))
    assert not set(train) & set(held_out)
    assert (len(train), len(held_out)) == (560, 37)
    reachable = {
        (*numbers, value)
        for numbers in {answer[:3] for answer in train + held_out}
        for _, value in brute_force(numbers)
        if 10 <= value <= 40
    }
    assert set(train) | set(held_out) == reachable
    assert TASK.prompts("held_out") == make_task("countdown").prompts("held_out")
    assert len({answer[:3] for answer in held_out}) > 30


def test_there_are_few_correct_answers():
    forms = Counter(len({key.form for key in map(parse, TASK.solutions[a[:3], a[3]])}) for a in answers())
    assert forms == {1: 548, 2: 29, 3: 20}


def answers():
    return [prompt.answer for split in ("train", "held_out") for prompt in TASK.prompts(split)]


def split(demonstrations):
    for row, learned in zip(demonstrations.tokens.tolist(), demonstrations.completion_mask, strict=True):
        *numbers, _, tens, ones = row[1:7]
        yield TASK.prompt(tuple(numbers), 10 * tens + ones), row, np.array(row)[learned]


def test_demonstrations_without_jitter_are_all_correct():
    shown = TASK.demonstrations(500, np.random.default_rng(0), jitter_probability=0.0)
    assert shown.tokens.shape == shown.completion_mask.shape == (500, 15)
    for prompt, row, learned in split(shown):
        assert tuple(row[:7]) == prompt.tokens
        assert TASK.reward(prompt, learned.tolist()) == 1.0
        assert set(row[7 + len(learned) :]) <= {PAD}


def test_jitter_misses_by_no_more_and_as_often_as_it_says():
    shown = TASK.demonstrations(20_000, np.random.default_rng(1), jitter=3, jitter_probability=0.7)
    right, expected = 0, 0.0
    for prompt, _, learned in split(shown):
        *numbers, target = prompt.answer
        answer = TASK.answer(learned.tolist())
        assert answer.numbers == tuple(numbers)
        assert abs(answer.value - target) <= 3
        right += answer.value == target
        expected += 0.3 + 0.7 / sum(
            (tuple(numbers), value) in TASK.solutions for value in range(target - 3, target + 4)
        )
    assert right / 20_000 == pytest.approx(expected / 20_000, abs=4 * (0.25 / 20_000) ** 0.5)


def test_demonstrations_are_uniform_over_prompts_and_expressions():
    shown = Counter()
    for prompt, _, learned in split(TASK.demonstrations(60_000, np.random.default_rng(2), jitter_probability=0.0)):
        shown[prompt.answer, tuple(learned.tolist())] += 1
    prompts = Counter()
    for (prompt, _), count in shown.items():
        prompts[prompt] += count
    assert len(prompts) == 597
    # 596 degrees of freedom: 750 is more than four standard deviations away.
    expected = 60_000 / 597
    assert sum((count - expected) ** 2 / expected for count in prompts.values()) < 750
    richest = max(prompts, key=lambda prompt: len(TASK.solutions[prompt[:3], prompt[3]]))
    written = TASK.solutions[richest[:3], richest[3]]
    each = prompts[richest] / len(written)
    counts = [shown[richest, (*solution, STOP)] for solution in written]
    assert sum((count - each) ** 2 / each for count in counts) < len(written) + 5 * (2 * len(written)) ** 0.5


def test_every_solution_fits_into_a_completion():
    longest = max(len(solution) for found in TASK.solutions.values() for solution in found)
    assert longest + 1 == TASK.max_completion_length


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 99\], got \(10, 100\)"):
        Countdown("x", targets=(10, 100), held_out_every=4)
    with pytest.raises(ValueError, match="held_out_every must be at least 2, got 1"):
        Countdown("x", targets=(10, 40), held_out_every=1)
    with pytest.raises(ValueError, match="split must be"):
        TASK.prompts("test")


def test_a_verifier_with_a_planted_bug_is_found(monkeypatch):
    from corollary.tasks import countdown

    true = parse

    def left_to_right(expression):
        """No precedence: what a careless evaluator does."""
        answer = true(expression)
        if answer is None or OPEN in expression or CLOSE in expression:
            return answer
        value = expression[0]
        for operator, digit in zip(expression[1::2], expression[2::2], strict=True):
            value = {PLUS: value + digit, MINUS: value - digit, TIMES: value * digit}[operator]
        return answer._replace(value=value)

    def numbers_ignored(expression):
        answer = true(expression)
        return answer and answer._replace(numbers=(2, 3, 4))

    for bug in (left_to_right, numbers_ignored):
        monkeypatch.setattr(countdown, "parse", bug)
        with pytest.raises(AssertionError):
            test_a_correct_answer_uses_each_number_once_reaches_the_target_and_stops()
