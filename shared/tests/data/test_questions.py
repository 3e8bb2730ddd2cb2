import os
import re

import pytest

from corollary.data import DATASETS, QUESTIONS, fetch, find_file
from corollary.tasks.questions import every_nth_held_out, read_questions, registered_questions


def test_the_files_of_the_reasoning_papers_are_known():
    assert list(QUESTIONS) == ["GSM8K-train", "GSM8K-test", "MATH-train-12000", "MATH-500"]
    assert all(entry.name == name for name, entry in QUESTIONS.items())


@pytest.mark.parametrize("entry", QUESTIONS.values(), ids=lambda entry: entry.name)
def test_every_entry_names_a_version_that_cannot_change_and_its_licence(entry):
    assert re.search(r"/[0-9a-f]{40}/", entry.url)
    assert re.fullmatch("[0-9a-f]{64}", entry.sha256)
    assert entry.licence == "MIT"
    assert "arXiv:" in entry.attribution


def test_no_file_name_digest_or_name_is_that_of_another():
    entries = [*DATASETS.values(), *QUESTIONS.values()]
    for field in ("name", "file", "sha256"):
        assert len({getattr(entry, field).casefold() for entry in entries}) == len(entries)


def test_lookup_finds_series_and_questions_in_any_case():
    assert find_file("gsm8k-TEST") is QUESTIONS["GSM8K-test"]
    assert find_file("etth1") is DATASETS["ETTh1"]
    with pytest.raises(ValueError, match="unknown data set 'GSM8K'; did you mean 'GSM8K-test'"):
        find_file("GSM8K")


def test_a_file_that_is_not_the_registered_one_is_refused(tmp_path):
    (tmp_path / "gsm8k_test.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    with pytest.raises(ValueError, match="is not the registered GSM8K-test: expected SHA-256 3730d312"):
        fetch("gsm8k-test", folder=tmp_path)


def test_lines_end_at_line_feeds_only(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes('\ufeff{"question": "a\u2028b", "answer": 3}\r\n\n{"question": "c", "answer": 2.5}'.encode())
    found = read_questions(path)
    assert [(row.question, row.answer, row.where) for row in found] == [
        ("a\u2028b", "3", f"{path}:1"),
        ("c", "2.5", f"{path}:3"),
    ]


def test_the_last_of_every_n_is_held_out():
    assert every_nth_held_out(list(range(1, 8)), 3) == ([1, 2, 4, 5, 7], [3, 6])  # ty: ignore[invalid-argument-type]


FOLDER = os.environ.get("COROLLARY_DATA")


@pytest.mark.skipif(not FOLDER, reason="COROLLARY_DATA names no folder with data sets")
@pytest.mark.parametrize("name", ["GSM8K-train", "GSM8K-test", "MATH-500"])
def test_real_files_have_the_rows_that_are_on_record(name, monkeypatch):
    monkeypatch.setenv("COROLLARY_DATA", str(FOLDER))
    assert len(registered_questions(name)) == QUESTIONS[name].rows
