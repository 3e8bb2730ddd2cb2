import dataclasses
import re
import subprocess
import sys

import pytest

from corollary.data import DATASETS, Dataset, describe, find_dataset


def test_the_data_sets_of_the_forecasting_papers_are_known():
    assert list(DATASETS) == ["ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "ECL", "Traffic", "Exchange"]
    assert all(entry.name == name for name, entry in DATASETS.items())


@pytest.mark.parametrize("name", ["ETTh2", "etth2", "ETTH2"])
def test_lookup_ignores_case(name):
    assert find_dataset(name) is DATASETS["ETTh2"]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown data set 'wether'; did you mean 'Weather'\? There are: ETTh1, "):
        find_dataset("wether")


@pytest.mark.parametrize("entry", DATASETS.values(), ids=lambda entry: entry.name)
def test_every_entry_names_a_version_that_cannot_change(entry):
    assert entry.url is None or re.search(r"/[0-9a-f]{40}/", entry.url)


@pytest.mark.parametrize("entry", DATASETS.values(), ids=lambda entry: entry.name)
def test_what_was_not_read_from_the_file_is_said(entry):
    read_here = {"ETTh1", "ETTh2", "ETTm1", "Exchange"}
    assert ("several independent public repositories" in entry.note) == (entry.name not in read_here)


def test_files_and_digests_are_those_of_one_data_set_each():
    assert len({entry.file for entry in DATASETS.values()}) == len(DATASETS)
    assert len({entry.sha256 for entry in DATASETS.values()}) == len(DATASETS)


def test_the_registry_cannot_be_changed_by_accident():
    with pytest.raises(TypeError):
        DATASETS["ETTh1"] = DATASETS["ETTh2"]  # ty: ignore[invalid-assignment]
    with pytest.raises(dataclasses.FrozenInstanceError):
        DATASETS["ETTh1"].rows = 1  # ty: ignore[invalid-assignment]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "../ETTh1.csv"}, "file must be a plain file name .* got '../ETTh1.csv'"),
        ({"file": "ETTh1.csv.gz"}, "file must be .* without .gz, got 'ETTh1.csv.gz'"),
        ({"url": "ftp://example.org/x"}, "url must start with http"),
        ({"sha256": "F1" * 32}, "sha256 must be 64 lower-case hexadecimal digits"),
        ({"sha256": "f1"}, "sha256 must be 64"),
        ({"rows": 0}, "rows must be >= 1, got 0"),
        ({"columns": -1}, "columns must be >= 1, got -1"),
    ],
)
def test_an_entry_refuses_what_it_cannot_mean(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DATASETS["ETTh1"], **change)


def test_the_description_names_shape_licence_and_authors_of_each():
    lines = describe().splitlines()
    assert len(lines) == 2 + len(DATASETS)
    assert "| ETTh2 | 17,420 x 7 | 1h | 2.4 MB | CC BY-ND 4.0: redistribute the unmodified file only" in lines[3]
    assert "Zhou et al." in lines[3]


def test_every_field_is_documented():
    # The description of a field is the string below it; `Dataset` must not gain one without.
    source = sys.modules[Dataset.__module__].__file__
    assert source is not None
    with open(source, encoding="utf-8") as file:
        text = file.read()
    for field in dataclasses.fields(Dataset):
        assert re.search(rf'\n    {field.name}: .*\n    """', text), field.name


def test_importing_the_registry_loads_nothing_heavy():
    code = (
        "import corollary.data, sys; print(*{'torch', 'numpy', 'pandas', 'pooch', 'requests', 'rich'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
