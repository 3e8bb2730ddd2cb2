"""Say what CI must test for a set of changed files.

    python .github/scripts/affected.py --base REF     what changed since the merge base with REF
    python .github/scripts/affected.py --all          everything, for scheduled and manual runs

prints lines ``name=value`` for ``$GITHUB_OUTPUT``:

* ``members``: JSON list of ``{"name", "path", "options"}``, the distributions whose tests must run, where
  ``options`` is what ``uv run --package NAME`` needs on top;
* ``papers``: JSON list of slugs, the papers that must be reproduced.

Lint, types, the generated tables and the workspace's own tests are cheap and always run, so that a change of
the documentation alone affects no member. A file that no rule knows is an error: whoever adds a new kind of
file decides here what it affects. Only the standard library is used; this runs before anything is installed.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
CORE = "shared"

EVERYTHING = {"pyproject.toml", "conftest.py", ".python-version"}
"""Root files that change what every member is built or tested with."""
EVERYTHING_UNDER = (".github", ".ci")
NOTHING = {"LICENSE", "CITATION.cff", ".gitignore", ".gitattributes"}
"""Root files that no member's tests read."""
NOTHING_UNDER = ("docs", "tests", "benchmarks")
"""The workspace's own tests and the lint job, which always run, cover these."""


@dataclass(frozen=True)
class Affected:
    """Folders of members, relative to the root: those to test, and the slugs of those to reproduce."""

    members: tuple[str, ...]
    papers: tuple[str, ...]


def all_members(root: Path = ROOT) -> list[str]:
    """The core's folder, then the folder of every package."""
    packages = sorted(path.parent.relative_to(root).as_posix() for path in root.glob("packages/*/pyproject.toml"))
    return [CORE, *packages]


def affected(changed: Iterable[str], *, root: Path = ROOT) -> Affected:
    """Apply the rules to the changed files.

    Args:
        changed: paths relative to the root, with forward slashes; of a renamed file both names.
        root: the workspace.

    Raises:
        ValueError: a path that no rule knows, or a file of a package without ``pyproject.toml``.
    """
    members = all_members(root)
    found: set[str] = set()
    for name in changed:
        found.update(_members_of(name, members, root))
    ordered = [member for member in members if member in found]
    return Affected(tuple(ordered), tuple(PurePosixPath(member).name for member in ordered if member != CORE))


def _members_of(name: str, members: list[str], root: Path) -> list[str]:
    path = PurePosixPath(name)
    top = path.parts[0] if path.parts else ""
    if top in EVERYTHING_UNDER or name in EVERYTHING:
        return members
    if name in NOTHING or top in NOTHING_UNDER or path.suffix == ".md":
        return []
    if top == CORE:
        # What a package uses of the core is its source and its metadata, not its tests.
        return [CORE] if path.parts[1:2] == ("tests",) else members
    if top == "packages" and len(path.parts) > 2:
        package = f"packages/{path.parts[1]}"
        if package in members:
            return [] if path.parts[2] == "results" else [package]
        if not (root / package).exists():
            return []  # the package was deleted: there is nothing left to test
        raise ValueError(f"{name}: {package} has no pyproject.toml")
    raise ValueError(f"{name}: no rule says what this file affects; add one to .github/scripts/affected.py")


def changed_files(base: str, *, root: Path = ROOT) -> list[str]:
    """The files that differ between the merge base with ``base`` and HEAD."""
    # Without --no-renames a file moved between packages would count for the new one only.
    command = ["git", "diff", "--name-only", "--no-renames", "-z", f"{base}...HEAD"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.split("\0") if name]


def matrix_entry(member: str, root: Path = ROOT) -> dict[str, str]:
    """The row of the test matrix for a member's folder."""
    project = tomllib.loads((root / member / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # The core's tests cover its extras. A package must pass with what it declares and nothing else.
    # verl wants another transformers than the rest and has a job of its own.
    options = "--all-extras --no-extra verl" if member == CORE else ""
    return {"name": project["name"], "path": member, "options": options}


def main(arguments: list[str] | None = None) -> int:
    """Print the outputs; one line on stderr and status 2 for an unknown file or base."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--base", help="commit, branch or tag that the change is compared with")
    which.add_argument("--all", action="store_true", help="take every member as affected")
    options = parser.parse_args(arguments)
    try:
        result = affected(["pyproject.toml"] if options.all else changed_files(options.base))
    except ValueError as error:
        print(f"affected.py: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"affected.py: git: {error.stderr.strip().splitlines()[0]}", file=sys.stderr)
        return 2
    print(f"members={json.dumps([matrix_entry(member) for member in result.members])}")
    print(f"papers={json.dumps(list(result.papers))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
