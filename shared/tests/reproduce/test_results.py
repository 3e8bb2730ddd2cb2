import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corollary.papers import Budget, Gate, Level, Verdict
from corollary.reproduce import ClaimResult, ResultFileError, read_result, read_results, write_result

RESULT = ClaimResult(
    paper="toy-paper",
    claim="C3",
    statement="It rises – always.",
    source="Table 1",
    reference="up by 2",
    level=Level.SCALED,
    budget=Budget.QUICK,
    verdict=Verdict.NO_VERDICT,
    seeds=(0, 1),
    findings=(
        Gate("rise", "rise", above=0.0, unit="nats").evaluate([1.0, 2.0], Level.SCALED),
        Gate("depth", "depth").evaluate([math.nan, -math.inf], Level.SCALED),
    ),
    runs={"0": {"grpo": "ab"}, "1": {"grpo": "cd"}},
    seconds=1.5,
    commit="0123456789-dirty",
    run_commits=("fedcba",),
    date="2026-01-01T00:00:00+00:00",
    versions={"python": "3.11"},
    machine={"cpu": "X", "cores": 2, "gpu": None},
)


def test_result_survives_the_round_trip(tmp_path: Path) -> None:
    path = write_result(RESULT, tmp_path)
    assert path.name == "C3.json"
    # NaN equals nothing, so the comparison is of the text.
    assert read_result(path).to_json() == RESULT.to_json()
    assert math.isnan(read_result(path).findings[1].values[0])


def test_result_file_is_standard_json() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    json.loads(RESULT.to_json(), parse_constant=refuse)


def changed(**changes: Any) -> str:
    content = json.loads(RESULT.to_json())
    for name, value in changes.items():
        if value is KeyError:
            del content[name]
        else:
            content[name] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        ('{"schema": 1', "no JSON"),
        ("[]", "the file must be an object, got list"),
        (changed(schema=2), "schema must be 1, got 2"),
        (changed(claim=KeyError), "the file lacks claim"),
        (changed(verdict="great"), "verdict must be one of .* got 'great'"),
        (changed(level="small"), "level must be one of"),
        (changed(seconds="long"), "seconds must be a number, got 'long'"),
        (changed(seeds=[0, True]), "seeds must hold int, got True"),
        (changed(seeds=[0]), "rise must have a value for each of the 1 seeds, got 2"),
        (changed(findings=[3]), r"findings\[0\] must be an object, got int"),
        (changed(findings=[{}]), r"findings\[0\] lacks quantity"),
        (changed(surprise=1), "the file has unknown fields: surprise"),
        (changed(claim="C4"), "it holds the result of C4"),
    ],
)
def test_unusable_file_is_named_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "C3.json"
    path.write_text(text)
    with pytest.raises(ResultFileError, match=rf"C3\.json is no result file: .*{reason}") as caught:
        read_result(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "C3.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ResultFileError, match="no UTF-8 text at byte 0"):
        read_result(tmp_path / "C3.json")


def test_results_of_another_paper_are_refused(tmp_path: Path) -> None:
    write_result(replace(RESULT, paper="other"), tmp_path)
    with pytest.raises(ResultFileError, match="it belongs to other"):
        read_results(tmp_path, paper="toy-paper")


def test_missing_folder_has_no_results(tmp_path: Path) -> None:
    assert read_results(tmp_path / "absent", paper="toy-paper") == {}
