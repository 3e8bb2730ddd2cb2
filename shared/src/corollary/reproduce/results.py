"""Result files: what was measured for a claim, written once by the runner and read back strictly."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from corollary.papers import Budget, Finding, Level, Verdict
from corollary.runs import write_atomically

_T = TypeVar("_T")
_E = TypeVar("_E", bound=StrEnum)

SCHEMA = 1
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class ResultFileError(ValueError):
    """A result file cannot be used; the message names it and the reason, in one line."""


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """What was measured for one claim, with everything that is needed to judge the number later."""

    paper: str
    """Slug of the paper."""
    claim: str
    """Id of the claim."""
    statement: str
    source: str
    reference: str
    """The paper's own figure in words."""
    level: Level
    budget: Budget
    verdict: Verdict
    seeds: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = ()
    """One per gate; their values are in the order of `seeds`."""
    runs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Keys of the training runs in the store: seed, then name."""
    seconds: float = 0.0
    """Wall time of the measurement plus the recorded wall time of its runs, in seconds. A run that several
    claims share is counted in each."""
    error: str | None = None
    """Why the claim could not be measured, in one line."""
    needs: str = ""
    """What it would take to run a claim that has no measurement."""
    commit: str | None = None
    """Commit of the checkout that measured, with `-dirty` when tracked files differed; `None` outside one."""
    run_commits: tuple[str, ...] = ()
    """Other commits that trained the runs, if any."""
    date: str = ""
    """When the measurement ended, ISO 8601, UTC."""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> str:
        """JSON text; numbers that are not finite are the strings `nan`, `inf` and `-inf`."""
        content = {
            "schema": SCHEMA,
            "paper": self.paper,
            "claim": self.claim,
            "statement": self.statement,
            "source": self.source,
            "reference": self.reference,
            "level": self.level.value,
            "budget": self.budget.value,
            "verdict": self.verdict.value,
            "seeds": list(self.seeds),
            "findings": [_finding_to_json(finding) for finding in self.findings],
            "seconds": self.seconds,
            "error": self.error,
            "needs": self.needs,
            "commit": self.commit,
            "run_commits": list(self.run_commits),
            "date": self.date,
            "versions": dict(self.versions),
            "machine": dict(self.machine),
            "runs": {seed: dict(names) for seed, names in self.runs.items()},
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ClaimResult":
        """Read a result back, checking every field.

        Raises:
            ValueError: The text is not a result file of this schema; the message says where it departs.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"no JSON: {error}") from None
        reader = _Reader(content, "the file")
        schema = reader.take("schema", int)
        if schema != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, got {schema}")
        result = cls(
            paper=reader.take("paper", str),
            claim=reader.take("claim", str),
            statement=reader.take("statement", str),
            source=reader.take("source", str),
            reference=reader.take("reference", str),
            level=reader.word("level", Level),
            budget=reader.word("budget", Budget),
            verdict=reader.word("verdict", Verdict),
            seeds=reader.items("seeds", int),
            findings=tuple(
                _finding_from_json(_Reader(item, f"findings[{index}]"))
                for index, item in enumerate(reader.take("findings", list))
            ),
            seconds=reader.number("seconds"),
            error=reader.optional("error", str),
            needs=reader.take("needs", str),
            commit=reader.optional("commit", str),
            run_commits=reader.items("run_commits", str),
            date=reader.take("date", str),
            versions=reader.take("versions", dict),
            machine=reader.take("machine", dict),
            runs=reader.take("runs", dict),
        )
        reader.finish()
        for finding in result.findings:
            if len(finding.values) != len(result.seeds):
                raise ValueError(
                    f"{finding.quantity} must have a value for each of the {len(result.seeds)} seeds, "
                    f"got {len(finding.values)}"
                )
        return result


def write_result(result: ClaimResult, folder: Path) -> Path:
    """Write `<folder>/<claim>.json` in one step and return its path.

    Raises:
        OSError: It cannot be written; an older file is as it was.
    """
    path = folder / f"{result.claim}.json"
    write_atomically(path, result.to_json())
    return path


def read_result(path: Path) -> ClaimResult:
    """Read one result file.

    Raises:
        ResultFileError: It is missing, unreadable, or not named after its claim.
    """
    try:
        result = ClaimResult.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ResultFileError(f"{path} is no result file: no UTF-8 text at byte {error.start}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ResultFileError(f"{path} is no result file: {reason}") from error
    if path.stem != result.claim:
        raise ResultFileError(f"{path} is no result file: it holds the result of {result.claim}")
    return result


def read_results(folder: Path, *, paper: str) -> dict[str, ClaimResult]:
    """All results in a folder by claim id; empty when the folder is missing.

    Raises:
        ResultFileError: A file cannot be read, or belongs to another paper.
    """
    results: dict[str, ClaimResult] = {}
    for path in sorted(folder.glob("*.json")):
        result = read_result(path)
        if result.paper != paper:
            raise ResultFileError(f"{path} is no result file of {paper}: it belongs to {result.paper}")
        results[result.claim] = result
    return results


def _finding_to_json(finding: Finding) -> dict[str, object]:
    return {
        "quantity": finding.quantity,
        "label": finding.label,
        "unit": finding.unit,
        "above": finding.above,
        "below": finding.below,
        "mean": _number_to_json(finding.mean),
        "low": _number_to_json(finding.low),
        "high": _number_to_json(finding.high),
        "verdict": finding.verdict.value if finding.verdict is not None else None,
        "values": [_number_to_json(value) for value in finding.values],
    }


def _finding_from_json(reader: "_Reader") -> Finding:
    finding = Finding(
        quantity=reader.take("quantity", str),
        label=reader.take("label", str),
        unit=reader.take("unit", str),
        above=reader.bound("above"),
        below=reader.bound("below"),
        mean=reader.number("mean"),
        low=reader.number("low"),
        high=reader.number("high"),
        verdict=None if reader.content.get("verdict", "") is None else reader.word("verdict", Verdict),
        values=tuple(
            _number(item, f"{reader.where}.values[{index}]") for index, item in enumerate(reader.take("values", list))
        ),
    )
    reader.seen.add("verdict")
    reader.finish()
    return finding


def _number_to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _number(value: object, where: str) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} must be a number, got {value!r}")
    return float(value)


class _Reader:
    """Takes fields out of a JSON object one by one, checks their types, and notices what is left over."""

    def __init__(self, content: object, where: str) -> None:
        if not isinstance(content, dict):
            raise ValueError(f"{where} must be an object, got {type(content).__name__}")
        self.content = content
        self.where = where
        self.seen: set[str] = set()

    def take(self, name: str, kind: type[_T]) -> _T:
        """The field, which must have exactly this type."""
        if name not in self.content:
            raise ValueError(f"{self.where} lacks {name}")
        self.seen.add(name)
        value = self.content[name]
        if type(value) is not kind:
            raise ValueError(f"{name} must be {kind.__name__}, got {value!r}")
        return value

    def optional(self, name: str, kind: type[_T]) -> _T | None:
        """The field, which has this type or is null."""
        if name in self.content and self.content[name] is None:
            self.seen.add(name)
            return None
        return self.take(name, kind)

    def word(self, name: str, kind: type[_E]) -> _E:
        """The field, which must be a value of this enumeration."""
        value = self.take(name, str)
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"{name} must be one of {[str(item) for item in kind]}, got {value!r}") from None

    def number(self, name: str) -> float:
        """The field, which must be a number or one of the words for numbers that are not finite."""
        if name not in self.content:
            raise ValueError(f"{self.where} lacks {name}")
        self.seen.add(name)
        return _number(self.content[name], name)

    def bound(self, name: str) -> float | None:
        """The field, which must be a number or null."""
        if name in self.content and self.content[name] is None:
            self.seen.add(name)
            return None
        return self.number(name)

    def items(self, name: str, kind: type[_T]) -> tuple[_T, ...]:
        """The field, which must be a list of this type."""
        values = self.take(name, list)
        for value in values:
            if type(value) is not kind:
                raise ValueError(f"{name} must hold {kind.__name__}, got {value!r}")
        return tuple(values)

    def finish(self) -> None:
        """Refuse fields that nobody asked for."""
        extra = sorted(set(self.content) - self.seen)
        if extra:
            raise ValueError(f"{self.where} has unknown fields: {', '.join(extra)}")
