"""Recorded results next to the claims as they are now: what is missing, and what no longer fits."""

from pathlib import Path

from corollary.papers import Budget, Claim, Paper
from corollary.reproduce.measuring import not_run
from corollary.reproduce.results import ClaimResult, ResultFileError, read_results


def recorded_results(paper: Paper, folder: Path) -> list[ClaimResult]:
    """One result per claim in the paper's order; claims without a file are "not run".

    Raises:
        ResultFileError: A file cannot be read, is of a claim that the paper does not have, or was judged by
            other gates than the claim has now.
    """
    files = read_results(folder, paper=paper.slug)
    known = {claim.id: claim for claim in paper.claims}
    for identifier, result in files.items():
        path = folder / f"{identifier}.json"
        if identifier not in known:
            raise ResultFileError(f"{path} holds the result of {identifier}, which {paper.slug} does not claim")
        if _gates_of(result) != _gates(known[identifier]) and result.findings:
            raise ResultFileError(f"{path} was judged by other gates than {identifier} has now; record it again")
    return [files.get(claim.id, not_run(paper, claim, Budget.FULL)) for claim in paper.claims]


def _gates(claim: Claim) -> list[tuple[object, ...]]:
    return [(claim.level, gate.quantity, gate.above, gate.below) for gate in claim.gates]


def _gates_of(result: ClaimResult) -> list[tuple[object, ...]]:
    return [(result.level, item.quantity, item.above, item.below) for item in result.findings]
