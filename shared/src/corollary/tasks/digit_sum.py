"""digit-sum: write digits that add up to a target. Very many correct answers, so diversity can be measured.

The prompt is ``BOS d d =`` with the two digits of the target. Two variants:

* ``digit-sum``: six digits. Every position is uncertain (up to log 10 = 2.30 nats).
* ``digit-sum-running``: five digits, each followed by the two digits of the exact running sum (15 tokens). The digit
  positions are uncertain and the sum positions nearly deterministic: the mixture of high and low entropies that
  language models show, without which outlier rules such as Clip_B find no outliers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corollary.tasks.task import Demonstrations, Prompt, Split

BOS, EQUALS, PAD, STOP = 10, 11, 12, 13


class DigitSum:
    """Digits that add up to a target.

    Args:
        name: The name in the registry.
        n_digits: Digits to write.
        running_sums: Whether the two digits of the running sum follow each digit.
        targets: Smallest and largest target, both included. Extreme sums, which few digit strings reach, are left
            out.
        held_out_every: Every so many-th target is held out from training.
    """

    vocab_size = 14
    pad_token = PAD
    stop_token: int | None = STOP

    def __init__(
        self,
        name: str,
        *,
        n_digits: int,
        running_sums: bool,
        targets: tuple[int, int],
        held_out_every: int = 4,
    ) -> None:
        low, high = targets
        if not 0 <= low <= high <= 9 * n_digits or high > 99:
            raise ValueError(f"targets must lie in [0, {min(9 * n_digits, 99)}], got {targets}")
        self.name = name
        self.n_digits = n_digits
        self.running_sums = running_sums
        self.targets = range(low, high + 1)
        self.held_out_every = held_out_every
        self.max_completion_length = n_digits * (3 if running_sums else 1)

    def prompt(self, target: int) -> Prompt:
        """The prompt of one target."""
        return Prompt(tokens=(BOS, target // 10, target % 10, EQUALS), answer=target)

    def prompts(self, split: Split) -> list[Prompt]:
        """All targets of the split, ascending. The last of every ``held_out_every`` targets is held out."""
        if split not in ("train", "held_out"):
            raise ValueError(f"split must be 'train' or 'held_out', got {split!r}")
        last = self.held_out_every - 1
        held_out = split == "held_out"
        return [self.prompt(t) for i, t in enumerate(self.targets) if (i % self.held_out_every == last) == held_out]

    def digits(self, completion: Sequence[int]) -> tuple[int, ...] | None:
        """The digits that a completion chose, or None if it is malformed (length, other tokens, a wrong sum)."""
        if len(completion) != self.max_completion_length or any(not 0 <= token <= 9 for token in completion):
            return None
        if not self.running_sums:
            return tuple(completion)
        total, chosen = 0, []
        for digit, tens, ones in zip(completion[::3], completion[1::3], completion[2::3], strict=True):
            total += digit
            if 10 * tens + ones != total:
                return None
            chosen.append(digit)
        return tuple(chosen)

    def correct(self, prompt: Prompt, completion: Sequence[int]) -> bool:
        """Whether the completion is well formed and its digits add up to the target."""
        digits = self.digits(completion)
        return digits is not None and sum(digits) == prompt.answer

    def reward(self, prompt: Prompt, completion: Sequence[int]) -> float:
        """1 if the completion is correct, else 0."""
        return float(self.correct(prompt, completion))

    def answer_key(self, completion: Sequence[int]) -> tuple[int, ...]:
        """The chosen digits; for a malformed completion its tokens."""
        return self.digits(completion) or tuple(completion)

    def demonstrations(
        self, count: int, rng: np.random.Generator, *, jitter: int = 3, jitter_probability: float = 0.7
    ) -> Demonstrations:
        """Imperfect solutions for supervised learning, so that the policy starts capable, diverse and often wrong.

        The target is uniform over all targets, held-out ones included (the warm start stands for pre-training; only
        the reinforcement learning is kept from them). With probability ``jitter_probability`` the digits are made for
        a target that is off by up to ``jitter`` (uniform, 0 included). Given their sum, all digit strings are
        equally likely.

        Returns:
            Tokens, ``(count, 4 + max_completion_length)``, without padding.
        """
        targets = rng.integers(self.targets.start, self.targets.stop, size=count)
        off = rng.integers(-jitter, jitter + 1, size=count) * (rng.random(count) < jitter_probability)
        digits = uniform_digits(np.clip(targets + off, 0, 9 * self.n_digits), self.n_digits, rng)
        columns = [np.full(count, BOS), targets // 10, targets % 10, np.full(count, EQUALS)]
        for position in range(self.n_digits):
            columns.append(digits[:, position])
            if self.running_sums:
                total = digits[:, : position + 1].sum(1)
                columns += [total // 10, total % 10]
        tokens = np.stack(columns, axis=1)
        return Demonstrations(tokens, np.broadcast_to(np.arange(tokens.shape[1]) >= 4, tokens.shape))


def uniform_digits(sums: NDArray[np.int64], n_digits: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Digit strings with the given sums, uniform over all such strings, ``(len(sums), n_digits)``."""
    # strings[n, s]: how many strings of n digits have the sum s.
    strings = np.zeros((n_digits + 1, 9 * n_digits + 1))
    strings[0, 0] = 1
    for n in range(1, n_digits + 1):
        for digit in range(10):
            strings[n, digit:] += strings[n - 1, : strings.shape[1] - digit]
    left = np.asarray(sums).copy()
    digits = np.empty((len(left), n_digits), dtype=np.int64)
    for position in range(n_digits):
        rest = left[:, None] - np.arange(10)
        weight = np.where(rest >= 0, strings[n_digits - position - 1, np.maximum(rest, 0)], 0.0)
        cumulative = weight.cumsum(1)
        # The draw lies in (0, total]; the chosen digit is the first whose cumulative weight reaches it, so a digit
        # of weight 0 is never chosen.
        draw = (1.0 - rng.random(len(left))) * cumulative[:, -1]
        digits[:, position] = (cumulative < draw[:, None]).sum(1)
        left -= digits[:, position]
    return digits


def digit_sum() -> DigitSum:
    """Six digits with sums from 5 to 48."""
    return DigitSum("digit-sum", n_digits=6, running_sums=False, targets=(5, 48))


def digit_sum_running() -> DigitSum:
    """Five digits, each followed by the running sum, with sums from 5 to 40."""
    return DigitSum("digit-sum-running", n_digits=5, running_sums=True, targets=(5, 40))
