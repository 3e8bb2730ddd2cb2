"""Questions with reference answers, read from JSON-lines files."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corollary.data import QUESTIONS, fetch


class QuestionFileError(ValueError):
    """A file of questions that cannot be used; the message names file and line."""


@dataclass(frozen=True)
class Question:
    """A question and what the file gives as its answer."""

    question: str
    answer: str
    where: str
    """File and line, for messages."""


def read_questions(path: Path, *, question: str = "question", answer: str = "answer") -> list[Question]:
    """The questions of a file with one JSON object a line, plain or ``.gz``; blank lines are skipped.

    Args:
        path: The file, UTF-8.
        question: Name of the field with the question, a string.
        answer: Name of the field with the answer, a string or a number, or with a solution that ends in it.

    Raises:
        QuestionFileError: the file cannot be read or holds no question, or a line is no JSON object, lacks a field,
            has another kind of value in it, or repeats the ``id`` or ``unique_id`` of an earlier one.
    """
    found: list[Question] = []
    seen: dict[str, int] = {}
    try:
        for number, line in _lines(path):
            where = f"{path}:{number}"
            row = _object(line, where)
            for name in ("id", "unique_id"):
                if name in row and name not in (question, answer):
                    key = f"{name} {json.dumps(row[name])}"
                    if key in seen:
                        raise QuestionFileError(f"{where}: {key} stands in line {seen[key]} already")
                    seen[key] = number
            found.append(Question(_text(row, question, where), _text(row, answer, where, numbers=True), where))
    except (OSError, EOFError) as error:
        raise QuestionFileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise QuestionFileError(f"{path} holds no question")
    return found


def registered_questions(name: str) -> list[Question]:
    """The questions of a registered file, from the user's folder, the cache, or downloaded.

    Raises:
        ValueError: there is no such file, or what was found is not the registered one.
        DataUnavailable: it is not on this machine and cannot be downloaded.
    """
    entry = QUESTIONS[name]
    found = read_questions(fetch(entry), question=entry.question, answer=entry.answer)
    if len(found) != entry.rows:
        raise QuestionFileError(f"{name} must have {entry.rows} questions, got {len(found)}")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # By bytes and "\n" alone: str.splitlines would also break at U+2028 inside a string.
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise QuestionFileError(f"{path}:{number}: no UTF-8 (byte {error.start} of the line)") from None
            if text.strip():
                yield number, text


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise QuestionFileError(f"{where}: no JSON ({error})") from None
    if not isinstance(row, dict):
        raise QuestionFileError(f"{where}: must be a JSON object, got {type(row).__name__}")
    return row


def _text(row: dict[str, Any], field: str, where: str, *, numbers: bool = False) -> str:
    if field not in row:
        raise QuestionFileError(f"{where}: has no field {field!r}; it has: {', '.join(map(repr, row)) or 'none'}")
    value = row[field]
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = json.dumps(value)
    if not isinstance(value, str):
        kinds = "a string or a number" if numbers else "a string"
        raise QuestionFileError(f"{where}: {field} must be {kinds}, got {type(value).__name__}")
    if not value.strip():
        raise QuestionFileError(f"{where}: {field} is empty")
    return value


def every_nth_held_out(questions: list[Question], n: int) -> tuple[list[Question], list[Question]]:
    """Questions to train on, and held-out ones: the last of every ``n``, so none of fewer than ``n``."""
    return [row for index, row in enumerate(questions, 1) if index % n], questions[n - 1 :: n]
