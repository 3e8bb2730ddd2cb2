"""Entropy bonus: reward the policy for its entropy, by a fixed coefficient (as in PPO, arXiv:1707.06347, Eq. 9)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl.algorithm import Algorithm, GRPOConfig
from corollary.rl.batch import Batch

Estimator = Literal["analytic", "sampled"]


def entropy_estimate(stats: TokenStats, estimator: Estimator = "analytic") -> Tensor:
    r"""What the bonus takes for the entropy of each token's distribution, nats, with gradient.

    ``"analytic"`` is the entropy itself, whose gradient in the logits :math:`z` is

    .. math:: H = -\sum_j p_j \log p_j, \qquad \frac{\partial H}{\partial z_j} = -p_j (\log p_j + H)

    ``"sampled"`` is :math:`-\log p_k` of the sampled token :math:`k`, as in code bases that call it the entropy. Its
    value is right on average, but its gradient is not that of the entropy: on-policy it is 0 on average. It is here to
    show that.

    Args:
        stats: ``entropy`` or ``log_prob``, ``(B, T)``.
        estimator: Which.

    Returns:
        ``(B, T)``.

    Raises:
        ValueError: ``estimator`` is unknown, or its statistic is missing.
    """
    if estimator not in get_args(Estimator):
        raise ValueError(f"estimator must be one of {get_args(Estimator)}, got {estimator!r}")
    if estimator == "analytic":
        return stats.required("entropy")[0]
    return -stats.required("log_prob")[0]


@dataclass(frozen=True, kw_only=True)
class EntropyBonusConfig(GRPOConfig):
    """Hyper-parameters of the fixed entropy bonus."""

    coefficient: float = 0.01
    """Weight of the entropy in the loss. There is no published default: 0.01 is our choice, usual in PPO."""
    estimator: Estimator = "analytic"
    """Of `entropy_estimate`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.coefficient):
            raise ValueError(f"coefficient must be finite, got {self.coefficient}")
        if self.estimator not in get_args(Estimator):
            raise ValueError(f"estimator must be one of {get_args(Estimator)}, got {self.estimator!r}")


class EntropyBonus(Algorithm):
    r"""GRPO with :math:`\ell - \beta H` for the loss of a token; a negative :math:`\beta` lowers the entropy.

    Implementation notes:
        * The bonus is aggregated like the loss, as in verl: with ``token-mean`` it is :math:`\beta` times the mean
          entropy of the tokens. TRL takes that mean with every aggregation.
        * The entropy is that of the policy being trained at the training temperature.
    """

    Config = EntropyBonusConfig
    config: EntropyBonusConfig
    update_stats = frozenset({"log_prob", "entropy"})
    metrics: ClassVar[Mapping[str, str]] = {
        "entropy_bonus/entropy": "Mean entropy of the tokens in the loss at the policy being trained, nats."
    }

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """GRPO's loss minus the bonus."""
        return super().token_loss(batch, stats) - self.config.coefficient * entropy_estimate(
            stats, self.config.estimator
        )

    def update_metrics(self, batch: Batch, stats: TokenStats) -> dict[str, tuple[Tensor, Tensor]]:
        """GRPO's, and the entropy that the bonus sees."""
        return {**super().update_metrics(batch, stats), "entropy_bonus/entropy": entropy_sum(batch, stats)}


def entropy_sum(batch: Batch, stats: TokenStats) -> tuple[Tensor, Tensor]:
    """Sum and count of the entropies of the tokens in the loss."""
    (entropy,) = stats.required("entropy")
    return (entropy * batch.mask).sum(), batch.mask.sum()
