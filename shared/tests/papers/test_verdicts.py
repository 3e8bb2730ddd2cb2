import math

import pytest

from corollary.papers import Budget, Gate, Level, Verdict, worst

ABOVE = Gate("gain", "gain", above=1.0)
BELOW = Gate("error", "error", below=1.0)
REPRODUCED, DIRECTION, NOT = Verdict.REPRODUCED, Verdict.DIRECTION_ONLY, Verdict.NOT_REPRODUCED


@pytest.mark.parametrize(
    ("gate", "values", "verdict"),
    [
        (ABOVE, [2.0, 2.1, 1.9, 2.0, 2.0], REPRODUCED),
        (BELOW, [0.0, 0.1, -0.1, 0.0, 0.0], REPRODUCED),
        (ABOVE, [0.0, 0.1, -0.1, 0.0, 0.0], NOT),
        (BELOW, [2.0, 2.1, 1.9, 2.0, 2.0], NOT),
        (ABOVE, [3.0, -1.0, 3.0, -1.0, 3.0], DIRECTION),
        (BELOW, [3.0, -1.0, 3.0, -1.0, -1.0], DIRECTION),
        (ABOVE, [3.0, -1.0, 3.0, -1.0, -1.0], NOT),
        (BELOW, [3.0, -1.0, 3.0, -1.0, 3.0], NOT),
        (ABOVE, [1.0] * 5, NOT),
        (BELOW, [1.0] * 5, NOT),
        (ABOVE, [2.0] * 5, REPRODUCED),
        (ABOVE, [2.0] * 4, Verdict.NO_VERDICT),
        (ABOVE, [0.0], Verdict.NO_VERDICT),
        (ABOVE, [2.0, 2.0, 2.0, 2.0, math.nan], NOT),
        (ABOVE, [2.0, 2.0, 2.0, 2.0, math.inf], NOT),
        (BELOW, [-math.inf], NOT),
    ],
)
@pytest.mark.parametrize("level", [Level.SCALED, Level.PAPER])
def test_verdict_over_seeds(gate: Gate, values: list[float], verdict: Verdict, level: Level) -> None:
    assert gate.evaluate(values, level).verdict is verdict


@pytest.mark.parametrize(
    ("gate", "values", "verdict"),
    [
        (BELOW, [0.5], REPRODUCED),
        (BELOW, [1.0], REPRODUCED),
        (BELOW, [math.nextafter(1.0, 2.0)], NOT),
        (BELOW, [0.5, 1.5], NOT),
        (ABOVE, [1.0, 7.0], REPRODUCED),
        (ABOVE, [0.99, 7.0], NOT),
        (BELOW, [math.nan], NOT),
        (BELOW, [-math.inf], NOT),
    ],
)
def test_exact_verdict_needs_every_value(gate: Gate, values: list[float], verdict: Verdict) -> None:
    finding = gate.evaluate(values, Level.EXACT)
    assert finding.verdict is verdict
    assert math.isnan(finding.low)
    assert math.isnan(finding.high)


@pytest.mark.parametrize("level", list(Level))
def test_smoke_never_gives_a_verdict(level: Level) -> None:
    assert ABOVE.evaluate([2.0] * 5, level, budget=Budget.SMOKE).verdict is Verdict.NO_VERDICT


def test_non_finite_value_is_shown_and_not_judged_at_smoke() -> None:
    finding = ABOVE.evaluate([2.0, math.nan], Level.SCALED, budget=Budget.SMOKE)
    assert finding.verdict is Verdict.NO_VERDICT
    assert math.isnan(finding.mean)
    assert math.isnan(finding.extreme)


def test_interval_is_student_t() -> None:
    finding = ABOVE.evaluate([1.0, 2.0, 3.0, 4.0, 5.0], Level.SCALED)
    # The 97.5 % quantile of Student t with 4 degrees of freedom, and the standard error sqrt(2.5 / 5).
    assert finding.mean == pytest.approx(3.0)
    assert finding.high - finding.mean == pytest.approx(2.7764451 * math.sqrt(0.5), rel=1e-6)
    assert finding.mean - finding.low == pytest.approx(2.7764451 * math.sqrt(0.5), rel=1e-6)


def test_flipped_gate_turns_red() -> None:
    values = [0.4, 0.5, 0.6, 0.5, 0.5]
    assert Gate("d", "d", above=0.0).evaluate(values, Level.SCALED).verdict is REPRODUCED
    assert Gate("d", "d", below=0.0).evaluate(values, Level.SCALED).verdict is NOT


def test_reported_quantity_has_no_verdict() -> None:
    assert Gate("d", "d").evaluate([1.0] * 5, Level.SCALED).verdict is None


def test_extreme_is_the_value_nearest_to_the_bound() -> None:
    assert BELOW.evaluate([0.1, 0.9, 0.3], Level.EXACT).extreme == 0.9
    assert ABOVE.evaluate([5.0, 1.5, 3.0], Level.EXACT).extreme == 1.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"above": 1.0, "below": 2.0}, "got both"),
        ({"above": math.nan}, "finite bound, got nan"),
        ({"below": math.inf}, "finite bound, got inf"),
    ],
)
def test_contradictory_gate_is_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Gate("d", "d", **options)


def test_no_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs at least one value"):
        ABOVE.evaluate([], Level.SCALED)


def test_claim_is_as_good_as_its_weakest_gate() -> None:
    order = [Verdict.NOT_RUN, NOT, Verdict.NO_VERDICT, DIRECTION, REPRODUCED]
    for index, verdict in enumerate(order):
        assert worst(order[index:]) is verdict
        assert worst(reversed(order[index:])) is verdict
    assert worst([]) is Verdict.NO_VERDICT
