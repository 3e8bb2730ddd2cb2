"""RLOO: REINFORCE with the mean of a group's other rewards as the baseline (arXiv:2402.14740)."""

from dataclasses import dataclass

from torch import Tensor

from corollary.rl.advantages import leave_one_out_advantages
from corollary.rl.algorithm import Algorithm
from corollary.rl.baselines.unscaled import UnscaledConfig
from corollary.rl.batch import Rollouts


@dataclass(frozen=True, kw_only=True)
class RLOOConfig(UnscaledConfig):
    """Hyper-parameters of RLOO: those of the surrogate alone."""


class RLOO(Algorithm):
    r"""GRPO's clipped loss with leave-one-out advantages, :math:`A_i = \frac{G}{G-1}(R_i - \bar R)`.

    Implementation notes:
        * In the paper a response is one action and training is on-policy. That is ``mini_batches=1`` and
          ``aggregation="seq-mean-token-sum"``. The defaults are those of verl's ``rloo`` estimator: several
          mini-batches with the clipped ratio, and the mean over tokens.
        * The paper puts a KL penalty into the reward; there is none here.
    """

    Config = RLOOConfig
    config: RLOOConfig

    def advantages(self, rollouts: Rollouts) -> Tensor:
        """`leave_one_out_advantages` of the rewards."""
        return leave_one_out_advantages(rollouts.rewards, rollouts.group_ids, singleton=self.config.singleton)
