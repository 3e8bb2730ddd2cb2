"""A task of written questions: a tokenizer, prompt templates and graders make text into tokens and rewards."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corollary.tasks.grading import Grader
from corollary.tasks.questions import Question, QuestionFileError
from corollary.tasks.task import Prompt, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACE = "{question}"
"""Where a template has the question. Other braces stand for themselves."""

PLAIN = "Question: {question}\nAnswer:"
"""The template for a model without chat template."""


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Questions, how they are put to a model, and how its answers are graded.

    Raises:
        ValueError: the template has not exactly one ``{question}``.
    """

    label: str
    """What is asked, such as ``gsm8k``."""
    questions: Sequence[Question]
    grader: Grader
    template: str = PLAIN
    """What the model reads, with one ``{question}``; the user's message if there is a chat template around it."""

    def __post_init__(self) -> None:
        if self.template.count(PLACE) != 1:
            raise ValueError(f"a prompt template must have one {PLACE}, got {self.template.count(PLACE)}")


class TextTask:
    """Written questions as a `corollary.tasks.Task`: reward 1 for a correct final answer, else 0.

    The text of a completion is graded as it is, whether it ended with the stop token or was cut off.

    Args:
        tokenizer: Of `transformers`; belongs to the model.
        train: What is trained on.
        held_out: What is evaluated on.
        chat: Whether the tokenizer's chat template is put around prompts.
        max_prompt_length: Tokens. Questions with longer prompts are left out, and counted in `left_out`.
        max_completion_length: Tokens. Longer completions are cut off.
        stop: The token that ends a completion; None for the tokenizer's end-of-sequence token.

    Raises:
        ValueError: a length is below 1, the tokenizer has no such stop token, a reference answer is none that the
            grader can compare (the message names file and line), or all prompts of a set are too long.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        train: QuestionSet,
        held_out: QuestionSet,
        *,
        chat: bool = False,
        max_prompt_length: int = 512,
        max_completion_length: int = 512,
        stop: str | None = None,
    ) -> None:
        for name, value in (
            ("max_prompt_length", max_prompt_length),
            ("max_completion_length", max_completion_length),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.tokenizer = tokenizer
        self.sets: dict[Split, QuestionSet] = {"train": train, "held_out": held_out}
        self.chat = chat
        self.max_prompt_length = max_prompt_length
        self.max_completion_length = max_completion_length
        self.stop_token: int | None = _stop_token(tokenizer, stop)
        self.pad_token: int = self.stop_token if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.vocab_size = len(tokenizer)
        self.left_out: dict[Split, int] = {}
        """How many questions of each split have prompts longer than ``max_prompt_length``, and are left out."""
        self._prompts: dict[Split, list[Prompt]] = {}
        for split, questions in self.sets.items():
            self._prompts[split] = self._fitting(questions)
            self.left_out[split] = len(questions.questions) - len(self._prompts[split])
        self.name = f"{train.label} [{self.digest('train')}]"

    def _fitting(self, of: QuestionSet) -> list[Prompt]:
        """The prompts that are short enough."""
        kept: list[Prompt] = []
        lengths: list[int] = []
        for row in of.questions:
            try:
                reference = of.grader.reference(row.answer)
            except ValueError as error:
                raise QuestionFileError(f"{row.where}: {error} (grader {of.grader.name})") from None
            tokens = self._tokens(of.template.replace(PLACE, row.question))
            lengths.append(len(tokens))
            if 0 < len(tokens) <= self.max_prompt_length:
                kept.append(Prompt(tokens, reference))
        if lengths and not kept:
            raise ValueError(
                f"all {len(lengths)} prompts of {of.label} are longer than {self.max_prompt_length} tokens; the "
                f"shortest has {min(lengths)}"
            )
        return kept

    def _tokens(self, text: str) -> tuple[int, ...]:
        if not self.chat:
            return tuple(self.tokenizer(text)["input_ids"])
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        # The template has written the special tokens already.
        return tuple(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def prompts(self, split: Split) -> list[Prompt]:
        """The prompts of a split, in the order of the file."""
        if split not in self._prompts:
            raise ValueError(f"split must be 'train' or 'held_out', got {split!r}")
        return list(self._prompts[split])

    def text(self, completion: Sequence[int]) -> str:
        """A completion as text, without special tokens."""
        return str(self.tokenizer.decode(list(completion), skip_special_tokens=True))

    def reward(self, prompt: Prompt, completion: Sequence[int]) -> float:
        """1 if the completion of a training prompt is correct, else 0."""
        return float(self._graded("train", prompt, completion))

    def correct(self, prompt: Prompt, completion: Sequence[int]) -> bool:
        """Whether the completion of a held-out prompt is correct."""
        return self._graded("held_out", prompt, completion)

    def _graded(self, split: Split, prompt: Prompt, completion: Sequence[int]) -> bool:
        grader = self.sets[split].grader
        answer = grader.answer(self.text(completion))
        return answer is not None and grader.correct(answer, prompt.answer)

    def answer_key(self, completion: Sequence[int]) -> tuple[int, ...]:
        """The characters of the final answer without white space; for a completion without one its tokens."""
        answer = self.sets["held_out"].grader.answer(self.text(completion))
        return tuple(completion) if answer is None else tuple(map(ord, "".join(answer.split())))

    def digest(self, split: Split) -> str:
        """What decides tokens and rewards, in short: another tokenizer, template or file has another."""
        digest = hashlib.sha256(self.sets[split].grader.name.encode())
        for prompt in self._prompts[split]:
            digest.update(repr((prompt.tokens, prompt.answer)).encode())
        digest.update(repr((self.stop_token, self.pad_token, self.max_completion_length)).encode())
        return digest.hexdigest()[:12]


def _stop_token(tokenizer: "PreTrainedTokenizerBase", name: str | None) -> int:
    if name is not None:
        token = tokenizer.get_vocab().get(name)
        if token is None:
            raise ValueError(f"the tokenizer has no token {name!r} to stop at")
        return token
    token = tokenizer.eos_token_id
    if not isinstance(token, int):
        raise ValueError("the tokenizer has no end-of-sequence token; name the token to stop at")
    return token
