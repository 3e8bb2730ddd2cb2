import math

import pytest

from corollary.papers import Gate, Level
from corollary.reproduce.numbers import (
    format_bound,
    format_duration,
    format_interval,
    format_measured,
    format_number,
    format_seconds,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.123456, "0.123"),
        (-0.5, "-0.5"),
        (41.0, "41"),
        (999.6, "1000"),
        (123456.0, "123456"),
        (-3.2e-12, "-3.2e-12"),
        (1e-8, "1e-8"),
        (9.999e-4, "1e-3"),
        (2.5e7, "2.5e7"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.41234, 0.3612, 0.4634), "0.412 [0.361, 0.463]"),
        ((350.0, 350.0, 350.0), "350 [350, 350]"),
        ((0.0, 0.0, 0.0), "0 [0, 0]"),
        ((-1.37, -1.5, -1.24), "-1.37 [-1.50, -1.24]"),
        ((1234.5, 1111.1, 1357.9), "1234 [1111, 1358]"),
        ((2e-5, 1e-5, 3e-5), "2e-5 [1e-5, 3e-5]"),
        ((0.5, math.nan, math.nan), "0.5"),
    ],
)
def test_interval(numbers: tuple[float, float, float], text: str) -> None:
    assert format_interval(*numbers) == text


def test_exact_claim_shows_its_worst_case_and_an_inclusive_bound() -> None:
    finding = Gate("e", "e", below=1e-8).evaluate([1e-12, 3e-9], Level.EXACT)
    assert format_measured(finding, Level.EXACT) == "3e-9"
    assert format_bound(finding, Level.EXACT) == "≤ 1e-8"


def test_values_that_are_not_finite_are_counted() -> None:
    finding = Gate("e", "e", above=0.0).evaluate([1.0, math.nan, math.inf], Level.SCALED)
    assert format_measured(finding, Level.SCALED) == "not finite in 2 of 3 seeds"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.31, "8.3 s"), (9.97, "10 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_seconds_in_a_table() -> None:
    assert (format_seconds(0.04), format_seconds(9.94), format_seconds(123.4)) == ("0.0", "9.9", "123")
