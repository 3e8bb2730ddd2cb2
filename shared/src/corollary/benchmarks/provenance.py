"""Where the figures of a record come from: code, machines, versions, and what each method says of itself."""

import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from corollary.runs import Run, RunRecord, commit_of, describe_versions


def provenance(runs: Iterable[Run], records: Mapping[str, RunRecord], *, also: Iterable[str]) -> dict[str, Any]:
    """Commits, processors and versions behind the runs.

    Args:
        runs: What the record is made of.
        records: What the store knows of the complete ones, by key.
        also: Distributions beside the core that the methods come from.

    Returns:
        ``commit`` of the checkout that measures, ``run_commits`` others that trained, ``run_cpus``, ``versions``.
    """
    used = [records[run.key] for run in runs if run.key in records]
    commits = {str(record.environment.get("commit") or "unknown") for record in used}
    machines = [record.environment.get("machine") for record in used]
    cpus = {str(machine.get("cpu")) for machine in machines if isinstance(machine, Mapping)}
    commit = commit_of(Path(__file__).parent)
    return {
        "commit": commit,
        "run_commits": sorted(commits - {str(commit or "unknown")}),
        "run_cpus": sorted(cpus),
        "versions": describe_versions(also=tuple(also)),
    }


def distributions(group: str, names: Collection[str]) -> tuple[str, ...]:
    """Packages beside the core that offer one of these names in a group of entry points."""
    points = [point for point in entry_points(group=group) if point.name in names]
    found = {point.dist.name for point in points if point.dist is not None} - {"corollary"}
    return tuple(sorted(found))


def first_paragraph(described: object) -> str:
    """The first paragraph of a description, on one line, with formulas as Markdown has them."""
    text = inspect.cleandoc(described.__doc__ or "").partition("\n\n")[0]
    return " ".join(re.sub(r":math:`([^`]*)`", r"$\1$", text).split())
