"""What the released code gives, worked out by hand: one prompt a case.

``LLM`` is for `AdoraConfig.llm_2025` and Knights-and-Knaves scores: 3 for a right answer, -0.5 for a wrong one, -1 for
one that cannot be parsed, -3 for a missing or malformed one. ``VL`` is for `AdoraConfig.vl`: 1 for a right answer, 0.1
for a wrong one, 0 for none in a box. The two differ where a set of responses is empty.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from corollary.rl import Rollouts


class Case(NamedTuple):
    """The responses to one prompt, and the weight that they get."""

    name: str
    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    weight: float


LLM = (
    Case("no success", (-0.5, -3.0, -1.0), (10, 20, 30), 0.1),
    Case("no success, all cut off", (-1.0, -1.0), (4054, 5000), 0.1),
    Case("all right", (3.0, 3.0), (5, 7), 1.0),
    Case("right, and failures that were all cut off", (3.0, -1.0), (10, 4054), 1.0),
    Case("a failure that was cut off does not count", (3.0, -0.5, -1.0), (100, 50, 4054), 1.0),
    Case("one that is a token shorter does", (3.0, -0.5, -1.0), (100, 50, 4053), 0.1),
    Case("a tie", (3.0, -0.5), (10, 10), 0.1),
    Case("a tie with the mean", (3.0, -0.5, -3.0), (10, 5, 15), 0.1),
    Case("longest success against mean failure, not the reverse", (3.0, 3.0, -0.5, -1.0), (5, 12, 4, 18), 1.0),
    Case("longest success, not the mean of successes", (3.0, 3.0, -0.5), (2, 9, 8), 1.0),
    Case("shorter", (3.0, -0.5), (9, 10), 0.1),
    Case("a single success", (3.0,), (10,), 1.0),
    Case("a single failure", (-3.0,), (10,), 0.1),
    Case("a score of 1.01 is no success", (1.01, -0.5), (20, 10), 0.1),
)

VL = (
    Case("no success", (0.1, 0.0, 0.0), (10, 20, 30), 1.0),
    Case("no success, all cut off", (0.0, 0.0), (4094, 5000), 1.0),
    Case("all right", (1.0, 1.0), (5, 7), 0.1),
    Case("right, and failures that were all cut off", (1.0, 0.0), (10, 4094), 0.1),
    Case("a failure that was cut off does not count", (1.0, 0.1, 0.0), (100, 50, 4094), 1.0),
    Case("one that is a token shorter does", (1.0, 0.1, 0.0), (100, 50, 4093), 0.1),
    Case("a tie", (1.0, 0.1), (10, 10), 0.1),
    Case("a tie with the mean", (1.0, 0.1, 0.0), (10, 5, 15), 0.1),
    Case("longest success against mean failure, not the reverse", (1.0, 1.0, 0.1, 0.0), (5, 12, 4, 18), 1.0),
    Case("longest success, not the mean of successes", (1.0, 1.0, 0.1), (2, 9, 8), 1.0),
    Case("shorter", (1.0, 0.1), (9, 10), 0.1),
    Case("a single success", (1.0,), (10,), 0.1),
    Case("a single failure", (0.0,), (10,), 1.0),
    Case("a reward of 0.5 is no success", (0.5, 0.0), (20, 10), 1.0),
)

HAND = Case("advantages", (3.0, -0.5, -0.5), (9, 10, 12), 0.1)
"""Group mean 2/3 and unbiased deviation 7 / (2 sqrt 3), so GRPO's advantages are (2, -1, -1) / sqrt 3."""
HAND_ADVANTAGES = (0.2 / 3**0.5, -0.1 / 3**0.5, -0.1 / 3**0.5)


class Flat(NamedTuple):
    """Cases as one batch of ``B`` responses."""

    scores: Tensor
    lengths: Tensor
    group_ids: Tensor
    weights: Tensor
    """What the hand gave, float64."""


def flat(cases: Sequence[Case]) -> Flat:
    """All cases as one batch, in which the responses to a prompt do not stand side by side."""
    rows = [
        (s, n, g, case.weight) for g, case in enumerate(cases) for s, n in zip(case.scores, case.lengths, strict=True)
    ]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    scores, lengths, group_ids, weights = zip(*(rows[row] for row in order), strict=True)
    return Flat(
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(lengths),
        torch.tensor(group_ids),
        torch.tensor(weights, dtype=torch.float64),
    )


def rollouts(batch: Flat) -> Rollouts:
    """The same as a trainer has it: completions of zeros, padded to the longest."""
    size, width = len(batch.scores), int(batch.lengths.max())
    mask = torch.arange(width) < batch.lengths[:, None]
    return Rollouts(
        prompt_ids=batch.group_ids[:, None],
        prompt_mask=torch.ones(size, 1, dtype=torch.bool),
        completion_ids=torch.zeros(size, width, dtype=torch.long),
        completion_mask=mask,
        sampling_log_probs=torch.zeros(size, width),
        rewards=batch.scores,
        group_ids=batch.group_ids,
        temperatures=torch.ones(size),
    )
