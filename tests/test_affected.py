import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / ".github/scripts/affected.py"


def load_script():
    spec = importlib.util.spec_from_file_location("affected", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["affected"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture
def workspace(tmp_path):
    """A core and two packages."""
    for folder, name in {
        "shared": "corollary",
        "packages/a": "corollary-a",
        "packages/b": "corollary-b",
    }.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n', encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "members"),
    [
        (["packages/a/src/corollary_a/loss.py"], ["packages/a"]),
        (["packages/b/tests/test_loss.py", "packages/a/pyproject.toml"], ["packages/a", "packages/b"]),
        (["shared/src/corollary/runs/store.py"], ["shared", "packages/a", "packages/b"]),
        (["shared/pyproject.toml"], ["shared", "packages/a", "packages/b"]),
        (["shared/tests/runs/test_store.py"], ["shared"]),
        (["pyproject.toml"], ["shared", "packages/a", "packages/b"]),
        (["conftest.py"], ["shared", "packages/a", "packages/b"]),
        ([".github/workflows/ci.yml"], ["shared", "packages/a", "packages/b"]),
        ([".ci/run"], ["shared", "packages/a", "packages/b"]),
        (["docs/index.md", "README.md", "packages/a/README.md", "shared/README.md"], []),
        (["docs/curve.png", "LICENSE", "tests/test_layering.py", "benchmarks/kernels.py"], []),
        (["packages/a/results/C1.json"], []),
        (["packages/gone/src/corollary_gone/loss.py"], []),
        (["README.md", "packages/b/src/corollary_b/py.typed"], ["packages/b"]),
        ([], []),
    ],
)
def test_changed_files_affect_these_members(workspace, changed, members):
    result = script.affected(changed, root=workspace)
    assert list(result.members) == members
    assert list(result.papers) == [member.removeprefix("packages/") for member in members if member != "shared"]


@pytest.mark.parametrize(
    "name",
    ["setup.cfg", "scripts/deploy.sh", "packages/README.txt", "sharedness/x.py", "new-folder/data.csv"],
)
def test_a_file_without_a_rule_is_an_error(workspace, name):
    with pytest.raises(ValueError, match=f"{name}: no rule"):
        script.affected(["README.md", name], root=workspace)


def test_a_package_without_pyproject_is_an_error(workspace):
    (workspace / "packages/new").mkdir()
    with pytest.raises(ValueError, match=r"packages/new/src/x\.py: packages/new has no pyproject\.toml"):
        script.affected(["packages/new/src/x.py"], root=workspace)


def test_every_tracked_file_of_this_repository_has_a_rule():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    result = script.affected(filter(None, listed.stdout.split("\0")))
    assert list(result.members) == script.all_members()


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_all_prints_the_matrix_of_the_whole_workspace():
    outputs = dict(line.split("=", 1) for line in run("--all").stdout.splitlines())
    members = json.loads(outputs["members"])
    assert members[0] == {"name": "corollary", "path": "shared", "options": "--all-extras --no-extra verl"}
    assert {
        "name": "corollary-entropy-dynamics",
        "path": "packages/entropy-dynamics",
        "options": "",
    } in members
    assert "entropy-dynamics" in json.loads(outputs["papers"])


def test_an_unknown_base_is_one_line_and_status_2():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = run("--base", "no-such-branch")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no-such-branch" in done.stderr


def test_a_rename_counts_for_both_members(workspace):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=workspace, check=True, capture_output=True)

    git("init", "-b", "main")
    (workspace / "packages/a/loss.py").write_text("x = 1\n" * 20, encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "one")
    git("branch", "base")
    git("mv", "packages/a/loss.py", "packages/b/loss.py")
    git("commit", "-m", "two")
    changed = script.changed_files("base", root=workspace)
    assert script.affected(changed, root=workspace).papers == ("a", "b")
