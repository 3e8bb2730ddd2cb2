"""What a verifiable task is to the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

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
        """The reward of a completion, given without padding: 1 for correct and 0 for wrong."""
        ...

    def answer_key(self, completion: Sequence[int]) -> tuple[int, ...]:
        """What makes two correct completions the same answer, for counting distinct ones."""
        ...
