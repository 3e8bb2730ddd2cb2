"""parity: how many of some bits are set, odd or even? The policy may answer at once or write running parities first.

The prompt is ``BOS``, twelve slots with bits and then blanks, and ``=``. A completion is any number of running parities
(``even`` or ``odd``), an answer (``so even`` or ``so odd``) and the stop token. The reward looks at the answer alone.
Who answers at once must compute the parity of all bits in one forward pass; with a scratchpad each token needs one bit
and the token before it. So longer answers are better ones, as in chains of thought, and a policy may fail in both ways.

* ``parity``: 6 to 10 bits.
* ``parity-long``: 12 bits, more than any prompt of the other, for a policy that was trained on that one.

The blanks keep the distance from a running parity to its bit the same for all numbers of bits, so that a small model
can learn the scratchpad at all and carry it over to longer prompts.
"""

from collections.abc import Sequence

import numpy as np

from corollary.tasks import Demonstrations, Prompt, Split

BOS, EQUALS, BLANK, PAD, STOP = 2, 3, 4, 5, 6
EVEN, ODD, SO_EVEN, SO_ODD = 7, 8, 9, 10
SLOTS = 12
"""Bits that a prompt has room for."""

DIRECT_ACCURACY = 0.55
"""Share of the demonstrated answers without a scratchpad that are right."""
TRUNCATED = 0.22
"""Share of the demonstrated scratchpads that stop before the last bit, with the answer of where they stopped."""
MISTAKEN = 0.15
"""Share of the other scratchpads with one wrong step, carried on to the answer. With `TRUNCATED`, a third is flawed."""


class Parity:
    """Parity of bits, with an optional scratchpad.

    Args:
        name: The name in the registry.
        bits: Numbers of bits, each 1 to `SLOTS`.
        train: Prompts of each number of bits to train on. Even, since half of them have odd parity.
        held_out: The same for evaluation; none of them is also a training prompt.
    """

    vocab_size = 11
    pad_token = PAD
    stop_token: int | None = STOP
    max_completion_length = SLOTS + 4
    """A scratchpad of all slots, answer and stop need two less: who writes that much has lost count."""

    def __init__(self, name: str, *, bits: Sequence[int], train: int, held_out: int) -> None:
        if not bits or not all(1 <= n <= SLOTS for n in bits):
            raise ValueError(f"bits must be numbers from 1 to {SLOTS}, got {tuple(bits)}")
        if train % 2 or held_out % 2 or train + held_out > 2 ** min(bits):
            raise ValueError(
                f"train and held_out must be even and together at most {2 ** min(bits)}, got {train} and {held_out}"
            )
        self.name = name
        self.bits = tuple(bits)
        self._prompts: dict[Split, list[Prompt]] = {"train": [], "held_out": []}
        for n in self.bits:
            # The choice of prompts belongs to the task and not to a run.
            numbers = np.random.default_rng(n).permutation(2**n)
            odd = np.bitwise_count(numbers) % 2 == 1
            chosen = np.stack([numbers[odd], numbers[~odd]], 1).ravel()[: train + held_out].tolist()
            prompts = [self.prompt([int(bit) for bit in f"{number:0{n}b}"]) for number in chosen]
            self._prompts["held_out"] += prompts[:held_out]
            self._prompts["train"] += prompts[held_out:]

    def prompt(self, bits: Sequence[int]) -> Prompt:
        """The prompt of these bits; its answer is their parity."""
        blanks = [BLANK] * (SLOTS - len(bits))
        return Prompt(tokens=(BOS, *bits, *blanks, EQUALS), answer=sum(bits) % 2)

    def prompts(self, split: Split) -> list[Prompt]:
        """The fixed prompts of a split: as many of odd as of even parity."""
        if split not in self._prompts:
            raise ValueError(f"split must be 'train' or 'held_out', got {split!r}")
        return list(self._prompts[split])

    def correct(self, prompt: Prompt, completion: Sequence[int]) -> bool:
        """Whether the completion stops and the token before is the right answer, whatever stands before that."""
        return list(completion[-2:]) == [SO_EVEN + prompt.answer, STOP]

    def reward(self, prompt: Prompt, completion: Sequence[int]) -> float:
        """1 if the completion is correct, else 0."""
        return float(self.correct(prompt, completion))

    def answer_key(self, completion: Sequence[int]) -> tuple[int, ...]:
        """All tokens: two ways to the answer are two answers."""
        return tuple(completion)

    def scratchpad(self, prompt: Prompt) -> list[int]:
        """The completion that writes every running parity of the prompt, without a mistake."""
        bits = [token for token in prompt.tokens[1:-1] if token != BLANK]
        running = np.cumsum(bits) % 2
        return [*(EVEN + running).tolist(), SO_EVEN + prompt.answer, STOP]

    def demonstrations(
        self, count: int, rng: np.random.Generator, *, jitter: int = 3, jitter_probability: float = 0.7
    ) -> Demonstrations:
        """Imperfect solutions for supervised learning: most answer at once, and hardly better than chance.

        Bits are uniform, so held-out prompts may be among them (the warm start stands for pre-training; only the
        reinforcement learning is kept from them).

        Args:
            count: How many.
            rng: The source of randomness.
            jitter: A truncated scratchpad lacks the last 1 to ``jitter`` running parities.
            jitter_probability: Share of answers without a scratchpad.

        Returns:
            Tokens, ``(count, 14 + SLOTS + 2)``.
        """
        n = rng.choice(self.bits, size=count)
        used = np.arange(SLOTS) < n[:, None]
        bits = rng.integers(2, size=(count, SLOTS)) * used
        direct = rng.random(count) < jitter_probability
        truncated = rng.random(count) < TRUNCATED
        written = np.where(truncated, n - rng.integers(1, jitter + 1, size=count), n).clip(min=1)
        # The step from which on all running parities are wrong: none, unless the scratchpad is mistaken.
        mistake = np.where(~truncated & (rng.random(count) < MISTAKEN), rng.integers(n), SLOTS)
        running = (bits.cumsum(1) + (np.arange(SLOTS) >= mistake[:, None])) % 2
        lucky = rng.random(count) < DIRECT_ACCURACY
        direct_answer = np.where(lucky, bits.sum(1) % 2, 1 - bits.sum(1) % 2)
        answer = np.where(direct, direct_answer, running[np.arange(count), written - 1])
        written = np.where(direct, 0, written)

        length = len(self.prompt([0]).tokens)
        tokens = np.full((count, length + SLOTS + 2), PAD)
        tokens[:, 0], tokens[:, length - 1] = BOS, EQUALS
        tokens[:, 1 : length - 1] = np.where(used, bits, BLANK)
        tokens[:, length : length + SLOTS] = np.where(np.arange(SLOTS) < written[:, None], EVEN + running, PAD)
        tokens[np.arange(count), length + written] = SO_EVEN + answer
        tokens[np.arange(count), length + written + 1] = STOP
        position = np.arange(tokens.shape[1])
        return Demonstrations(tokens, (position >= length) & (position <= length + 1 + written[:, None]))


def parity() -> Parity:
    """6 to 10 bits: 240 prompts to train on and 30 held out."""
    return Parity("parity", bits=range(6, 11), train=48, held_out=6)


def parity_long() -> Parity:
    """12 bits, 30 prompts held out: out of distribution for a policy that was trained on `parity`."""
    return Parity("parity-long", bits=(12,), train=48, held_out=30)
