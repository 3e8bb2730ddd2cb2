"""Tabular policies for digit-sum: a table of logits, looked up by what the policy remembers of its own digits.

They are causal language models as far as `corollary.rollout.sample_completions` and `corollary.rl.score` can tell, so
the same trainer, algorithms and recipes run them, at a small part of a transformer's cost. Two memories:

* `RemainingSum`: position and what is left of the target. Nothing more matters for the task, so a policy can be correct
  and diverse at once: every distribution over correct answers whose digits depend on the past through the remaining sum
  only, the uniform one included.
* `PreviousDigit`: target, position and the previous digit. To be correct such a policy has to remember its own digits,
  and it can only do so by always writing the same ones: accuracy requires a low entropy.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from corollary.tasks.digit_sum import BOS

DIGITS = 10
PROMPT_LENGTH = 4
"""``BOS d d =``"""


class PolicyOutput(NamedTuple):
    """What a causal language model returns, as far as sampling and scoring look at it."""

    logits: Tensor
    """``(B, S, 10)``: the policy writes digits only."""
    past_key_values: Tensor
    """The token ids seen so far, ``(B, S)``: a table has nothing else to keep."""


class TabularPolicy(nn.Module):
    """Logits of the next digit by position and memory; subclasses say what the memory is.

    Args:
        n_digits: Digits of an answer.
        states: Number of different memories.
    """

    def __init__(self, n_digits: int, states: int) -> None:
        super().__init__()
        self.n_digits = n_digits
        self.largest_target = 9 * n_digits
        self.table = nn.Parameter(torch.zeros(n_digits, states, DIGITS))

    def memory(self, target: Tensor, digits: Tensor) -> Tensor:
        """What the policy remembers before each digit and after the last one.

        Args:
            target: ``(B,)``, int64.
            digits: The digits so far, ``(B, K)``, int64.

        Returns:
            Row of the table before each of the ``K`` digits and after them, ``(B, K + 1)``, int64.
        """
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        past_key_values: Tensor | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> PolicyOutput:
        """Logits after each of the last ``logits_to_keep`` tokens (0: after each of ``input_ids``).

        Those inside the prompt, and after the last digit of an answer, mean nothing and are never asked for. Prompts
        are found by their first token, so padding at the left needs no ``attention_mask``.
        """
        ids = input_ids if past_key_values is None else torch.cat([past_key_values, input_ids], dim=1)
        # All prompts have the same length, so where one begins they all do.
        first = int((ids[0] == BOS).int().argmax())
        target = 10 * ids[:, first + 1] + ids[:, first + 2]
        digits = ids[:, first + PROMPT_LENGTH :].clamp(max=DIGITS - 1)
        logits = self.next_digit(target, digits)
        keep = logits_to_keep or input_ids.shape[1]
        if keep > logits.shape[1]:
            logits = nn.functional.pad(logits, (0, 0, keep - logits.shape[1], 0))
        return PolicyOutput(logits[:, -keep:], ids)

    def next_digit(self, target: Tensor, digits: Tensor) -> Tensor:
        """Logits before each of the ``K`` digits and after them, ``(B, K + 1, 10)``."""
        position = torch.arange(digits.shape[1] + 1, device=digits.device).clamp(max=self.n_digits - 1)
        return self.table[position, self.memory(target, digits)]


class RemainingSum(TabularPolicy):
    """Logits by position and what is left of the target; negative once the digits exceed it."""

    def __init__(self, n_digits: int = 6) -> None:
        # From minus the largest sum to the largest target.
        super().__init__(n_digits, 2 * 9 * n_digits + 1)

    def memory(self, target: Tensor, digits: Tensor) -> Tensor:
        """The remaining sum, shifted to start at 0."""
        spent = nn.functional.pad(digits.cumsum(1), (1, 0))
        return (target[:, None] - spent + self.largest_target).clamp(0, 2 * self.largest_target)


class PreviousDigit(TabularPolicy):
    """Logits by target, position and previous digit."""

    def __init__(self, n_digits: int = 6) -> None:
        super().__init__(n_digits, (9 * n_digits + 1) * (DIGITS + 1))

    def memory(self, target: Tensor, digits: Tensor) -> Tensor:
        """Target and previous digit; before the first digit, a symbol of its own."""
        previous = nn.functional.pad(digits, (1, 0), value=DIGITS)
        return target.clamp(max=self.largest_target)[:, None] * (DIGITS + 1) + previous
