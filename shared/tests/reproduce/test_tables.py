from dataclasses import replace
from pathlib import Path

import pytest

from corollary.papers import Budget, Gate, Level, Paper, paper
from corollary.reproduce import ClaimResult, ResultFileError, reproduce, write_result
from corollary.reproduce.tables import generate, workspace_root


@pytest.fixture
def recorded(toy: Path, toy_checkout: Path) -> Path:
    """The toy checkout with recorded results for the exact claims and a made-up one for C3."""
    toy_paper = paper("toy-paper")
    results = {item.claim: item for item in reproduce(toy_paper, claim_ids=("C1", "C2"), record=True)}
    values = ([1.0, 2.0, 3.0, 2.0, 2.0], [5.0, 6.0, 7.0, 6.0, 6.0])
    claim = toy_paper.claim("C3")
    gates = claim.gates
    made_up = replace(
        results["C1"],
        claim="C3",
        statement=claim.statement,
        source=claim.source,
        reference=claim.paper,
        level=Level.SCALED,
        budget=Budget.FULL,
        seeds=(0, 1, 2, 3, 4),
        findings=tuple(gate.evaluate(item, Level.SCALED) for gate, item in zip(gates, values, strict=True)),
        commit="0123456789abcdef-dirty",
        date="2026-02-03T04:05:06+00:00",
        runs={"0": {"three": "ab"}},
    )
    write_result(made_up, folder(toy_checkout))
    return toy_checkout


def folder(root: Path) -> Path:
    return root / "packages" / "toy-paper" / "results"


def test_generated_text_is_complete_and_the_same_each_time(recorded: Path) -> None:
    texts = generate(recorded)
    assert texts == generate(recorded)
    assert sorted(str(path.relative_to(recorded)) for path in texts) == [
        "README.md",
        "docs/papers/toy-paper.md",
        "packages/toy-paper/README.md",
    ]
    overview = texts[recorded / "README.md"]
    assert overview.startswith("# All\n\n<!-- generated:papers -->\n| paper |")
    assert overview.endswith("|\n<!-- /generated -->\n")
    row = (
        "| Counting \\| A Toy ([arXiv:2601.00001](https://arxiv.org/abs/2601.00001)) "
        "| [`toy-paper`](packages/toy-paper/) | 2 reproduced | 1 reproduced, 1 not run | 1 not run | quick/full |"
    )
    assert row in overview.splitlines()


def test_claim_table_has_gates_provenance_and_what_is_missing(recorded: Path) -> None:
    text = generate(recorded)[recorded / "packages" / "toy-paper" / "README.md"]
    assert text.startswith("# Toy\n\n<!-- generated:claims -->\n**Level exact**\n")
    assert text.endswith("\n<!-- /generated -->\n\nEnd.\n")
    assert "\nold\n" not in text
    lines = text.splitlines()
    statement = "Counting by five ends elsewhere than counting by three: \\|gap\\| > 0"
    assert f"| **C3** {statement} (Figure 3) | elsewhere in 3 of 3 runs |  | **reproduced** | 0.0 |" in lines
    assert "| &nbsp;&nbsp;gap > 0 |  | 2.00 [1.12, 2.88] steps | reproduced |  |" in lines
    assert "| &nbsp;&nbsp;last value by five (reported) |  | 6.00 [5.12, 6.88] | - |  |" in lines
    assert any(line.startswith("| **C5**") and "needs 8 GPUs and a week | **not run** |" in line for line in lines)
    provenance = next(line for line in lines if line.startswith("C3: "))
    assert "budget full, 5 seeds: 0, 1, 2, 3, 4; commit `0123456789-dirty`; 2026-02-03;" in provenance


def test_page_has_values_per_seed_plots_and_citation(recorded: Path) -> None:
    text = generate(recorded)[recorded / "docs" / "papers" / "toy-paper.md"]
    assert "| gap (steps) | 1 | 2 | 3 | 2 | 2 |" in text
    assert "![counts](../../packages/toy-paper/results/counts.png)" in text
    assert "@article{toy2026," in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nothing", "must have the marker <!-- generated:claims --> once, found 0 times"),
        ("<!-- generated:claims -->\n<!-- /generated -->\n" * 2, "once, found 2 times"),
        ("<!-- generated:claims -->\n", "must have the marker <!-- /generated --> after"),
        ("<!-- generated:claims -->\n<!-- generated:x -->\n<!-- /generated -->", "<!-- /generated --> after"),
        ("<!-- /generated -->\n<!-- generated:claims -->\n", "<!-- /generated --> after"),
        ("<!-- generated:claims -->\n<!-- /generated -->\n<!-- /generated -->", "as many markers"),
    ],
)
def test_bad_markers_are_refused(recorded: Path, text: str, words: str) -> None:
    (recorded / "packages" / "toy-paper" / "README.md").write_text(text)
    with pytest.raises(ValueError, match=words):
        generate(recorded)


def first_result(root: Path) -> ClaimResult:
    from corollary.reproduce import read_result

    return read_result(folder(root) / "C1.json")


def test_result_of_a_claim_that_is_gone_is_refused(recorded: Path) -> None:
    write_result(replace(first_result(recorded), claim="C99"), folder(recorded))
    with pytest.raises(ResultFileError, match=r"C99\.json holds the result of C99, which toy-paper does not claim"):
        generate(recorded)


def test_result_judged_by_other_gates_is_refused(recorded: Path) -> None:
    lenient = Gate("error", "largest error", below=1e-3).evaluate([1e-5], Level.EXACT)
    write_result(replace(first_result(recorded), findings=(lenient,)), folder(recorded))
    changed = r"C1\.json no longer fits C1: recorded with below of gate error 0\.001, now 1e-12; record it again"
    with pytest.raises(ResultFileError, match=changed):
        generate(recorded)


def test_package_that_is_not_installed_is_refused(recorded: Path) -> None:
    other = recorded / "packages" / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text(
        '[project]\nname = "o"\n[project.entry-points."corollary.papers"]\no = "o:P"\n'
    )
    with pytest.raises(ValueError, match="packages/other is not installed from here; run `uv sync --all-packages`"):
        generate(recorded)


def test_root_is_found_from_below_and_missed_outside(recorded: Path, tmp_path: Path) -> None:
    assert workspace_root(folder(recorded)) == recorded
    with pytest.raises(ValueError, match="is not inside a checkout"):
        workspace_root(tmp_path)


def test_statement_cannot_break_the_table(recorded: Path) -> None:
    toy_paper: Paper = paper("toy-paper")
    assert "|" in toy_paper.title
    lines = generate(recorded)[recorded / "README.md"].splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


def test_index_of_the_docs_is_filled_if_there_is_one(recorded: Path) -> None:
    index = recorded / "docs" / "index.md"
    index.parent.mkdir()
    index.write_text("# Docs\n<!-- generated:papers -->\n<!-- /generated -->\n")
    assert "[`toy-paper`](papers/toy-paper.md)" in generate(recorded)[index]
