"""The known files of questions with answers: origin, digest and licence of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from corollary.data.registry import DATASETS, DataFile
from corollary.papers.matching import unknown


@dataclass(frozen=True, kw_only=True)
class QuestionFile(DataFile):
    """A file with one question a line, each a JSON object.

    Raises:
        ValueError: A field is outside its range.
    """

    question: str
    """Name of the field with the question."""
    answer: str
    """Name of the field with the answer, or with a solution that ends in it."""


_GSM8K = "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/"
# Git LFS keeps these files, so the address is the one that serves contents and not pointers.
_PRM800K = "https://media.githubusercontent.com/media/openai/prm800k/00811d6de065642a6967b9017d4cee59550c0ef4/prm800k/math_splits/"

_COBBE = "Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv:2110.14168"
_MATH = (
    "Hendrycks et al., Measuring Mathematical Problem Solving With the MATH Dataset, arXiv:2103.03874; split of "
    "Lightman et al., Let's Verify Step by Step, arXiv:2305.20050"
)


def _gsm8k(split: str, *, rows: int, sha256: str, size: int) -> QuestionFile:
    return QuestionFile(
        name=f"GSM8K-{split}",
        file=f"gsm8k_{split}.jsonl",
        url=f"{_GSM8K}{split}.jsonl",
        sha256=sha256,
        bytes=size,
        rows=rows,
        question="question",
        answer="answer",
        licence="MIT",
        attribution=_COBBE,
    )


_ENTRIES = (
    _gsm8k(
        "train",
        rows=7_473,
        sha256="17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        size=4_166_206,
    ),
    _gsm8k(
        "test",
        rows=1_319,
        sha256="3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        size=749_738,
    ),
    QuestionFile(
        name="MATH-train-12000",
        file="math12000_train.jsonl",
        url=f"{_PRM800K}train.jsonl",
        sha256="90d96daeac3fe343ebb1e22ce93dd99690f75983e957f88de42f87cffe1e8076",
        bytes=10_896_985,
        rows=12_000,
        question="problem",
        answer="answer",
        licence="MIT",
        attribution=_MATH,
        note="Digest and size are those that the repository's Git LFS pointer records, the number of rows is the "
        "paper's: all of MATH but MATH-500, so 4,500 problems are from MATH's own test split.",
    ),
    QuestionFile(
        name="MATH-500",
        file="math500_test.jsonl",
        url=f"{_PRM800K}test.jsonl",
        sha256="35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
        bytes=446_564,
        rows=500,
        question="problem",
        answer="answer",
        licence="MIT",
        attribution=_MATH,
        note="For evaluation: questions of MATH's test split.",
    ),
)

QUESTIONS: Mapping[str, QuestionFile] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""The known files of questions by name."""


def find_file(name: str) -> DataFile:
    """The registered file of this name, a table of a series or a file of questions.

    Args:
        name: A key of `corollary.data.DATASETS` or `QUESTIONS`, in upper or lower case.

    Raises:
        ValueError: There is no such file; the message lists those that come close.

    Example:
        >>> find_file("math-500").rows
        500
    """
    known: dict[str, DataFile] = {**DATASETS, **QUESTIONS}
    folded = {name.casefold(): entry for name, entry in known.items()}
    try:
        return folded[name.casefold()]
    except KeyError:
        raise ValueError(unknown("data set", name, list(known))) from None
