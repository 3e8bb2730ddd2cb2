"""Records, their pages, and what `corollary tables` makes of them."""

import json
from pathlib import Path

import pytest

from corollary.benchmarks import RecordError, find_suite, pages, read_record
from corollary.benchmarks.records import write_record
from corollary.cli import main

SUITE = find_suite("online-forecasting")


def table(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_table_has_the_best_method_first_and_those_without_figures_last(content: dict) -> None:
    content["settings"][0]["rows"][2] |= {"mse": 1.0, "step_ms": 0.5, "difference": None}
    content["settings"][0]["rows"][2]["per_seed"] = [{"mse": 1.0, "mae": 0.5}]
    head, *rows = table(SUITE.page(content))
    assert head == ["method", "MSE", "MAE", "MSE minus gd's [95 %]", "ms per step", "seeds"]
    assert [row[0] for row in rows] == ["er", "gd", "frozen", "fsnet"]


def test_rows_read_as_measured(content: dict) -> None:
    rows = {row[0]: row[1:] for row in table(SUITE.page(content))}
    assert rows["gd"] == ["2.500 (0.707)", "1.250 (0.354)", "baseline", "0.75", "2"]
    assert rows["frozen"][:2] == ["5.000 (1.414)", "2.500 (0.707)"]
    assert rows["frozen"][2].startswith("2.50 [")
    assert rows["er"] == ["failed", "", "", "", ""]


def test_a_method_that_diverged_says_so(content: dict) -> None:
    frozen = content["settings"][0]["rows"][0]
    frozen |= {"mse": None, "difference": None}
    frozen["per_seed"][1] |= {"mse": None, "mae": None}
    rows = {row[0]: row[1:] for row in table(SUITE.page(content))}
    assert rows["frozen"] == ["diverged in 1 of 2 seeds"] * 2 + ["", "0.75", "2"]


def test_the_page_says_where_it_comes_from_and_what_did_not_run(content: dict) -> None:
    page = SUITE.page(content)
    assert "Budget full; 2026-01-02;" in page
    assert "Abacus, 2 cores, memory unknown, 2 runs at a time" in page
    assert "`0123456789`" in page
    assert "- ETTh2: it is on the moon \\| far &lt;away>" in page
    assert "- fsnet not run: needs convolutions" in page
    assert "![switching-levels, linear, H = 12](online-forecasting/switching-levels-linear-12.png)" in page


def test_a_record_is_read_back_as_it_was_written(content: dict, tmp_path: Path) -> None:
    path = tmp_path / "online-forecasting.json"
    write_record(content, path)
    assert read_record(path, suite="online-forecasting") == content


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "Expecting value"),
        ('{"schema": 99}', "expected an object of schema 1"),
        ('{"schema": 1, "suite": "other"}', "expected the suite online-forecasting, got other"),
        ('{"schema": 1, "suite": "online-forecasting"}', "KeyError: "),
    ],
)
def test_a_damaged_record_is_refused_with_its_name(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "docs" / "benchmarks" / "online-forecasting.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(RecordError, match=rf"online-forecasting\.json is no benchmark record: {complaint}"):
        pages(tmp_path)


def test_without_a_record_there_is_no_page(tmp_path: Path) -> None:
    assert pages(tmp_path) == {}


def test_tables_write_the_page_and_find_it_stale(
    toy: Path, toy_checkout: Path, content: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_checkout)
    record = toy_checkout / "docs" / "benchmarks" / "online-forecasting.json"
    write_record(content, record)
    assert main(["tables"]) == 0
    assert record.with_suffix(".md").read_text() == SUITE.page(content)
    assert main(["tables", "--check"]) == 0
    changed = json.loads(record.read_text())
    changed["settings"][0]["rows"][1]["per_seed"][0]["mse"] = 2.25
    record.write_text(json.dumps(changed))
    capsys.readouterr()
    assert main(["tables", "--check"]) == 1
    assert capsys.readouterr().out == "stale: docs/benchmarks/online-forecasting.md; run `corollary tables`\n"
    record.write_text("{}")
    assert main(["tables"]) == 2
    assert "online-forecasting.json is no benchmark record" in capsys.readouterr().err
