"""Records of benchmarks: one JSON file a suite, from which its page is generated."""

import json
from pathlib import Path

from corollary.benchmarks.suite import SUITES, Content, Suite, find_suite
from corollary.runs import write_atomically

SCHEMA = 1
FOLDER = Path("docs") / "benchmarks"
"""Where a checkout keeps its records and pages."""


class RecordError(ValueError):
    """A record cannot be used; the message names the file and the reason, in one line."""


def write_record(content: Content, path: Path) -> None:
    """Write a record in one step.

    Raises:
        OSError: It cannot be written; an older file is as it was.
    """
    text = json.dumps({"schema": SCHEMA, **content}, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def read_record(path: Path, *, suite: str) -> Content:
    """Read a record back.

    Raises:
        RecordError: It is missing, unreadable, of another schema or of another suite.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise ValueError(f"expected an object of schema {SCHEMA}")
        if content.get("suite") != suite:
            raise ValueError(f"expected the suite {suite}, got {content.get('suite')}")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RecordError(f"{path} is no benchmark record: {reason}") from error
    return content


def page_of(suite: Suite, content: Content, path: Path) -> str:
    """The page of a record.

    Raises:
        RecordError: Something that the page needs is missing in the record.
    """
    try:
        return suite.page(content)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RecordError(f"{path} is no benchmark record: {type(error).__name__}: {error}") from error


def pages(root: Path) -> dict[Path, str]:
    """The text of every benchmark page of a checkout, by path; suites without a record have none.

    Raises:
        RecordError: A record cannot be used.
    """
    texts: dict[Path, str] = {}
    for name in SUITES:
        path = root / FOLDER / f"{name}.json"
        if path.exists():
            texts[path.with_suffix(".md")] = page_of(find_suite(name), read_record(path, suite=name), path)
    return texts
