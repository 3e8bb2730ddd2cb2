"""Installed papers, found through the entry-point group `corollary.papers`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from corollary.papers.claims import Paper
from corollary.papers.matching import unknown

GROUP = "corollary.papers"


class PaperLoadError(ImportError):
    """An installed paper cannot be loaded; the message names it and says why, in one line."""


@dataclass(frozen=True, kw_only=True)
class PaperSource:
    """Where an installed paper comes from."""

    slug: str
    distribution: str
    version: str
    metadata: Mapping[str, str]
    folder: Path
    """The import package's folder."""
    checkout: Path | None
    """The folder `packages/<slug>` when the package is installed from a checkout (editable), else `None`."""

    @property
    def results(self) -> Path:
        """Recorded results: those of the checkout, or those that the wheel carries. May be missing."""
        return self.checkout / "results" if self.checkout is not None else self.folder / "results"


def paper_slugs() -> list[str]:
    """Slugs of the installed papers, sorted. Imports none of them."""
    return sorted({entry.name for entry in metadata.entry_points(group=GROUP)})


def papers() -> dict[str, Paper]:
    """All installed papers by slug.

    Raises:
        PaperLoadError: One of them cannot be imported; the message names it.
    """
    return {slug: paper(slug) for slug in paper_slugs()}


def paper(slug: str) -> Paper:
    """The installed paper with this slug.

    Raises:
        ValueError: There is none; the message names near matches.
        PaperLoadError: It is installed and cannot be loaded.
    """
    entry = _entry_point(slug)
    try:
        loaded = entry.load()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PaperLoadError(f"paper {slug!r} cannot be loaded: {type(error).__name__}: {reason}") from error
    if not isinstance(loaded, Paper):
        raise PaperLoadError(f"paper {slug!r} cannot be loaded: {entry.value} is no Paper but {type(loaded).__name__}")
    if loaded.slug != slug:
        raise PaperLoadError(f"paper {slug!r} cannot be loaded: {entry.value} calls itself {loaded.slug!r}")
    return loaded


def paper_source(slug: str) -> PaperSource:
    """Where the installed paper with this slug comes from. Does not run its code.

    Raises:
        ValueError: There is none.
        PaperLoadError: Its import package is missing.
    """
    entry = _entry_point(slug)
    package = entry.module.partition(".")[0]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations or entry.dist is None:
        raise PaperLoadError(f"paper {slug!r} cannot be loaded: there is no package {package}")
    folder = Path(next(iter(spec.submodule_search_locations))).resolve()
    name = entry.dist.name
    header = entry.dist.metadata
    return PaperSource(
        slug=slug,
        distribution=name,
        version=entry.dist.version,
        metadata={key: header[key] for key in ("Summary", "License-Expression") if key in header},
        folder=folder,
        checkout=_checkout(folder, name),
    )


def _entry_point(slug: str) -> metadata.EntryPoint:
    found = tuple(metadata.entry_points(group=GROUP, name=slug))
    if not found:
        raise ValueError(unknown("paper", slug, paper_slugs()))
    if len({entry.value for entry in found}) > 1:
        owners = ", ".join(sorted(entry.dist.name if entry.dist else entry.value for entry in found))
        raise PaperLoadError(f"paper {slug!r} cannot be loaded: several packages provide it: {owners}")
    return found[0]


def _checkout(folder: Path, distribution: str) -> Path | None:
    """The project folder when `folder` is its `src/<package>`, recognised by the name in `pyproject.toml`."""
    if folder.parent.name != "src":
        return None
    project = folder.parent.parent
    try:
        content = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None
    named = str(content.get("project", {}).get("name", ""))
    return project if _normalised(named) == _normalised(distribution) else None


def _normalised(name: str) -> str:
    return name.casefold().replace("_", "-").replace(".", "-")
