"""DAPO: clip-higher, the mean over tokens, no group without signal, soft punishment of overlong responses.

Paper: arXiv:2503.14476.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from corollary.rl.algorithm import Algorithm, logs_only
from corollary.rl.baselines.clip_higher import ClipHigherConfig
from corollary.rl.batch import Batch, Rollouts


def overlong_penalty(lengths: Tensor, *, max_length: int, buffer: int) -> Tensor:
    r"""What DAPO adds to the reward of a long response (arXiv:2503.14476, Eq. 13).

    .. math:: R_\text{length}(y) = \begin{cases}
              0 & |y| \le L_\max - L_\text{cache} \\
              \frac{(L_\max - L_\text{cache}) - |y|}{L_\text{cache}} & L_\max - L_\text{cache} < |y| \le L_\max \\
              -1 & |y| > L_\max \end{cases}

    Symbols: :math:`|y|` ``lengths``, :math:`L_\max` ``max_length``, :math:`L_\text{cache}` ``buffer``.

    Args:
        lengths: Tokens of each response, ``(B,)``.
        max_length: Longest response allowed.
        buffer: From so many tokens before it the penalty grows; 1 to ``max_length``.

    Returns:
        ``(B,)``, float64, in [-1, 0].

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> overlong_penalty(torch.tensor([6, 8, 10]), max_length=10, buffer=4).tolist()
        [0.0, -0.5, -1.0]
    """
    check_overlong_options(max_length, buffer)
    return ((max_length - buffer - lengths.double()) / buffer).clamp(-1.0, 0.0)


def check_overlong_options(max_length: int | None, buffer: int | None) -> None:
    """Refuse options that make no overlong penalty; both None is none at all.

    Raises:
        ValueError: only one is given, or they are out of range.
    """
    if (max_length is None) != (buffer is None):
        raise ValueError(f"max_length and buffer must be given together, got {max_length} and {buffer}")
    if max_length is not None and buffer is not None and not 1 <= buffer <= max_length:
        raise ValueError(f"buffer must be in [1, max_length], got {buffer} of {max_length}")


def has_signal(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """Which responses are in a group with at least two different rewards, bool, ``(B,)``."""
    _, index = torch.unique(group_ids, return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    low = torch.full((count,), torch.inf, dtype=rewards.dtype, device=rewards.device)
    high = torch.full((count,), -torch.inf, dtype=rewards.dtype, device=rewards.device)
    low, high = low.scatter_reduce(0, index, rewards, "amin"), high.scatter_reduce(0, index, rewards, "amax")
    return (low < high)[index]


@dataclass(frozen=True, kw_only=True)
class DAPOConfig(ClipHigherConfig):
    """Hyper-parameters of DAPO, on top of clip-higher (0.2, 0.28) and the mean over tokens."""

    dual_clip: float | None = None
    """The paper's objective has none; the recipe in verl sets 10."""
    filter_groups: bool = True
    """Leave groups of equal rewards out of the updates."""
    overlong_max_length: int | None = None
    """:math:`L_\\max` of the overlong penalty; None for no penalty. The paper has 20480, with a buffer of 4096."""
    overlong_buffer: int | None = None
    """:math:`L_\\text{cache}`, likewise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_overlong_options(self.overlong_max_length, self.overlong_buffer)


class DAPO(Algorithm):
    """GRPO with DAPO's four changes.

    Implementation notes:
        * *Dynamic sampling* in the paper goes on sampling prompts until the batch is full of groups whose accuracy is
          neither 0 nor 1: the batch has constant size and a step costs more samples the better or worse the policy is.
          Here such groups are only filtered: the sample has constant size and the batch shrinks. Both train on groups
          with signal alone, and mini-batches are cut from what is left. A batch without any signal gives a loss of 0.
        * Groups are filtered by the task's reward. The overlong penalty, which would give signal to a group of wrong
          answers of different length, comes after.
        * The mean over tokens is that of a mini-batch.
    """

    Config = DAPOConfig
    config: DAPOConfig
    metrics: ClassVar[Mapping[str, str]] = {
        "dapo/kept_responses": "Share of the responses that are trained on; `loss/kept` counts among these.",
        "dapo/overlong_penalty": "Mean of what is added to the rewards of long responses, 0 or negative.",
    }

    def penalty(self, rollouts: Rollouts) -> Tensor:
        """The overlong penalty of each response, ``(B,)``."""
        c = self.config
        if c.overlong_max_length is None or c.overlong_buffer is None:
            return torch.zeros_like(rollouts.rewards)
        return overlong_penalty(rollouts.lengths, max_length=c.overlong_max_length, buffer=c.overlong_buffer)

    def advantages(self, rollouts: Rollouts) -> Tensor:
        """GRPO's, of the rewards with the overlong penalty."""
        shaped = rollouts.rewards + self.penalty(rollouts).to(rollouts.rewards.dtype)
        return super().advantages(replace(rollouts, rewards=shaped))

    @logs_only(when=lambda dapo: not dapo.config.filter_groups)
    def prepare(self, batch: Batch) -> Batch:
        """Leave out the groups without signal."""
        kept = torch.ones(len(batch), dtype=torch.bool, device=batch.mask.device)
        if self.config.filter_groups:
            kept = has_signal(batch.rollouts.rewards, batch.rollouts.group_ids)
        metrics = {
            "dapo/kept_responses": kept.double().mean().item(),
            "dapo/overlong_penalty": self.penalty(batch.rollouts).double().mean().item(),
        }
        if not bool(kept.any()):
            return replace(batch, mask=torch.zeros_like(batch.mask), metrics=metrics)
        # The rows and not their mask: else a mini-batch of few informative rows would count as much as one of many.
        return replace(batch.rows(kept.nonzero().squeeze(1)), metrics=metrics, extra=batch.extra)
