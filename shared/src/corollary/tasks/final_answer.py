r"""The final answer of a written solution: after ``####``, or inside the last ``\boxed{}``; and numbers in it."""

import re
from fractions import Fraction

LONGEST = 400
"""Characters of the longest final answer that is read. Longer ones are no answers, and cost time to compare."""

_HASHES = re.compile(r"####[^\S\n]*([^\n]*)")
_TOKENS = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
"""Boxes, braces, and escaped characters: an escaped brace belongs to the answer, such as the \\{ of a set."""
_LEADING = re.compile(r"(-?)\s*(?:\\?\$)?\s*(-?)([0-9.,]+)")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_DRESS = re.compile(r"\\[,!;: ]|\\\$|\\%|[$%]|\\(?:text|mathrm|textbf|mbox)\s*\{[^{}]*\}|\{,\}|\s")


def after_hashes(text: str) -> str | None:
    r"""What stands after the first ``####`` on its line, as GSM8K's solutions end; None without one.

    The first one, as in the authors' `extract_answer` (grade_school_math/dataset.py): a base model that goes on to
    invent further questions has answered the first.

    Example:
        >>> after_hashes("6 x 7 = 42\n#### 42\nQuestion: ...")
        '42'
    """
    found = _HASHES.search(text)
    return found[1].strip() if found else None


def boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{}`` (or ``\fbox{}``) that is closed; None without one.

    Of a box inside a box it is the inner one's, which starts later.

    Example:
        >>> boxed(r"so $x = \boxed{\frac{1}{2}}$, not \boxed{3")
        '\\frac{1}{2}'
    """
    open_braces: list[int | None] = []
    last, content = -1, None
    for token in _TOKENS.finditer(text):
        if token[0] == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None and start > last:
                last, content = start, text[start : token.start()].strip()
        elif token[0].endswith("{") and token[0] != r"\{":
            open_braces.append(token.end() if token[0] != "{" else None)
    return content


def final_answer(text: str) -> str | None:
    r"""What a solution gives as its answer: `after_hashes`, else `boxed`; None for neither, empty or overlong ones.

    Example:
        >>> final_answer("#### 7"), final_answer(r"\boxed{7}"), final_answer("It is 7.")
        ('7', '7', None)
    """
    answer = after_hashes(text)
    if answer is None:
        answer = boxed(text)
    return answer if answer and len(answer) <= LONGEST else None


def leading_number(answer: str) -> Fraction | None:
    """The decimal number that an answer begins with, a dollar sign aside: what GSM8K counts after ``####``.

    Example:
        >>> leading_number("$1,250.50 in all"), leading_number("about 3")
        (Fraction(2501, 2), None)
    """
    found = _LEADING.match(answer.strip())
    if not found or (found[1] and found[2]):
        return None
    if len(found[3]) > LONGEST:
        return None
    digits = found[3].replace(",", "").rstrip(".")
    if not _NUMBER.fullmatch(digits):
        return None
    return Fraction(("-" if found[1] or found[2] else "") + digits)


def whole_number_of(answer: str) -> Fraction | None:
    r"""The decimal number that an answer is, dollar and per cent signs, ``\text{}`` and thin spaces aside.

    Example:
        >>> whole_number_of(r"\$1{,}250\text{ dollars}"), whole_number_of("3 or 4")
        (Fraction(1250, 1), None)
    """
    if len(answer) > LONGEST:
        return None
    bare = _DRESS.sub("", answer).replace(",", "").rstrip(".")
    sign, digits = bare[:1] == "-", bare.removeprefix("-")
    return Fraction(("-" if sign else "") + digits) if _NUMBER.fullmatch(digits) else None
