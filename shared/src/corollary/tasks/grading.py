r"""Graders of written solutions: what exactly counts as correct.

Each reads the final answer of a completion (`corollary.tasks.final_answer.final_answer`: what follows the first
``####`` on its line; without one, the content of the last ``\boxed{}``; without either there is no answer and the
completion is wrong) and compares it with the reference.
"""

from typing import Protocol

from corollary.papers.matching import unknown
from corollary.tasks.final_answer import after_hashes, boxed, final_answer, leading_number, whole_number_of
from corollary.tasks.math_equality import EQUALITY, require_math_verify


class Grader(Protocol):
    """Compares the final answers of completions with reference answers."""

    name: str

    def reference(self, text: str) -> str:
        r"""The answer in the text of a data file: a bare answer, or a solution that ends in ``####`` or ``\boxed``.

        Raises:
            ValueError: it holds none that this grader can compare.
        """
        ...

    def answer(self, completion: str) -> str | None:
        """The final answer of a completion; None if it has none."""
        ...

    def correct(self, answer: str, reference: str) -> bool:
        """Whether the two are the same."""
        ...


def _reference(text: str) -> str:
    found = final_answer(text)
    if found is None and (after_hashes(text) is not None or boxed(text) is not None):
        raise ValueError("the answer after its #### or in its \\boxed{} is empty or too long")
    found = text.strip() if found is None else found
    if not found:
        raise ValueError("the answer is empty")
    return found


class NumberGrader:
    r"""One decimal number, compared exactly: GSM8K's rule.

    After ``####`` the number that the line begins with counts, with or without a dollar sign; inside ``\boxed{}`` all
    of the content must be the number, apart from dollar and per cent signs, ``\text{}`` and spaces. Commas are
    dropped. The authors' `is_correct` compares strings after ``####`` only: here 72.0 is 72, ``$72`` is 72, and a
    boxed number counts too. Nothing that they count as correct is wrong here.
    """

    name = "number"

    def reference(self, text: str) -> str:
        """The reference, which must be a number."""
        found = _reference(text)
        if whole_number_of(found) is None:
            raise ValueError(f"the answer must be a number, got {found[:40]!r}")
        return found

    def answer(self, completion: str) -> str | None:
        """The number as it is written; None if there is none."""
        hashes = after_hashes(completion)
        value = whole_number_of(final_answer(completion) or "") if hashes is None else leading_number(hashes)
        return None if value is None else str(value)

    def correct(self, answer: str, reference: str) -> bool:
        """Whether the numbers are equal."""
        return answer == str(whole_number_of(reference))


class MathGrader:
    r"""LaTeX answers, compared as mathematics by `math-verify` (the extra ``math``): MATH's rule.

    Answers that are equal but for white space are correct; all others are compared by
    `corollary.tasks.math_equality.MathEquality`, which says what equality is and limits its time and memory.
    """

    name = "math"

    def __init__(self) -> None:
        require_math_verify()

    def reference(self, text: str) -> str:
        """The reference, as it stands."""
        return _reference(text)

    def answer(self, completion: str) -> str | None:
        """The final answer, as it stands."""
        return final_answer(completion)

    def correct(self, answer: str, reference: str) -> bool:
        """Whether they are equal; a comparison that hits a limit says no."""
        return "".join(answer.split()) == "".join(reference.split()) or EQUALITY.equal(reference, answer)


class ExactGrader:
    r"""Words, compared but for case and white space.

    A completion without ``####`` or ``\boxed{}`` is its own answer.
    """

    name = "exact"

    def reference(self, text: str) -> str:
        """The reference, as it stands."""
        return _reference(text)

    def answer(self, completion: str) -> str | None:
        """The final answer, else all of the completion."""
        if after_hashes(completion) is None and boxed(completion) is None:
            return completion.strip() or None
        return final_answer(completion)

    def correct(self, answer: str, reference: str) -> bool:
        """Whether they are the same words."""
        return answer.casefold().split() == reference.casefold().split()


GRADERS = {kind.name: kind for kind in (NumberGrader, MathGrader, ExactGrader)}


def make_grader(name: str) -> Grader:
    """The grader of this name.

    Raises:
        ValueError: there is none.
        ImportError: it needs an extra that is not installed.
    """
    if name not in GRADERS:
        raise ValueError(unknown("grader", name, list(GRADERS)))
    return GRADERS[name]()
