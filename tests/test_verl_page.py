"""The page on verl names every installed algorithm, and says of each what the code says."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from corollary.rl.integrations.verl_hooks import installed_support

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "verl.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", PAGE, flags=re.MULTILINE))


def test_the_table_is_what_the_hooks_carry():
    assert {name: str(support) for name, support in installed_support().items()} == ROWS


def test_the_rest_of_the_workspace_has_the_transformers_that_is_pinned():
    # The bound is no equality, so that verl's own environment can have an older one.
    (pin,) = re.findall(r'"transformers<=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    try:
        version("verl")
    except ImportError:
        assert version("transformers") == pin
    else:
        pytest.skip("beside verl transformers is older")
