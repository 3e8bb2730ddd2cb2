"""Every package has what the paper card promises: headings, claims, results, glossary and citation."""

import ast
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from corollary.papers import Budget, Level, Paper, paper
from corollary.reproduce import read_result
from corollary.reproduce.recorded import recorded_results

ROOT = Path(__file__).resolve().parents[1]
SLUGS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
USE = "Use it in your own code"
HEADINGS = [
    "Claims",
    "What it is",
    "Install",
    "Run it",
    USE,
    "Method",
    "Hyper-parameters",
    "Metric glossary",
    "Deviations from the paper and the official code",
    "Limits",
    "Cite",
]

pytestmark = pytest.mark.parametrize("slug", SLUGS)


def readme(slug: str) -> str:
    return (ROOT / "packages" / slug / "README.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """The second-level sections of a Markdown text, code blocks left out of the search for headings."""
    found: dict[str, str] = {}
    title, fenced = "", False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if line.startswith("## ") and not fenced:
            title = line.removeprefix("## ").strip()
            found[title] = ""
        elif title:
            found[title] += line + "\n"
    return found


def installed(slug: str) -> Paper:
    return paper(slug)


def test_readme_has_the_fixed_headings_in_order_and_something_under_each(slug):
    found = sections(readme(slug))
    assert [title for title in found if title in HEADINGS] == HEADINGS
    assert [title for title in HEADINGS if not found[title].strip()] == []


def test_readme_starts_with_the_title_of_the_paper(slug):
    first = readme(slug).lstrip().splitlines()[0]
    assert first.startswith("# ")
    assert installed(slug).title.casefold() in " ".join(readme(slug).split())[:1000].casefold()


def test_use_in_own_code_is_shown_as_python(slug):
    assert "```python" in sections(readme(slug))[USE]


def test_claims_table_is_generated(slug):
    table = sections(readme(slug))["Claims"]
    assert "<!-- generated:claims -->" in table
    assert "<!-- /generated -->" in table
    for claim in installed(slug).claims:
        assert re.search(rf"\b{re.escape(claim.id)}\b", table), f"{claim.id} is missing from the table"


def test_paper_has_claims_and_a_measured_one(slug):
    assert any(claim.measure is not None for claim in installed(slug).claims)


def test_results_are_those_of_full_runs_of_every_claim_as_it_is_now(slug):
    results = ROOT / "packages" / slug / "results"
    if not any(results.glob("*.json")):  # a method may land before its claims were run in full, and says so
        judged = [claim for claim in installed(slug).claims if claim.level is not Level.PAPER]
        assert sections(readme(slug))["Claims"].count("**not run**") >= len(judged)
        return
    for claim in installed(slug).claims:
        if claim.level is Level.PAPER:
            continue
        recorded = read_result(results / f"{claim.id}.json")
        assert (recorded.paper, recorded.claim) == (slug, claim.id)
        assert recorded.budget is Budget.FULL
        assert recorded.seeds == claim.seeds_for(Budget.FULL)
        assert recorded.findings
    recorded_results(installed(slug), results)  # refuses what differs from the claim as it is now


def test_no_result_is_left_of_a_claim_that_is_gone(slug):
    known = {claim.id for claim in installed(slug).claims}
    recorded = {path.stem for path in (ROOT / "packages" / slug / "results").glob("*.json")}
    assert recorded <= known


def test_citation_names_the_paper(slug):
    cited = installed(slug)
    assert re.fullmatch(r"\d{4}\.\d{4,5}", cited.arxiv)
    assert cited.arxiv in sections(readme(slug))["Cite"]
    assert cited.arxiv in cited.bibtex
    assert cited.title.casefold() in " ".join(cited.bibtex.replace("{", "").replace("}", "").split()).casefold()
    assert f"corollary cite {slug}" in readme(slug)


def test_every_metric_of_its_algorithms_is_in_the_glossary(slug):
    glossary = sections(readme(slug))["Metric glossary"]
    module = f"corollary_{slug.replace('-', '_')}"
    for point in entry_points(group="corollary.algorithms"):
        if point.module.partition(".")[0] == module:
            missing = [name for name in point.load().metrics if f"`{name}`" not in glossary]
            assert not missing, f"{point.name}: {missing}"


def names_of_tests(folder: Path) -> set[str]:
    """The functions and classes that pytest collects in the test files below the folder."""
    names: set[str] = set()
    for path in folder.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.startswith(("test_", "Test")):
                names.add(node.name)
    return names


def test_every_test_that_the_deviations_name_exists(slug):
    named = re.findall(
        r"`((?:test_|Test)\w*)`", sections(readme(slug))["Deviations from the paper and the official code"]
    )
    folders = [ROOT / "tests", ROOT / "shared" / "tests", *ROOT.glob("packages/*/tests")]
    existing = {name for folder in folders for name in names_of_tests(folder)}
    assert "test_every_test_that_the_deviations_name_exists" in existing
    assert [name for name in named if name not in existing] == []


def test_package_is_typed_and_has_tests_with_planted_bugs(slug):
    folder = ROOT / "packages" / slug
    assert (folder / "src" / f"corollary_{slug.replace('-', '_')}" / "py.typed").is_file()
    assert (folder / "tests" / "test_planted_bugs.py").is_file()
