"""Options with a few known words, refused in one line that names near matches."""

from enum import StrEnum
from typing import TypeVar

from corollary.cli.errors import UsageError
from corollary.papers.matching import unknown

_E = TypeVar("_E", bound=StrEnum)


def choose(kind: type[_E], word: str) -> _E:
    """The member of an enumeration with this value.

    Raises:
        UsageError: There is none; the message names near matches.
    """
    try:
        return kind(word.strip().casefold())
    except ValueError:
        message = unknown(kind.__name__.casefold(), word, [item.value for item in kind])
        raise UsageError(message) from None


def split(words: tuple[str, ...]) -> list[str]:
    """Options given several times or with commas, as one list without repetitions."""
    return list(dict.fromkeys(part.strip() for word in words for part in word.split(",") if part.strip()))


def whole_number(option: str, word: str) -> int | None:
    """The number that an option gives, or `None` for the word auto.

    Raises:
        UsageError: It is neither auto nor a whole number from 1 on.
    """
    if word == "auto":
        return None
    if not word.isdecimal() or int(word) < 1:
        raise UsageError(f"{option} must be a whole number from 1 on, or auto, got {word!r}")
    return int(word)
