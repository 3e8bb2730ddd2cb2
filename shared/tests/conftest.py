"""The toy paper: installed as an installer does it, so that tests take the same path as a user's papers."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

TOY = Path(__file__).parent / "toy" / "toy_paper.py"


@pytest.fixture
def toy_checkout(tmp_path: Path) -> Path:
    """A checkout with the package `packages/toy-paper`, and the metadata that an editable install writes."""
    root = tmp_path / "checkout"
    package = root / "packages" / "toy-paper"
    source = package / "src"
    (source / "toy_paper").mkdir(parents=True)
    shutil.copy(TOY, source / "toy_paper" / "claims.py")
    (source / "toy_paper" / "__init__.py").touch()
    entry = '[project.entry-points."corollary.papers"]\ntoy-paper = "toy_paper.claims:PAPER"\n'
    (package / "pyproject.toml").write_text(f'[project]\nname = "corollary-toy"\n{entry}')
    (package / "README.md").write_text("# Toy\n\n<!-- generated:claims -->\nold\n<!-- /generated -->\n\nEnd.\n")
    (root / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["packages/*"]\n')
    (root / "README.md").write_text("# All\n\n<!-- generated:papers -->\n<!-- /generated -->\n")
    info = source / "corollary_toy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: corollary-toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[corollary.papers]\ntoy-paper = toy_paper.claims:PAPER\n")
    return root


@pytest.fixture
def toy_source(toy_checkout: Path) -> Path:
    """The folder to put on the path."""
    return toy_checkout / "packages" / "toy-paper" / "src"


@pytest.fixture
def toy(toy_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy paper installed in this process and its workers; the present folder and the run store are temporary."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_paper"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(toy_source))
    importlib.invalidate_caches()
    monkeypatch.setenv("COROLLARY_RUNS", str(tmp_path / "runs"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work
