"""What the documentation promises: its commands are those that CI runs, its links exist, its code works."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
REPRODUCE = "uv run --all-packages corollary reproduce entropy-dynamics"
TEST = "uv run --all-packages pytest -n auto"
GATES = ["ruff check", "ruff format --check", "ty check", "corollary tables --check"]
UNSEARCHED = {"node_modules", "reproductions", "dist", "build", "site"}


def pages() -> list[Path]:
    """The Markdown files of the project."""
    found: list[Path] = []
    for folder, subfolders, files in os.walk(ROOT):
        # .github has pages; .venv, caches and the like belong to others.
        subfolders[:] = [
            name for name in subfolders if name == ".github" or not (name.startswith(".") or name in UNSEARCHED)
        ]
        found += [Path(folder, name) for name in files if name.endswith(".md")]
    return sorted(found)


PAGES = pages()


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    """A fenced block of code."""

    page: Path
    line: int
    language: str
    code: str
    runs: bool
    """A line `<!-- runs -->` stands directly before it."""
    source: str
    """PATH, if the line `<!-- from PATH -->` does."""


def blocks(page: Path, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if start is None:
            start = number
            continue
        indent = len(lines[start]) - len(lines[start].lstrip())
        code = "\n".join(inner[indent:] for inner in lines[start + 1 : number])
        before = lines[start - 1].strip() if start else ""
        language = lines[start].strip().removeprefix("```").strip()
        excerpt = re.fullmatch(r"<!-- from (\S+) -->", before)
        yield Block(page, start + 1, language, code, before == "<!-- runs -->", excerpt[1] if excerpt else "")
        start = None
    assert start is None, f"{page}:{start}: a code block does not end"


def without_blocks(text: str) -> str:
    return re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """The text without code, with which a link could be confused."""
    return re.sub(r"`[^`\n]*`", "", without_blocks(text))


def targets(text: str) -> list[str]:
    """Targets of inline links, images and reference definitions."""
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", prose(text))
    return inline + re.findall(r"^\s*\[[^\]]+\]:\s*<?(\S+?)>?\s*$", prose(text), flags=re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(
        r"^#+\s+(.*?)\s*$", re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.DOTALL | re.MULTILINE), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path, text: str) -> list[str]:
    """The relative links of a page that lead nowhere."""
    found = []
    for target in targets(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if name and not (path.is_relative_to(ROOT) and path.exists()):
            found.append(target)
        elif anchor and path.suffix == ".md":
            there = path.read_text(encoding="utf-8") if name else text
            if anchor not in anchors(there):
                found.append(target)
    return found


BLOCKS = [block for page in PAGES for block in blocks(page, page.read_text(encoding="utf-8"))]
PYTHON = [block for block in BLOCKS if block.language in {"python", "py"}]


def commands_of(script: str) -> list[list[str]]:
    """The simple commands of a shell script as words, without comments and redirections."""
    script = re.sub(r"\\\n\s*", " ", script)
    script = re.sub(r"(^|\s)#.*", "", script, flags=re.MULTILINE)
    script = re.sub(r"\s\d?(?:>>?|<)(?:&\d|\s*\S+)", "", script)
    return [part.split() for part in re.split(r"[;&|\n(){}]+", script) if part.strip()]


def calls(script: str, command: str) -> bool:
    """Whether a shell script runs exactly this command, possibly through `time`, `env` or a function."""
    wanted = command.split()
    shown = {"echo", "printf"}
    return any(words[-len(wanted) :] == wanted and words[0] not in shown for words in commands_of(script))


def test_the_helpers_see_planted_mistakes():
    page = ROOT / "CONTRIBUTING.md"
    text = "# A b: c\n[1](gone.md) [2](#a-b-c) [3](#nope) `[4](gone.md)` ![5](x.png)\n[6]: also-gone.md\n"
    assert targets(text) == ["gone.md", "#a-b-c", "#nope", "x.png", "also-gone.md"]
    assert broken(page, text) == ["gone.md", "#nope", "x.png", "also-gone.md"]
    assert anchors(text) == {"a-b-c"}
    assert broken(page, "[out](../elsewhere.md) [web](https://example.org)") == ["../elsewhere.md"]
    marked = list(blocks(page, "x\n<!-- runs -->\n```python\n1 / 0\n```\n\n<!-- from a/b.sh -->\n```sh\nls\n```\n"))
    assert [block[2:] for block in marked] == [("python", "1 / 0", True, ""), ("sh", "ls", False, "a/b.sh")]
    script = f"set -e\nstep 'tests' {TEST}  # all\ntime {REPRODUCE} \\\n  --out x 2>&1 | tee log\n"
    assert calls(script, TEST)
    assert calls(script, f"{REPRODUCE} --out x")
    assert not calls(script, REPRODUCE)
    assert not calls(f"# {TEST}", TEST)
    assert not calls(f"{TEST} tests; echo {TEST}", TEST)


@pytest.mark.parametrize("command", [REPRODUCE, TEST])
@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_two_commands_are_shown(page, command):
    shown = [block for block in BLOCKS if block.page == ROOT / page and block.language in {"sh", "bash", "console"}]
    lines = [line.removeprefix("$ ").partition("  #")[0].strip() for b in shown for line in b.code.splitlines()]
    assert command in lines


@pytest.mark.parametrize("command", [REPRODUCE, TEST])
def test_ci_runs_the_very_commands_of_the_readme(command):
    assert calls((ROOT / ".ci/run").read_text(encoding="utf-8"), command)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("script", [".ci/run", ".github/workflows/ci.yml"])
def test_both_ci_scripts_check_style_types_and_tables(script, gate):
    assert gate in (ROOT / script).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page):
    assert broken(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{name_of(block.page)}:{block.line}")
def test_every_python_block_compiles(block):
    compile(block.code, f"{block.page}:{block.line}", "exec")


@pytest.mark.parametrize(
    "block",
    [block for block in PYTHON if block.runs],
    ids=lambda block: f"{name_of(block.page)}:{block.line}",
)
def test_every_python_block_marked_runs_does(block, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(block.code, encoding="utf-8")
    environment = os.environ | {"COROLLARY_RUNS": str(tmp_path / "runs"), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.source],
    ids=lambda block: f"{name_of(block.page)}:{block.line}",
)
def test_every_excerpt_stands_in_the_file_it_names(block):
    def lines(text: str) -> str:
        return "\n".join(line.strip() for line in text.splitlines())

    assert lines(block.code) in lines((ROOT / block.source).read_text(encoding="utf-8"))


def test_the_readme_shows_code_that_runs():
    assert any(block.runs for block in PYTHON if block.page == ROOT / "README.md")
