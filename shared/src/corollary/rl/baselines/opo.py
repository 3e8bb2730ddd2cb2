"""OPO: on-policy learning with the baseline of least variance (arXiv:2505.23585)."""

from dataclasses import dataclass

from torch import Tensor

from corollary.rl.advantages import length_weighted_advantages
from corollary.rl.algorithm import Algorithm
from corollary.rl.baselines.unscaled import UnscaledConfig
from corollary.rl.batch import Rollouts


@dataclass(frozen=True, kw_only=True)
class OPOConfig(UnscaledConfig):
    """Hyper-parameters of OPO: those of the surrogate alone."""


class OPO(Algorithm):
    r"""GRPO's loss with :math:`A_i = R_i - \sum_j \ell_j R_j / \sum_j \ell_j`.

    Implementation notes:
        * OPO is strictly on-policy: train it with ``TrainConfig(mini_batches=1, epochs=1)``. The ratio is then 1 and
          no clip ever acts. An algorithm does not see the trainer's configuration, so nothing enforces it.
        * The baseline is that of verl's ``opo`` estimator; neither KL penalty nor entropy bonus, as in the paper.
    """

    Config = OPOConfig
    config: OPOConfig

    def advantages(self, rollouts: Rollouts) -> Tensor:
        """`length_weighted_advantages` of the rewards."""
        return length_weighted_advantages(
            rollouts.rewards, rollouts.lengths, rollouts.group_ids, singleton=self.config.singleton
        )
