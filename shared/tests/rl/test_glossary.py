"""The README's tables are the core's algorithms, its tasks, and the glossaries of what is logged."""

import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

from corollary.rl import METRICS, make_algorithm

README = Path(__file__).resolve().parents[2] / "README.md"


PROJECT = tomllib.loads((README.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ALGORITHMS = PROJECT["entry-points"]["corollary.algorithms"]


def first_columns(heading):
    """What stands in backticks in the first column of each table of a section, by the column's title."""
    _, _, section = README.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    columns = {}
    for table in re.findall(r"(?:^\|.*\n)+", section.partition("\n## ")[0], flags=re.MULTILINE):
        title, _, *cells = [row.split("|")[1].strip() for row in table.splitlines()]
        columns[title] = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    return columns


def test_every_metric_of_the_trainer_is_in_the_readme_once_and_nothing_else_is():
    assert sorted(first_columns("Metrics of the reference trainer")["metric"]) == sorted(METRICS)


def test_every_algorithm_and_every_task_of_the_core_is_in_the_readme():
    assert sorted(first_columns("Algorithms")["name"]) == sorted(ALGORITHMS)
    assert sorted(first_columns("Tasks")["name"]) == sorted(PROJECT["entry-points"]["corollary.tasks"])


def test_every_metric_of_the_algorithms_is_in_the_readme_once_and_nothing_else_is():
    logged = {name for algorithm in ALGORITHMS for name in make_algorithm(algorithm).metrics}
    assert sorted(first_columns("Algorithms")["metric"]) == sorted(logged)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_logs_its_glossary_and_no_more(easy_trainer, name):
    algorithm = make_algorithm(name)
    assert set(easy_trainer(algorithm).step()) == set(METRICS) | set(algorithm.metrics)
    assert not set(METRICS) & set(algorithm.metrics)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_paper_in_the_readme_is_the_one_in_the_source(name):
    (row,) = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    (identifier,) = re.findall(r"\[(\d{4}\.\d{5})\]", row)
    assert f"arxiv.org/abs/{identifier}" in row
    module = importlib.import_module(type(make_algorithm(name)).__module__)
    assert f"arXiv:{identifier}" in inspect.getsource(module)
