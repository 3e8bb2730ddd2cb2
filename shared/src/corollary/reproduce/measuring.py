"""From a claim and its seeds to a result: calling `measure`, checking what it returns, judging it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from corollary.papers import Budget, Claim, Measurement, Paper, PaperLoadError, Verdict, paper_source, worst
from corollary.reproduce.results import ClaimResult
from corollary.runs import RunRecord, commit_of, describe_machine, describe_versions


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What all results of one reproduction share: code and machine."""

    commit: str | None
    versions: Mapping[str, str]
    machine: Mapping[str, object]


@dataclass(frozen=True)
class Measured:
    """The values of one seed and how long they took."""

    values: Mapping[str, float]
    seconds: float


def find_provenance(paper: Paper) -> Provenance:
    """The commit of the checkout that the package (or else the core) comes from, versions and machine."""
    folder, distribution = Path(__file__).parent, ()
    try:
        source = paper_source(paper.slug)
    except (ValueError, PaperLoadError):
        pass  # a paper that is not installed, as in tests and notebooks
    else:
        folder, distribution = source.folder, (source.distribution,)
    return Provenance(
        commit=commit_of(folder), versions=describe_versions(also=distribution), machine=describe_machine()
    )


def measure_seed(claim: Claim, measurement: Measurement) -> Measured:
    """Measure one seed of a claim that has a measurement.

    Raises:
        ValueError: A gate's quantity is missing in what `measure` returns.
        TypeError: One of them is no number.
    """
    if claim.measure is None:
        raise ValueError(f"{claim.id} has no measurement")
    quantities = [gate.quantity for gate in claim.gates]
    begin = time.perf_counter()
    returned = claim.measure(measurement)
    seconds = time.perf_counter() - begin
    missing = [name for name in quantities if name not in returned]
    if missing:
        raise ValueError(f"measure must return {', '.join(missing)}, got {', '.join(returned) or 'nothing'}")
    values = {}
    for name in quantities:
        try:
            values[name] = float(returned[name])
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be a number, got {type(returned[name]).__name__}") from None
    return Measured(values, seconds)


def judge(
    paper: Paper,
    claim: Claim,
    budget: Budget,
    measured: Mapping[int, Measured],
    records: Mapping[int, Mapping[str, RunRecord]],
    provenance: Provenance,
    *,
    required: Mapping[str, RunRecord] | None = None,
) -> ClaimResult:
    """The result of a claim from its values per seed.

    Args:
        paper: The paper.
        claim: One of its claims.
        budget: The budget of the measurement.
        measured: Values by seed.
        records: Records of the runs that the measurement used: seed, then name.
        provenance: Code and machine of the measurement.
        required: Records of further runs that those needed, such as a warm start, by key.
    """
    seeds = tuple(measured)
    findings = tuple(
        gate.evaluate([measured[seed].values[gate.quantity] for seed in seeds], claim.level, budget=budget)
        for gate in claim.gates
    )
    trained = {record.key: record for names in records.values() for record in names.values()}
    trained |= required or {}
    seconds = sum(item.seconds for item in measured.values()) + sum(record.seconds for record in trained.values())
    commits = {str(record.environment.get("commit") or "unknown") for record in trained.values()}
    return replace(
        not_run(paper, claim, budget),
        verdict=worst(item.verdict for item in findings if item.verdict is not None),
        seeds=seeds,
        findings=findings,
        runs={str(seed): {name: record.key for name, record in names.items()} for seed, names in records.items()},
        seconds=round(seconds, 3),
        commit=provenance.commit,
        run_commits=tuple(sorted(commits - {str(provenance.commit or "unknown")})),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=provenance.versions,
        machine=provenance.machine,
    )


def lacking(claim: Claim, budget: Budget) -> str | None:
    """What a claim would need to be measured on this budget, if it cannot be: a budget, data, or its own `needs`.

    Raises:
        ValueError: A data set is there and damaged, or its folder is named wrongly.
    """
    if claim.measure is None:
        return claim.needs
    if not claim.seeds_for(budget):
        return f"budget {next(budget for budget in Budget if claim.seeds_for(budget))}"
    if not claim.data:
        return None
    from corollary.data import DataUnavailable, fetch

    try:
        for name in claim.data:
            fetch(name)
    except DataUnavailable as error:
        return f"the data: {error}"
    return None


def not_run(
    paper: Paper, claim: Claim, budget: Budget, *, error: str | None = None, needs: str | None = None
) -> ClaimResult:
    """The result of a claim that was not measured, with the reason."""
    return ClaimResult(
        paper=paper.slug,
        claim=claim.id,
        statement=claim.statement,
        source=claim.source,
        reference=claim.paper,
        level=claim.level,
        budget=budget,
        verdict=Verdict.NOT_RUN,
        error=error,
        needs=claim.needs if needs is None else needs,
    )
