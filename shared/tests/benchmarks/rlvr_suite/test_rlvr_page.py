"""The page of the suite `rlvr`, from a small record."""

from collections.abc import Callable
from pathlib import Path

import pytest

from corollary.benchmarks import RecordError, find_suite, pages
from corollary.benchmarks.provenance import first_paragraph
from corollary.benchmarks.records import write_record
from corollary.benchmarks.rlvr.measured import measure
from corollary.benchmarks.rlvr.plan import Cell, RLVRPlan
from corollary.cli import main
from corollary.runs import Run, RunRecord, RunStore

SUITE = find_suite("rlvr")


@pytest.fixture
def content(plan: RLVRPlan, store: RunStore, records: dict[str, RunRecord]) -> dict:
    return {
        "suite": "rlvr",
        "budget": "full",
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"cpu": "Abacus", "cores": 2, "memory_gib": 8.0},
        "workers": 2,
        **measure(plan, store, records, {}),
        "plots": ["digit-sum.png"],
    }


def tables(page: str) -> list[list[list[str]]]:
    """The tables of a page, each a list of rows of cells."""
    found: list[list[list[str]]] = [[]]
    for line in page.splitlines():
        if line.startswith("| "):
            found[-1].append([cell.strip() for cell in line[1:-1].split(" | ")])
        elif found[-1] and not line.startswith("|"):
            found.append([])
    return [table for table in found if table]


def test_scores_have_the_best_first_and_those_without_figures_last(content: dict) -> None:
    scores, _, _ = tables(SUITE.page(content))
    assert scores[0] == ["method", "pass@1", "pass@4", "distinct correct", "seeds"]
    assert [row[0] for row in scores[1:]] == ["clip-higher", "grpo", "warm start", "broken"]
    assert scores[1][1].startswith("0.9 [-0.7, 2.5]")
    assert scores[3][1:3] == ["0.25 [0.25, 0.25]", "0.6667 [0.6667, 0.6667]"]
    assert scores[4][1:] == ["not run", "", "", ""]


def test_differences_are_to_the_baseline_which_is_not_among_them(content: dict) -> None:
    page = SUITE.page(content)
    _, differences, _ = tables(page)
    assert "Minus grpo's at equal seed:" in page
    assert differences[0][1:3] == ["pass@1", "pass@4"]
    assert {row[0]: row[1] for row in differences[1:]} == {
        "clip-higher": "0.25 [0.25, 0.25]",
        "warm start": "-0.4 [-2.0, 1.2]",
    }
    assert differences[2][4:] == ["", "", ""]  # the warm start has no training to compare


def test_training_has_the_entropy_along_the_run_and_how_many_seeds_reached_the_reward(
    content: dict, plan: RLVRPlan, cell: Cell, store: RunStore, put: Callable[..., RunRecord]
) -> None:
    _, _, training = tables(SUITE.page(content))
    assert training[0][1:6] == ["entropy 0%", "25%", "50%", "75%", "100%"]
    assert {row[0]: row[1] for row in training[1:]} == {"clip-higher": "2", "grpo": "1.5"}
    assert training[0][7] == "steps to reward 0.3"
    assert {row[7] for row in training[1:]} == {"0 of 2 seeds"}
    put(cell.recipes["grpo"], 0, rewards=[0.25] * 10 + [0.5] * 20)  # mean 0.3 after two of ten
    put(cell.recipes["grpo"], 1, rewards=[0.25] * 14 + [0.5] * 16)
    _, _, training = tables(SUITE.page(content | measure(plan, store, {}, {})))
    assert {row[0]: row[7] for row in training[1:]}["grpo"] == "14"


def test_the_page_says_what_was_run_where_and_with_which_options(content: dict) -> None:
    content["tasks"][0]["rows"][1]["options"] = {"mu": 2.5, "cap": None}
    page = SUITE.page(content)
    assert "Budget full; 2026-01-02;" in page
    assert "Abacus, 2 cores, 8.0 GiB, 2 runs at a time" in page
    assert (
        "A Llama of 100,032 parameters after 20 supervised steps. 33 prompts for training, 11 held out with 4 samples "
        "each, completions of up to 6 tokens. 2 steps of 32 prompts with 8 completions each in 4 mini-batches, AdamW "
        "with learning rate 6e-4, seeds 0 to 1."
    ) in page
    assert "on seeds from\n1001" in page
    assert "- broken not run: ImportError: no \\| such &lt;module>" in page
    assert "Options beside the defaults: grpo: mu 2.5, cap None." in page
    assert "](rlvr/digit-sum.png)" in page


def test_a_method_that_changed_nothing_is_named(content: dict) -> None:
    assert "the same as" not in SUITE.page(content)
    _, baseline, other, _ = content["tasks"][0]["rows"]
    other["per_seed"] = [entry | {"run": "another", "step_s": 9.0} for entry in baseline["per_seed"]]
    line = "- the same as grpo at every seed, since the rule changed nothing: clip-higher\n"
    assert line in SUITE.page(content)
    other["per_seed"][1]["entropy 75%"] += 1e-9
    assert "the same as" not in SUITE.page(content)


def test_formulas_of_a_description_are_those_of_markdown() -> None:
    class Described:
        r"""GRPO with :math:`A_i = R_i`,

        and more.
        """

    assert first_paragraph(Described) == "GRPO with $A_i = R_i$,"


def test_conclusions_name_the_limits_of_the_intervals(content: dict) -> None:
    page = SUITE.page(content)
    for limit in ("same starting policy", "exclude zero by chance", "This favours GRPO", "Compare within a task only"):
        assert limit in page


def test_a_method_that_failed_has_a_row_and_a_reason(
    plan: RLVRPlan, cell: Cell, store: RunStore, put: Callable[..., RunRecord], content: dict
) -> None:
    for seed in cell.seeds:
        put(cell.recipes["grpo"], seed)
    store.path(Run(cell.recipes["clip-higher"], 1)).joinpath("done.json").unlink()
    page = SUITE.page(content | measure(plan, store, {}, {}))
    assert ["clip-higher", "failed", "", "", ""] in tables(page)[0]
    assert "- clip-higher failed: its runs are not complete" in page


def test_tables_write_the_page_and_find_it_stale(
    toy: Path, toy_checkout: Path, content: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_checkout)
    record = toy_checkout / "docs" / "benchmarks" / "rlvr.json"
    write_record(content, record)
    assert main(["tables"]) == 0
    assert record.with_suffix(".md").read_text() == SUITE.page(content)
    assert main(["tables", "--check"]) == 0
    content["tasks"][0]["rows"][1]["mean"]["pass@1"]["mean"] = 0.1
    write_record(content, record)
    capsys.readouterr()
    assert main(["tables", "--check"]) == 1
    assert capsys.readouterr().out == "stale: docs/benchmarks/rlvr.md; run `corollary tables`\n"


def test_a_record_that_lacks_something_is_refused_with_its_name(tmp_path: Path, content: dict) -> None:
    record = tmp_path / "docs" / "benchmarks" / "rlvr.json"
    record.parent.mkdir(parents=True)
    del content["tasks"][0]["target"]
    write_record(content, record)
    with pytest.raises(RecordError, match=r"rlvr\.json is no benchmark record: KeyError: 'target'"):
        pages(tmp_path)
