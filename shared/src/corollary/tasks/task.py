"""What a verifiable task is to the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Prompt:
    """A question: its tokens, and what the verifier needs to know of the answer."""

    tokens: tuple[int, ...]
    answer: Any


class Task(Protocol):
    """Prompts with an exact verifier. Tokens in, reward out: text tasks bring their tokenizer along."""

    name: str
    vocab_size: int
    pad_token: int
    stop_token: int | None
    """The id that ends a completion; None for completions of fixed length."""
    max_completion_length: int

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """The prompts of a split, always the same and in the same order."""
        ...

    def reward(self, prompt: Prompt, completion: Sequence[int]) -> float:
        """What training gets for a completion, given without padding."""
        ...

    def correct(self, prompt: Prompt, completion: Sequence[int]) -> bool:
        """Whether the completion is right, whatever the scale of the reward; what evaluation counts."""
        ...

    def answer_key(self, completion: Sequence[int]) -> tuple[int, ...]:
        """What makes two correct completions the same answer, for counting distinct ones."""
        ...


class Demonstrations(NamedTuple):
    """Prompts, each directly followed by a completion and padded at the right."""

    tokens: NDArray[np.int64]
    """``(count, length)``."""
    completion_mask: NDArray[np.bool_]
    """``(count, length)``: True on the tokens of the completions, which are what is learned."""


class DemonstratedTask(Task, Protocol):
    """A task that can show (imperfect) solutions, for the warm start of a small model."""

    def demonstrations(
        self, count: int, rng: np.random.Generator, *, jitter: int, jitter_probability: float
    ) -> Demonstrations:
        """Solutions that miss by up to ``jitter``, in the task's own measure, with this probability."""
        ...
