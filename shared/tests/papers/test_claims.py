from collections.abc import Callable
from typing import Any

import pytest

from corollary.papers import Budget, Claim, Gate, Level, Paper

SEEDS = {Budget.SMOKE: (0,), Budget.QUICK: (0, 1), Budget.FULL: (0, 1, 2, 3, 4)}


def claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "id": "C1",
        "statement": "It rises.",
        "source": "Table 1",
        "level": Level.SCALED,
        "gates": (Gate("rise", "rise", above=0.0),),
        "measure": lambda measurement: {"rise": 1.0},
        "seeds": SEEDS,
    }
    return Claim(**{**fields, **changes})


def paper(**changes: Any) -> Paper:
    fields: dict[str, Any] = {
        "slug": "rising",
        "title": "It Rises",
        "authors": ("A. Author",),
        "arxiv": "2601.00001",
        "year": 2026,
        "url_code": "",
        "bibtex": "@article{rising2026}",
        "claims": (claim(), claim(id="C10"), claim(id="C11")),
    }
    return Paper(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "C 1"}, "id must be"),
        ({"statement": ""}, "C1: the statement is empty"),
        ({"gates": ()}, "C1: a claim with measure needs at least one gate"),
        ({"gates": (Gate("a", "a"), Gate("a", "b"))}, "C1: every gate needs a quantity of its own"),
        ({"measure": None}, "C1: a claim without measure must say what it needs"),
        ({"seeds": {}}, "C1: budget smoke needs distinct seeds"),
        ({"seeds": {**SEEDS, Budget.QUICK: (1, 1)}}, "C1: budget quick needs distinct seeds"),
        ({"seeds": {**SEEDS, Budget.FULL: (0, 1)}}, "C1: budget full needs at least 5 seeds"),
        (
            {"level": Level.EXACT, "runs": lambda budget, seed: {}},
            "C1: a claim of level exact trains nothing",
        ),
    ],
)
def test_contradictory_claim_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        claim(**changes)


def test_exact_claim_has_one_seed_by_default() -> None:
    assert claim(level=Level.EXACT, seeds={}).seeds_for(Budget.FULL) == (0,)


def test_claim_that_is_not_run_asks_for_no_runs() -> None:
    def runs(budget: Budget, seed: int) -> Any:
        raise AssertionError("asked for runs")

    waiting = claim(level=Level.PAPER, measure=None, needs="8 GPUs", runs=runs)
    assert waiting.runs_for(Budget.FULL, 0) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slug": "Rising"}, "slug must be lower-case words"),
        ({"claims": ()}, "claims need distinct ids"),
        ({"claims": (claim(), claim(id="c1"))}, "claims need distinct ids"),
    ],
)
def test_contradictory_paper_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        paper(**changes)


def test_claim_is_found_in_any_case() -> None:
    assert paper().claim("c10").id == "C10"


def test_unknown_claim_names_near_matches() -> None:
    find: Callable[[str], Claim] = paper().claim
    with pytest.raises(
        ValueError, match=r"unknown claim of rising 'C12'; did you mean .*'C1'.* There are: C1, C10, C11"
    ):
        find("C12")
