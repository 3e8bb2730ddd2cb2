"""Recorded results must fit the claims as they are now."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corollary.papers import Budget, Claim, Gate, Level, Measurement, Paper, Verdict
from corollary.reproduce import ResultFileError, write_result
from corollary.reproduce.measuring import Measured, Provenance, judge, not_run
from corollary.reproduce.recorded import recorded_results

NOWHERE = Provenance(commit=None, versions={}, machine={})


def nothing(measurement: Measurement) -> Mapping[str, float]:
    return {}


CLAIM = Claim(
    id="C1",
    statement="Counting by five ends elsewhere",
    source="Figure 3",
    level=Level.SCALED,
    paper="elsewhere in 3 of 3 runs",
    gates=(Gate("gap", "gap", above=0.0, unit="steps"), Gate("five", "last value by five")),
    measure=nothing,
    seeds={Budget.SMOKE: (0,), Budget.QUICK: (0, 1), Budget.FULL: (0, 1, 2, 3, 4)},
)


def paper_of(*claims: Claim) -> Paper:
    return Paper(
        slug="toy-paper",
        title="Counting",
        authors=("A. Author",),
        arxiv="2601.00001",
        year=2026,
        url_code="",
        bibtex="",
        claims=claims,
    )


def record(folder: Path, claim: Claim = CLAIM, budget: Budget = Budget.FULL) -> None:
    measured = {seed: Measured({"gap": 1.0 + seed, "five": float(seed)}, 0.1) for seed in claim.seeds_for(budget)}
    write_result(judge(paper_of(claim), claim, budget, measured, {}, NOWHERE), folder)


@pytest.mark.parametrize("budget", [Budget.QUICK, Budget.FULL])
def test_a_result_of_the_claim_as_it_is_now_is_read(tmp_path: Path, budget: Budget) -> None:
    record(tmp_path, budget=budget)
    (result,) = recorded_results(paper_of(CLAIM), tmp_path)
    assert (result.claim, result.budget) == ("C1", budget)
    assert [finding.values[0] for finding in result.findings] == [1.0, 0.0]


def test_a_claim_without_a_file_is_not_run(tmp_path: Path) -> None:
    other = replace(CLAIM, id="C2")
    record(tmp_path)
    assert [item.verdict for item in recorded_results(paper_of(other, CLAIM), tmp_path)] == [
        Verdict.NOT_RUN,
        Verdict.REPRODUCED,
    ]


def gates(**changes: Any) -> tuple[Gate, ...]:
    return (replace(CLAIM.gates[0], **changes), CLAIM.gates[1])


CHANGES = {
    "statement": (
        {"statement": "Counting by six\nends elsewhere"},
        r"statement 'Counting by five ends elsewhere', now 'Counting by six\nends elsewhere'",
    ),
    "source": ({"source": "Figure 4"}, "source 'Figure 3', now 'Figure 4'"),
    "figure": (
        {"paper": "elsewhere in 4 of 4 runs"},
        "paper's figure 'elsewhere in 3 of 3 runs', now 'elsewhere in 4 of 4 runs'",
    ),
    "level": ({"level": Level.PAPER}, "level 'scaled', now 'paper'"),
    "seeds": (
        {"seeds": {**CLAIM.seeds, Budget.FULL: (0, 1, 2, 3, 5)}},
        "seeds (0, 1, 2, 3, 4), now (0, 1, 2, 3, 5)",
    ),
    "gate gone": ({"gates": CLAIM.gates[:1]}, "gates ['gap', 'five'], now ['gap']"),
    "gate new": (
        {"gates": (*CLAIM.gates, Gate("six", "last value by six"))},
        "gates ['gap', 'five'], now ['gap', 'five', 'six']",
    ),
    "gate order": ({"gates": CLAIM.gates[::-1]}, "gates ['gap', 'five'], now ['five', 'gap']"),
    "bound": ({"gates": gates(above=0.5)}, "above of gate gap 0.0, now 0.5"),
    "no bound": ({"gates": gates(above=None)}, "above of gate gap 0.0, now None"),
    "side": (
        {"gates": gates(above=None, below=0.0)},
        "above of gate gap 0.0, now None (and 1 more)",
    ),
    "label": ({"gates": gates(label="difference")}, "label of gate gap 'gap', now 'difference'"),
    "unit": ({"gates": gates(unit="")}, "unit of gate gap 'steps', now ''"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_result_of_a_claim_that_has_changed_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    record(tmp_path)
    with pytest.raises(ResultFileError) as caught:
        recorded_results(paper_of(replace(CLAIM, **change)), tmp_path)
    assert str(caught.value) == f"{tmp_path / 'C1.json'} no longer fits C1: recorded with {words}; record it again"
    assert len(str(caught.value).splitlines()) == 1


def test_seeds_of_another_budget_may_change(tmp_path: Path) -> None:
    record(tmp_path, budget=Budget.QUICK)
    changed = replace(CLAIM, seeds={**CLAIM.seeds, Budget.FULL: (0, 1, 2, 3, 5)})
    assert recorded_results(paper_of(changed), tmp_path)[0].seeds == (0, 1)
    with pytest.raises(ResultFileError, match=r"seeds \(0, 1\), now \(0, 2\)"):
        recorded_results(paper_of(replace(CLAIM, seeds={**CLAIM.seeds, Budget.QUICK: (0, 2)})), tmp_path)


def test_a_measured_result_of_a_claim_that_is_not_measured_any_more_is_refused(tmp_path: Path) -> None:
    record(tmp_path)
    unmeasured = replace(CLAIM, measure=None, gates=(), seeds={}, needs="8 GPUs")
    with pytest.raises(ResultFileError, match="no longer fits C1"):
        recorded_results(paper_of(unmeasured), tmp_path)


def test_a_result_without_findings_has_no_gates_to_differ_and_still_a_statement(tmp_path: Path) -> None:
    write_result(not_run(paper_of(CLAIM), CLAIM, Budget.FULL, error="no luck"), tmp_path)
    assert recorded_results(paper_of(replace(CLAIM, gates=gates(above=0.5))), tmp_path)[0].error == "no luck"
    with pytest.raises(ResultFileError, match="recorded with statement 'Counting"):
        recorded_results(paper_of(replace(CLAIM, statement="Another")), tmp_path)
