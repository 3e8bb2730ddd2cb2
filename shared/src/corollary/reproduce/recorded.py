"""Recorded results next to the claims as they are now: what is missing, and what no longer fits."""

from collections.abc import Iterator
from pathlib import Path

from corollary.papers import Budget, Claim, Finding, Gate, Paper
from corollary.reproduce.measuring import not_run
from corollary.reproduce.results import ClaimResult, ResultFileError, read_results


def recorded_results(paper: Paper, folder: Path) -> list[ClaimResult]:
    """One result per claim in the paper's order; claims without a file are "not run".

    Raises:
        ResultFileError: A file cannot be read, is of a claim that the paper does not have, or differs from the claim
            as it is now in statement, source, level, the paper's own figure, seeds or gates.
    """
    files = read_results(folder, paper=paper.slug)
    known = {claim.id: claim for claim in paper.claims}
    for identifier, result in files.items():
        path = folder / f"{identifier}.json"
        if identifier not in known:
            raise ResultFileError(f"{path} holds the result of {identifier}, which {paper.slug} does not claim")
        differences = list(_differences(result, known[identifier]))
        if differences:
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise ResultFileError(
                f"{path} no longer fits {identifier}: recorded with {differences[0]}{more}; record it again"
            )
    return [files.get(claim.id, not_run(paper, claim, Budget.FULL)) for claim in paper.claims]


def _differences(result: ClaimResult, claim: Claim) -> Iterator[str]:
    """Whatever a reader would take for the claim's, and is not any more. A result without findings has no gates."""
    yield from _changed("statement", result.statement, claim.statement)
    yield from _changed("source", result.source, claim.source)
    yield from _changed("level", str(result.level), str(claim.level))
    yield from _changed("paper's figure", result.reference, claim.paper)
    if not result.findings:
        return
    yield from _changed("seeds", result.seeds, claim.seeds_for(result.budget))
    recorded = [finding.quantity for finding in result.findings]
    present = [gate.quantity for gate in claim.gates]
    yield from _changed("gates", recorded, present)
    if recorded == present:
        for finding, gate in zip(result.findings, claim.gates, strict=True):
            yield from _changed_gate(finding, gate)


def _changed_gate(finding: Finding, gate: Gate) -> Iterator[str]:
    for name in ("label", "unit", "above", "below"):
        yield from _changed(f"{name} of gate {gate.quantity}", getattr(finding, name), getattr(gate, name))


def _changed(name: str, recorded: object, present: object) -> Iterator[str]:
    if recorded != present:
        yield f"{name} {recorded!r}, now {present!r}"
