"""The generated parts of the documentation are current, and the examples in docstrings hold."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / "shared/src", *sorted(ROOT.glob("packages/*/src"))]
EXAMPLES = [
    ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
    for source in SOURCES
    for path in sorted(source.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def test_generated_tables_are_current():
    command = [Path(sys.executable).with_name("corollary"), "tables", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_examples():
    assert "corollary.evaluation.pass_at_k" in EXAMPLES


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_in_docstrings_hold(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
