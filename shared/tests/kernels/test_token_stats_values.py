"""Values of the statistics: closed forms, a float64 reference, hard rows, precision."""

import doctest
import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corollary.kernels import STATISTICS, TokenStats, token_stats

TOLERANCES = {"log_prob": 1e-5, "entropy": 1e-5, "sum_p2": 1e-6, "sum_p2_log_p": 1e-6, "varentropy": 5e-5}


def assert_near(ours: TokenStats, expected: TokenStats, *, factor: float = 1.0) -> None:
    for name, tolerance in TOLERANCES.items():
        actual, wanted = getattr(ours, name).double(), getattr(expected, name)
        torch.testing.assert_close(
            actual, wanted, atol=factor * tolerance, rtol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 50.0])
@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 10.0])
def test_statistics_agree_with_the_textbook_formulas_in_float64(
    scale: float, temperature: float, problem, reference
) -> None:
    logits, targets = problem(3, 5, 40, scale=scale)
    ours = token_stats(logits.double(), targets, temperature=temperature, stats=STATISTICS)
    torch.testing.assert_close(tuple(ours), tuple(reference(logits, targets, temperature)), atol=1e-11, rtol=1e-12)


@pytest.mark.parametrize("columns", [1, 2, 3, 127, 128, 129, 50257, 129920, 151936])
def test_every_vocabulary_size_is_summed_completely(columns: int, problem, reference) -> None:
    logits, targets = problem(3, columns)
    targets[-1] = columns - 1
    ours = token_stats(logits, targets, stats=STATISTICS)
    assert_near(ours, reference(logits, targets))
    assert (ours.log_prob <= 0).all()


def test_uniform_row_has_its_closed_form() -> None:
    columns = 7
    stats = token_stats(torch.full((1, columns), 3.0).double(), torch.tensor([2]), stats=STATISTICS)
    log_v = math.log(columns)
    expected = [-log_v, log_v, 1 / columns, -log_v / columns, 0.0, 3.0 + log_v]
    torch.testing.assert_close(torch.cat(list(stats)), torch.tensor(expected).double())


@pytest.mark.parametrize("taken", [4, 5])
def test_one_hot_row_has_its_closed_form(taken: int) -> None:
    logits = torch.zeros(1, 9)
    logits[0, 4] = 1000.0
    stats = token_stats(logits, torch.tensor([taken]), stats=STATISTICS)
    expected = [0.0 if taken == 4 else -1000.0, 0.0, 1.0, 0.0, 0.0, 1000.0]
    torch.testing.assert_close(torch.cat(list(stats)), torch.tensor(expected), atol=0, rtol=0)


def test_result_has_the_shape_of_the_targets_and_only_what_was_asked_for(problem) -> None:
    logits, targets = problem(2, 3, 4, 5)
    stats = token_stats(logits, targets, stats=("sum_p2",))
    assert [name for name, field in stats._asdict().items() if field is not None] == ["sum_p2", "log_z"]
    assert stats.sum_p2.shape == stats.log_z.shape == targets.shape


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_has_the_same_bits_alone_and_with_the_others(name: str, problem) -> None:
    logits, targets = problem(6, 33)
    alone = getattr(token_stats(logits, targets, stats=(name,)), name)
    together = getattr(token_stats(logits, targets, stats=STATISTICS[::-1]), name)
    assert torch.equal(alone, together)


def test_order_of_the_requested_names_does_not_matter(problem) -> None:
    logits, targets = problem(4, 9)
    logits.requires_grad_()
    one = token_stats(logits, targets, stats=("entropy", "log_prob", "entropy"))
    other = token_stats(logits, targets)
    assert torch.equal(one.entropy, other.entropy)
    assert torch.equal(one.log_prob, other.log_prob)


def test_a_shift_of_all_logits_changes_only_the_normaliser() -> None:
    # Multiples of 2^-10 and a shift of 1024: the shifted logits are exact in float32.
    generator = torch.Generator().manual_seed(1)
    logits = torch.randint(-4096, 4096, (8, 1000), generator=generator) / 1024
    targets = torch.randint(1000, (8,), generator=generator)
    plain = token_stats(logits, targets, stats=STATISTICS)
    moved = token_stats(logits + 1024, targets, stats=STATISTICS)
    for name in STATISTICS:
        torch.testing.assert_close(getattr(plain, name), getattr(moved, name), atol=2e-6, rtol=0)
    torch.testing.assert_close(plain.log_z + 1024, moved.log_z)


@pytest.mark.parametrize("offset", [0.0, 50.0, 500.0, 5000.0])
def test_entropy_error_does_not_grow_with_a_constant_offset(offset: float, reference) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(8, 32000, generator=generator) + offset
    targets = torch.randint(32000, (8,), generator=generator)
    assert_near(token_stats(logits, targets, stats=STATISTICS), reference(logits, targets), factor=0.4)


@pytest.mark.parametrize("descending", [False, True])
def test_sorted_rows_are_no_special_case(descending: bool, problem, reference) -> None:
    logits, targets = problem(4, 5003, scale=5.0)
    logits = logits.sort(-1, descending=descending).values
    assert_near(token_stats(logits, targets, stats=STATISTICS), reference(logits, targets))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [129, 151936])
def test_low_precision_logits_are_summed_in_float32(dtype: torch.dtype, columns: int, problem, reference) -> None:
    logits, targets = problem(3, columns, scale=3.0)
    logits = logits.to(dtype)
    ours = token_stats(logits, targets, stats=STATISTICS)
    assert {field.dtype for field in ours} == {torch.float32}
    assert_near(ours, reference(logits, targets))


def test_float64_stays_float64(problem) -> None:
    logits, targets = problem(2, 5)
    assert {field.dtype for field in token_stats(logits.double(), targets, stats=STATISTICS)} == {torch.float64}


def test_minus_infinity_adds_nothing_to_any_sum(problem) -> None:
    logits, targets = problem(6, 40)
    allowed = torch.arange(40) % 3 != 1
    targets = allowed.nonzero().squeeze(1)[targets % 20]
    masked = token_stats(logits.masked_fill(~allowed, -torch.inf), targets, stats=STATISTICS)
    position = allowed.long().cumsum(0) - 1
    short = token_stats(logits[:, allowed], position[targets], stats=STATISTICS)
    torch.testing.assert_close(tuple(masked), tuple(short), atol=1e-6, rtol=1e-6)


def test_a_row_with_one_finite_logit_is_certain() -> None:
    logits = torch.full((1, 5), -torch.inf)
    logits[0, 3] = -7.0
    stats = token_stats(logits, torch.tensor([3]), stats=STATISTICS, temperature=2.0)
    torch.testing.assert_close(torch.cat(list(stats)), torch.tensor([0.0, 0, 1, 0, 0, -3.5]), atol=0, rtol=0)


def test_an_impossible_token_has_log_probability_minus_infinity(problem, reference) -> None:
    logits, targets = problem(3, 8)
    logits[1, targets[1]] = -torch.inf
    stats = token_stats(logits, targets, stats=STATISTICS)
    assert stats.log_prob.isneginf().tolist() == [False, True, False]
    torch.testing.assert_close(stats.entropy.double(), reference(logits, targets).entropy)


def test_no_rows_give_no_results() -> None:
    logits = torch.zeros(0, 3, 5, requires_grad=True)
    stats = token_stats(logits, torch.zeros(0, 3, dtype=torch.long), stats=STATISTICS)
    assert {tuple(field.shape) for field in stats} == {(0, 3)}
    stats.entropy.sum().backward()
    assert logits.grad.shape == (0, 3, 5)


def test_a_single_row_without_leading_axes(problem, reference) -> None:
    logits, targets = problem(11)
    ours = token_stats(logits, targets, stats=STATISTICS)
    assert_near(ours, reference(logits, targets))
    assert ours.log_prob.shape == ()


@given(
    st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=40),
    st.floats(0.1, 10),
    st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_statistics_respect_their_bounds(values: list[float], temperature: float, taken: int) -> None:
    logits = torch.tensor([values], dtype=torch.float32)
    columns = len(values)
    stats = token_stats(logits, torch.tensor([taken % columns]), temperature=temperature, stats=STATISTICS)
    slack = 1e-6
    assert stats.log_prob.item() <= 0
    assert 0 <= stats.entropy.item() <= math.log(columns) + slack
    assert (1 - slack) / columns <= stats.sum_p2.item() <= 1 + slack
    # F = E_p[p log p], and p log p is at least -1/e.
    assert -math.exp(-1) - slack <= stats.sum_p2_log_p.item() <= slack
    assert stats.varentropy.item() >= 0


@pytest.mark.parametrize("advantage", [1.0, -2.0])
def test_statistics_predict_the_entropy_change_of_a_policy_gradient_step(advantage: float, problem) -> None:
    """The identity of the docstring, against a central difference of the entropy along the step."""
    logits, targets = problem(20, 30)
    logits = logits.double()
    now = token_stats(logits, targets, stats=STATISTICS)
    step = torch.nn.functional.one_hot(targets, 30) - logits.softmax(-1)
    eta = 1e-5

    def entropy(z: Tensor) -> Tensor:
        return token_stats(z, targets, stats=("entropy",)).entropy

    change = entropy(logits + eta * advantage * step) - entropy(logits - eta * advantage * step)
    p = now.log_prob.exp()
    predicted = -advantage * (p * (now.log_prob + now.entropy) - (now.sum_p2_log_p + now.entropy * now.sum_p2))
    torch.testing.assert_close(change / (2 * eta), predicted, atol=1e-9, rtol=1e-7)


def test_the_example_of_the_docstring_holds() -> None:
    results = doctest.testmod(importlib.import_module(token_stats.__module__))
    assert results.attempted == 3
    assert results.failed == 0
