"""What to say when a name is not known: one line, with the nearest names that are."""

from collections.abc import Sequence
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """One line that says what was not found, what comes close, and what there is.

    Example:
        >>> unknown("budget", "qick", ["smoke", "quick", "full"])
        "unknown budget 'qick'; did you mean 'quick'? There are: smoke, quick, full"
    """
    folded = {candidate.casefold(): candidate for candidate in known}
    near = [folded[match] for match in get_close_matches(name.casefold(), list(folded), n=3)]
    question = f"; did you mean {' or '.join(repr(match) for match in near)}?" if near else "."
    listed = f" There are: {', '.join(known)}" if known else " There are none"
    return f"unknown {kind} {name!r}{question}{listed}"
