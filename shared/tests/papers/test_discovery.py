import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corollary.papers import PaperLoadError, paper, paper_slugs, paper_source, papers

Install = Callable[..., Path]

CLAIMS = """
from corollary.papers import Claim, Level, Paper
PAPER = Paper(slug="{slug}", title="T", authors=("A",), arxiv="2601.00001", year=2026, url_code="",
              bibtex="@a{{b}}",
              claims=(Claim(id="C1", statement="s", source="t", level=Level.PAPER, needs="a cluster"),))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with an entry point on the path, as an installer does."""

    def install_package(slug: str, code: str, *, package: str, value: str = "", checkout: bool = False) -> Path:
        root = tmp_path / slug / ("src" if checkout else "site")
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
        (root / package / "claims.py").write_text(code)
        info = root / f"corollary_{package}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: corollary-{package}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(f"[corollary.papers]\n{slug} = {value or package + '.claims:PAPER'}\n")
        if checkout:
            (root.parent / "pyproject.toml").write_text(f'[project]\nname = "corollary-{package}"\n')
        monkeypatch.syspath_prepend(str(root))
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        return root

    return install_package


def test_installed_paper_is_found_and_loaded(install: Install) -> None:
    install("found-paper", CLAIMS.format(slug="found-paper"), package="found_one")
    assert "found-paper" in paper_slugs()
    assert paper("found-paper").claim("C1").needs == "a cluster"


def test_listing_slugs_imports_no_paper(install: Install) -> None:
    install("lazy-paper", "raise SystemError", package="lazy_one")
    assert "lazy-paper" in paper_slugs()
    assert "lazy_one" not in sys.modules


def test_unknown_slug_names_near_matches(install: Install) -> None:
    install("found-paper", CLAIMS.format(slug="found-paper"), package="found_two")
    with pytest.raises(ValueError, match="unknown paper 'fuond-paper'; did you mean 'found-paper'"):
        paper("fuond-paper")


@pytest.mark.parametrize(
    ("code", "value", "reason"),
    [
        ("import no_such_module", "", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('two\\nlines')", "", "RuntimeError: two lines"),
        ("PAPER = 3", "", "is no Paper but int"),
        (CLAIMS.format(slug="other"), "", "calls itself 'other'"),
        ("", "absent_module:PAPER", "No module named 'absent_module'"),
    ],
)
def test_broken_paper_is_named_with_its_reason(install: Install, code: str, value: str, reason: str) -> None:
    install("broken-paper", code, package="broken_one", value=value)
    with pytest.raises(PaperLoadError, match=f"paper 'broken-paper' cannot be loaded: .*{reason}"):
        paper("broken-paper")
    with pytest.raises(PaperLoadError, match="broken-paper"):
        papers()


def test_two_packages_with_one_slug_are_both_named(install: Install, tmp_path: Path) -> None:
    install("twin-paper", CLAIMS.format(slug="twin-paper"), package="twin_one")
    (tmp_path / "twin-paper").rename(tmp_path / "first")
    sys.path.insert(0, str(tmp_path / "first" / "site"))
    install("twin-paper", CLAIMS.format(slug="twin-paper"), package="twin_two")
    with pytest.raises(PaperLoadError, match="several packages provide it: corollary-twin_one, corollary-twin_two"):
        paper("twin-paper")


def test_results_are_in_the_checkout_or_in_the_wheel(install: Install) -> None:
    root = install("edited-paper", CLAIMS.format(slug="edited-paper"), package="edited_one", checkout=True)
    assert paper_source("edited-paper").checkout == root.parent
    assert paper_source("edited-paper").results == root.parent / "results"
    root = install("wheel-paper", CLAIMS.format(slug="wheel-paper"), package="wheel_one")
    assert paper_source("wheel-paper").checkout is None
    assert paper_source("wheel-paper").results == root / "wheel_one" / "results"
