"""Which algorithm, which task: names and words of a command line made into objects, or refused in one line."""

import ast
import dataclasses
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from corollary.papers.matching import unknown
from corollary.rl import Algorithm, algorithm_class, algorithm_names
from corollary.tasks import Task, make_task, task_names
from corollary.tasks.final_answer import final_answer, whole_number_of
from corollary.tasks.grading import Grader, make_grader
from corollary.tasks.questions import Question, every_nth_held_out, read_questions, registered_questions
from corollary.tasks.text import QuestionSet, TextTask
from corollary.training.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

HELD_OUT_EVERY = 10
"""Of a file of the user's, the last of so many questions is held out, unless another file is named."""

_HASHES = "Reason step by step, and end with a line that has #### and the final number."
_BOX = r"Reason step by step, and put the final answer within \boxed{}."
_WORDS = "End with a line that has #### and the answer."
ASKED = {"number": _HASHES, "math": _BOX, "exact": _WORDS}
"""What the default prompts ask for, by grader: the form in which it looks for the answer."""


@dataclass(frozen=True)
class Source:
    """Where the questions of a named task are."""

    train: str
    """A name of `corollary.data.QUESTIONS`."""
    held_out: str | None
    """Likewise; None to hold out every tenth."""
    grader: str


TASKS = {
    "gsm8k": Source("GSM8K-train", "GSM8K-test", "number"),
    "math": Source("MATH-train-12000", "MATH-500", "math"),
    "math-500": Source("MATH-500", None, "math"),
}
"""The named tasks of written questions. `math` trains on all of MATH but MATH-500, on which it is evaluated; as a task
to train on, `math-500` holds every tenth question out."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions that were read, before it is known how a model is asked."""

    label: str
    train: list[Question]
    held_out: list[Question]
    grader: Grader
    evaluation_label: str
    evaluation_grader: Grader

    def with_tokenizer(self, tokenizer: "PreTrainedTokenizerBase", settings: Settings) -> TextTask:
        """The task for a model.

        Raises:
            ValueError: of `TextTask`.
        """
        chat = settings.chat and bool(getattr(tokenizer, "chat_template", None))

        def asked(label: str, questions: list[Question], grader: Grader) -> QuestionSet:
            template = settings.prompt or default_template(grader.name, chat=chat)
            return QuestionSet(label=label, questions=questions, grader=grader, template=template)

        return TextTask(
            tokenizer,
            asked(self.label, self.train, self.grader),
            asked(self.evaluation_label, self.held_out, self.evaluation_grader),
            chat=chat,
            max_prompt_length=settings.max_prompt_length,
            max_completion_length=settings.max_completion_length,
            stop=settings.stop,
        )


def default_template(grader: str, *, chat: bool) -> str:
    """The prompt for answers that a grader can find.

    Example:
        >>> print(default_template("number", chat=False))
        Question: {question}
        Reason step by step, and end with a line that has #### and the final number.
        Answer:
    """
    return f"{{question}}\n\n{ASKED[grader]}" if chat else f"Question: {{question}}\n{ASKED[grader]}\nAnswer:"


def chosen_task(settings: Settings) -> Asked | Task:
    """The questions of the task and of the evaluation, or the installed procedural task.

    Raises:
        ValueError: there is no such task or grader, or a file cannot be used; the message names file and line.
        DataUnavailable: a registered file is not on this machine and cannot be downloaded.
        ImportError: a grader needs an extra that is not installed.
    """
    if not _is_text(settings.task):
        if settings.evaluation_task not in (None, settings.task):
            raise ValueError(f"the task {settings.task} is evaluated on its own held-out prompts")
        return make_task(settings.task)
    label, (train, held_out, own) = settings.task, _read(settings.task, settings)
    grader = evaluation_grader = make_grader(_grader_of(own, train, settings.grader))
    if settings.evaluation_task not in (None, label):
        if not _is_text(settings.evaluation_task):
            raise ValueError(f"a task of questions cannot be evaluated on {settings.evaluation_task}")
        label = settings.evaluation_task
        everything, held_out, own = _read(label, settings)
        held_out = everything if held_out is None else held_out
        evaluation_grader = make_grader(_grader_of(own, held_out, settings.grader))
    elif held_out is None:
        train, held_out = every_nth_held_out(train, HELD_OUT_EVERY)
        if not held_out and settings.evaluation_prompts:
            raise ValueError(
                f"{label} has {len(train)} questions, too few to hold every {HELD_OUT_EVERY}th out; name others to "
                "evaluate on, or evaluate on none"
            )
    return Asked(
        label=settings.task,
        train=train,
        held_out=held_out[: settings.evaluation_prompts],
        grader=grader,
        evaluation_label=label,
        evaluation_grader=evaluation_grader,
    )


def chosen_algorithm(name: str, options: tuple[str, ...]) -> Algorithm:
    """The installed algorithm with options given as ``field=value``.

    Raises:
        ValueError: there is no such algorithm or option (the message names near matches), a value is not of the
            option's kind, or the algorithm refuses it.
    """
    if name not in algorithm_names():
        raise ValueError(unknown("algorithm", name, algorithm_names()))
    kind = algorithm_class(name)
    hints = get_type_hints(kind.Config)
    known = [field.name for field in dataclasses.fields(kind.Config)]
    values: dict[str, Any] = {}
    for word in options:
        option, equals, value = word.partition("=")
        option = option.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"an option must be given as NAME=VALUE, got {word!r}")
        if option not in known:
            raise ValueError(unknown(f"option of {name}", option, known))
        if option in values:
            raise ValueError(f"the option {option} of {name} is given twice")
        values[option] = _value(f"option {option} of {name}", value.strip(), hints[option])
    try:
        return kind(kind.Config(**values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _is_text(name: str) -> bool:
    """Whether a name is one of written questions; else it must be an installed procedural task."""
    if name in TASKS or name.startswith("jsonl:"):
        return True
    if name in task_names():
        return False
    raise ValueError(unknown("task", name, [*TASKS, "jsonl:PATH", *task_names()]))


def _read(name: str, settings: Settings) -> tuple[list[Question], list[Question] | None, str]:
    """Questions to train on, held-out ones (None if the source does not divide them), and the grader."""
    if name.startswith("jsonl:"):
        path = Path(name.removeprefix("jsonl:")).expanduser()
        questions = read_questions(path, question=settings.question_field, answer=settings.answer_field)
        return questions, None, "auto"
    source = TASKS[name]
    held_out = None if source.held_out is None else registered_questions(source.held_out)
    return registered_questions(source.train), held_out, source.grader


def _grader_of(own: str, questions: list[Question], wanted: str) -> str:
    if wanted != "auto":
        return wanted
    if own != "auto":
        return own
    numbers = (whole_number_of(final_answer(row.answer) or row.answer) is not None for row in questions)
    return "number" if all(numbers) else "math"


def _value(what: str, text: str, hint: Any) -> Any:
    """A value of an annotated type, as Python writes it; strings need no quotes.

    Raises:
        ValueError: it is of no such type.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    for form in (value, text):
        for kind in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
            fitted = _fitted(form, kind)
            if fitted is not _NO:
                return fitted
    raise ValueError(f"{what} must be {_described(hint)}, got {text!r}")


_NO = object()


def _fitted(value: Any, kind: Any) -> Any:
    """The value as this type has it, or `_NO`."""
    if kind is Any:
        return value
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else _NO
    if kind in (None, type(None)):
        return None if value is None else _NO
    if kind is bool or isinstance(value, bool):
        words = {"true": True, "false": False}
        found = words.get(str(value).casefold(), _NO)
        return found if kind is bool else _NO
    if kind is float:
        if isinstance(value, str) and value.casefold() in ("inf", "-inf"):
            return float(value)
        return float(value) if isinstance(value, int | float) else _NO
    if kind in (int, str):
        return value if isinstance(value, kind) else _NO
    return _NO


def _described(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_described(kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if hint in (None, type(None)):
        return "None"
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}
    return names.get(hint, str(hint))
