"""W-REINFORCE: punish wrong answers in full, reward right ones a little (arXiv:2506.01347)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from corollary.rl.algorithm import Algorithm
from corollary.rl.baselines.unscaled import UnscaledConfig
from corollary.rl.batch import Rollouts


def weighted_rewards(rewards: Tensor, *, positive_weight: float = 0.1, correct_above: float = 0.5) -> Tensor:
    r"""Advantages without a baseline: :math:`+\lambda` for a right response, :math:`-1` for a wrong one.

    The paper's objective is :math:`\lambda\, L_\text{PSR} + L_\text{NSR}`, of positive and negative sample
    reinforcement: :math:`\lambda = 0` is negative reinforcement alone, :math:`\lambda = 1` is REINFORCE with
    rewards of +1 and -1.

    Symbols: :math:`\lambda` ``positive_weight``.

    Args:
        rewards: ``(B,)``.
        positive_weight: At least 0.
        correct_above: A response with a larger reward is right.

    Returns:
        ``(B,)``, float32 (float64 for float64 rewards).

    Raises:
        ValueError: ``rewards`` is not one row, or holds NaN; or ``positive_weight`` is negative.
    """
    check_w_reinforce_options(positive_weight, correct_above)
    if rewards.ndim != 1:
        raise ValueError(f"rewards must be (B,), got {tuple(rewards.shape)}")
    if bool(torch.isnan(rewards).any()):
        raise ValueError("rewards must be numbers, got nan")
    dtype = torch.float64 if rewards.dtype == torch.float64 else torch.float32
    wrong = torch.full(rewards.shape, -1.0, dtype=dtype, device=rewards.device)
    return wrong.masked_fill(rewards > correct_above, positive_weight)


def check_w_reinforce_options(positive_weight: float, correct_above: float) -> None:
    """Refuse options that `weighted_rewards` does not have.

    Raises:
        ValueError: ``positive_weight`` is negative or infinite, or ``correct_above`` is not finite.
    """
    if not 0 <= positive_weight < float("inf"):
        raise ValueError(f"positive_weight must be finite and at least 0, got {positive_weight}")
    if not abs(correct_above) < float("inf"):
        raise ValueError(f"correct_above must be finite, got {correct_above}")


@dataclass(frozen=True, kw_only=True)
class WReinforceConfig(UnscaledConfig):
    """Hyper-parameters of W-REINFORCE."""

    positive_weight: float = 0.1
    """What a right response counts, against 1 for a wrong one (the authors' recommendation)."""
    correct_above: float = 0.5
    """A response with a larger reward is right (ours: tasks have rewards of 0 and 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_w_reinforce_options(self.positive_weight, self.correct_above)


class WReinforce(Algorithm):
    """The clipped surrogate with `weighted_rewards` for advantages: no group and no baseline.

    Implementation notes:
        * A group of right answers alone keeps pulling, and one of wrong answers alone keeps pushing, unlike in GRPO.
        * The surrogate is clipped, as in the authors' code, a fork of verl; on-policy (``mini_batches=1``) it is plain
          REINFORCE.
    """

    Config = WReinforceConfig
    config: WReinforceConfig

    def advantages(self, rollouts: Rollouts) -> Tensor:
        """`weighted_rewards`."""
        c = self.config
        return weighted_rewards(rollouts.rewards, positive_weight=c.positive_weight, correct_above=c.correct_above)
