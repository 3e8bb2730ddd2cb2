"""The layers: packages stand on the core and on nothing beside them; the core knows no package."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "shared"
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
SHIPPED_WITH_TORCH = {"triton"}


class Import(NamedTuple):
    name: str
    line: int
    at_import_time: bool
    """Executed when the module is imported: not in a function and not under TYPE_CHECKING."""

    @property
    def root(self) -> str:
        return self.name.partition(".")[0]


def imports(source: str) -> Iterator[Import]:
    """Every absolute import of a module, and every `import_module("literal")`."""

    def walk(node: ast.AST, eager: bool) -> Iterator[Import]:
        match node:
            case ast.Import():
                yield from (Import(alias.name, node.lineno, eager) for alias in node.names)
            case ast.ImportFrom(level=0, module=str(module)):
                yield Import(module, node.lineno, eager)
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if "import" in ast.unparse(node.func):
                yield Import(name, node.lineno, eager)
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for field, value in ast.iter_fields(node):
            guarded = isinstance(node, ast.If) and field == "body" and "TYPE_CHECKING" in ast.unparse(node.test)
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child, eager and not (deferred and field == "body") and not guarded)

    yield from walk(ast.parse(source), True)


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirement_name(requirement: str) -> str:
    matched = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    assert matched is not None, requirement
    return re.sub(r"[-_.]+", "-", matched[0]).lower()


def required(folder: Path) -> set[str]:
    return {requirement_name(r) for r in project(folder).get("dependencies", [])}


def optional(folder: Path) -> set[str]:
    extras = project(folder).get("optional-dependencies", {})
    names = {requirement_name(r) for requirements in extras.values() for r in requirements}
    # A distribution such as math-verify is imported as math_verify.
    return names | {name.replace("-", "_") for name in names}


def import_name(folder: Path) -> str:
    (package,) = (path.parent.name for path in (folder / "src").glob("*/__init__.py"))
    return package


def modules(folder: Path) -> list[Path]:
    found = sorted((folder / "src").rglob("*.py"))
    assert found, f"{folder} has no source"
    return found


def where(path: Path, imported: Import) -> str:
    return f"{path.relative_to(ROOT)}:{imported.line} imports {imported.name}"


def test_the_reader_of_imports_sees_what_a_plain_search_would_miss():
    source = """
import a.b, c
from d.e import f
from . import sibling
if TYPE_CHECKING:
    import g
else:
    import h
class C:
    import i
    def method(self, x=__import__("j")):
        import k
        importlib.import_module("l.m")
try:
    import n
except ImportError:
    pass
"""
    found = {imported.name: imported.at_import_time for imported in imports(source)}
    eager = dict.fromkeys(["a.b", "c", "d.e", "h", "i", "j", "n"], True)
    assert found == eager | dict.fromkeys(["g", "k", "l.m"], False)


def test_there_is_a_package():
    assert PACKAGES


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_package_is_named_after_its_folder(folder):
    assert project(folder)["name"] == f"corollary-{folder.name}"
    assert import_name(folder) == f"corollary_{folder.name.replace('-', '_')}"
    (slug,) = project(folder)["entry-points"]["corollary.papers"]
    assert slug == folder.name


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_no_package_depends_on_or_imports_a_sibling(folder):
    siblings = [other for other in PACKAGES if other != folder]
    assert not (required(folder) | optional(folder)) & {project(other)["name"] for other in siblings}
    names = {import_name(other) for other in siblings}
    # Tests may not either: they run in an environment without the sibling.
    for path in [*modules(folder), *(folder / "tests").rglob("*.py")]:
        for imported in imports(path.read_text(encoding="utf-8")):
            assert imported.root not in names, where(path, imported)


def test_the_core_depends_on_and_imports_no_package():
    assert not (required(CORE) | optional(CORE)) & {project(folder)["name"] for folder in PACKAGES}
    names = {import_name(folder) for folder in PACKAGES}
    for path in [*modules(CORE), *(CORE / "tests").rglob("*.py")]:
        for imported in imports(path.read_text(encoding="utf-8")):
            assert imported.root not in names, where(path, imported)


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_package_requires_a_range_of_core_versions_that_holds_the_present_one(folder):
    (requirement,) = (r for r in project(folder)["dependencies"] if requirement_name(r) == "corollary")
    bounds = dict(re.findall(r"(>=|<)\s*(\d+(?:\.\d+)*)", requirement))
    assert set(bounds) == {">=", "<"}, f"{requirement} must have a lower and an upper bound"
    low, high, present = (
        tuple(map(int, version.split("."))) for version in (bounds[">="], bounds["<"], project(CORE)["version"])
    )
    assert low <= present < high


@pytest.mark.parametrize("folder", [CORE, *PACKAGES], ids=lambda folder: folder.name)
def test_the_version_is_the_same_in_metadata_and_source(folder):
    source = (folder / "src" / import_name(folder) / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{project(folder)["version"]}"' in source


def test_the_core_loads_only_what_it_requires():
    always = sys.stdlib_module_names | required(CORE) | {"corollary"}
    sometimes = optional(CORE) | SHIPPED_WITH_TORCH
    for path in modules(CORE):
        # An adapter such as `trl.py` or `_triton_head.py` needs its framework to define its classes; everybody
        # else imports the adapter in the function that uses it.
        own = {path.stem.lstrip("_").partition("_")[0]} & sometimes
        for imported in imports(path.read_text(encoding="utf-8")):
            allowed = always | own if imported.at_import_time else always | sometimes
            assert imported.root in allowed, where(path, imported)


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_package_imports_only_what_it_or_the_core_declares(folder):
    always = sys.stdlib_module_names | required(CORE) | required(folder) | {"corollary", import_name(folder)}
    sometimes = optional(CORE) | optional(folder)
    for path in modules(folder):
        own = {path.stem.lstrip("_")} & sometimes
        for imported in imports(path.read_text(encoding="utf-8")):
            allowed = always | own if imported.at_import_time else always | sometimes
            assert imported.root in allowed, where(path, imported)


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after the code."""
    code += "\nimport sys; print('loaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_transformers_is_not_loaded_until_a_model_is():
    parts = [
        "cli",
        "evaluation",
        "kernels",
        "models",
        "papers",
        "reproduce",
        "rl",
        "rollout",
        "runs",
        "tasks",
    ]
    code = "\n".join(f"import corollary.{part}" for part in parts)
    # What `corollary list` and `corollary cite` do: they load every paper with its claims.
    loaded = modules_after(f"{code}\ncorollary.papers.papers()")
    assert {f"corollary.{part}" for part in parts} <= loaded
    assert not loaded & {"transformers", "trl", "verl", "ray", "vllm", "accelerate"}


def test_import_corollary_loads_no_dependency():
    assert not modules_after("import corollary") & (required(CORE) | optional(CORE))
