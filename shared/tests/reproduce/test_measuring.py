from dataclasses import replace
from typing import Any

import pytest

from corollary.papers import Budget, Claim, Gate, Level, Paper, Verdict
from corollary.reproduce.measuring import Measured, Provenance, judge
from corollary.runs import RunRecord

SEEDS = dict.fromkeys(Budget, (0, 1, 2, 3, 4))
CLAIM = Claim(
    id="C1",
    statement="It rises.",
    source="Table 1",
    level=Level.SCALED,
    gates=(Gate("rise", "rise", above=0.0), Gate("fall", "fall", below=0.0), Gate("more", "more")),
    measure=lambda measurement: {},
    seeds=SEEDS,
)
PAPER = Paper(slug="toy", title="T", authors=("A",), arxiv="1", year=2026, url_code="", bibtex="@a{b}", claims=(CLAIM,))
PROVENANCE = Provenance(commit="abc", versions={}, machine={})


def record(key: str, seconds: float, commit: str | None = "abc") -> RunRecord:
    return RunRecord(
        key=key,
        recipe="r",
        version=1,
        config={},
        seed=0,
        seconds=seconds,
        started="",
        finished="",
        environment={"commit": commit},
    )


def judged(fall: float = -1.0, **options: Any) -> Any:
    measured = {seed: Measured({"rise": 1.0, "fall": fall, "more": 0.0}, 0.5) for seed in range(5)}
    arguments = {"records": {}, "provenance": PROVENANCE, **options}
    return judge(PAPER, CLAIM, Budget.FULL, measured, **arguments)


def test_seconds_are_the_measurement_and_each_run_once() -> None:
    shared, own, warm = record("a", 10.0), record("b", 100.0), record("w", 1000.0)
    records = {0: {"x": shared, "y": own}, 1: {"x": shared}}
    assert judged(records=records, required={"w": warm}).seconds == pytest.approx(2.5 + 1110.0)


def test_other_commits_of_the_runs_are_told() -> None:
    records = {0: {"x": record("a", 1.0), "y": record("b", 1.0, "old"), "z": record("c", 1.0, None)}}
    assert judged(records=records).run_commits == ("old", "unknown")


def test_weakest_gate_decides_and_reported_ones_do_not() -> None:
    assert judged().verdict is Verdict.REPRODUCED
    assert judged(fall=1.0).verdict is Verdict.NOT_REPRODUCED


def test_values_keep_the_order_of_the_seeds() -> None:
    measured = {seed: Measured({"rise": float(seed), "fall": 0.0, "more": 0.0}, 0.0) for seed in (3, 1, 2)}
    result = judge(replace(PAPER), CLAIM, Budget.QUICK, measured, {}, PROVENANCE)
    assert result.seeds == (3, 1, 2)
    assert result.findings[0].values == (3.0, 1.0, 2.0)
