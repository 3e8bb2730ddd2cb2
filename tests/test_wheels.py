"""Every distribution as it is released: its wheel is complete and works in an environment of its own."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SLUGS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
DISTRIBUTIONS = ["corollary", *(f"corollary-{slug}" for slug in SLUGS)]
BUILT = {"corollary": "shared"} | {f"corollary-{slug}": f"packages/{slug}" for slug in SLUGS}

UV = shutil.which("uv")
pytestmark = [
    pytest.mark.workspace,
    pytest.mark.skipif(UV is None, reason="uv, which builds the wheels, is not on PATH"),
]


def run(*command: object, cwd: Path = ROOT) -> str:
    # Without these two, `uv pip` and the new interpreter would look at the environment that runs the tests.
    clean = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """The wheel of each distribution, without the workspace's sources: requirements as a user gets them."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in DISTRIBUTIONS:
        run(UV, "build", "--quiet", "--wheel", "--no-sources", "--package", name, "--out-dir", folder)
    found = {name: list(folder.glob(f"{name.replace('-', '_')}-[0-9]*.whl")) for name in DISTRIBUTIONS}
    assert all(len(paths) == 1 for paths in found.values()), found
    return {name: paths[0] for name, paths in found.items()}


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_wheel_holds_the_whole_package_and_nothing_else(wheels, name):
    package = name.replace("-", "_")
    source = ROOT / BUILT[name] / "src"
    with zipfile.ZipFile(wheels[name]) as archive:
        held = {entry for entry in archive.namelist() if ".dist-info/" not in entry}
    expected = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    assert expected <= held
    assert f"{package}/py.typed" in held
    assert {entry.partition("/")[0] for entry in held} == {package}
    assert not [entry for entry in held if "test" in Path(entry).name or "__pycache__" in entry]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_metadata_says_who_it_is_and_what_it_needs(wheels, name):
    header = metadata(wheels[name])
    assert header["Name"] == name
    assert header["License-Expression"] == "Apache-2.0"
    assert header["Requires-Python"] == ">=3.11"
    assert len(header.get_payload()) > 200, "the README is missing or a stub"
    requirements = header.get_all("Requires-Dist") or []
    assert requirements
    assert not [r for r in requirements if "file:" in r or "@" in r], "a path or address of this machine leaked"
    if name != "corollary":
        (core,) = (r for r in requirements if re.match(r"corollary(\[|[<>=!~ ]|$)", r))
        assert ">=" in core
        assert "<" in core


@pytest.fixture
def clean_venv(tmp_path):
    """An empty virtual environment of the interpreter that runs the tests."""
    # pytest keeps the folders of three runs; gigabytes of hard links are better gone at once.
    folder = tmp_path / "venv"
    run(UV, "venv", "--quiet", "--python", sys.executable, folder)
    yield folder
    shutil.rmtree(folder)


def install(venv: Path, *wheels: Path) -> Path:
    python = venv / "bin" / "python"
    # In the root folder, so that the workspace's date and constraints choose the versions.
    run(UV, "pip", "install", "--quiet", "--python", python, *wheels)
    return python


def test_core_works_alone(wheels, clean_venv, tmp_path):
    python = install(clean_venv, wheels["corollary"])
    location = run(python, "-c", "import corollary; print(corollary.__file__)", cwd=tmp_path)
    assert Path(location.strip()).is_relative_to(clean_venv)
    modules = ["cli", "evaluation", "kernels", "papers", "reproduce", "rl", "rollout", "runs", "tasks"]
    run(python, "-c", "\n".join(f"import corollary.{module}" for module in modules), cwd=tmp_path)
    assert "Traceback" not in run(python.with_name("corollary"), "list", cwd=tmp_path)


@pytest.mark.parametrize("slug", SLUGS)
def test_package_works_with_the_core_and_nothing_beside_it(wheels, clean_venv, tmp_path, slug):
    python = install(clean_venv, wheels["corollary"], wheels[f"corollary-{slug}"])
    package = f"corollary_{slug.replace('-', '_')}"
    location = run(python, "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path)
    assert Path(location.strip()).is_relative_to(clean_venv)
    assert slug in run(python.with_name("corollary"), "list", cwd=tmp_path)
    run(UV, "pip", "check", "--python", python)
