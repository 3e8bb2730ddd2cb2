"""Entropy bonus with a coefficient that follows a target (Skywork-OR1, arXiv:2505.22312)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl.algorithm import Algorithm, GRPOConfig
from corollary.rl.baselines.entropy_bonus import EntropyBonus, entropy_estimate, entropy_sum
from corollary.rl.baselines.masked_mean import masked_mean
from corollary.rl.batch import Batch


def next_coefficient(
    coefficient: float, entropy: float, target: float, *, step: float, minimum: float, maximum: float
) -> float:
    r"""One move of the adaptive coefficient: up below the target, down above it.

    .. math:: c_{k+1} = \mathrm{clip}(c_k + \Delta\,\mathrm{sign}(e^* - e_k),\; c_\min,\; c_\max)

    Symbols: :math:`c` ``coefficient``, :math:`e` ``entropy``, :math:`e^*` ``target``, :math:`\Delta` ``step``,
    :math:`c_\min` ``minimum``, :math:`c_\max` ``maximum``. At the target itself it stays.

    Example:
        >>> next_coefficient(0.01, 0.5, 0.2, step=0.005, minimum=0.0, maximum=1.0)
        0.005
    """
    direction = (entropy < target) - (entropy > target)
    return min(max(coefficient + direction * step, minimum), maximum)


@dataclass(frozen=True, kw_only=True)
class AdaptiveEntropyBonusConfig(GRPOConfig):
    """Hyper-parameters of the adaptive entropy bonus, with the defaults of TRL 1.16."""

    target: float = 0.2
    """Entropy that is wanted, nats per token (``entropy_target``)."""
    initial: float = 0.0
    """The first coefficient (``entropy_coef``)."""
    step: float = 0.005
    """By how much the coefficient moves after a batch (``entropy_coef_delta``)."""
    minimum: float = 0.0
    """Smallest coefficient (``entropy_coef_min``)."""
    maximum: float = 1.0
    """Largest coefficient (``entropy_coef_max``)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.target < math.inf:
            raise ValueError(f"target must be finite and at least 0, got {self.target}")
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be finite and larger than 0, got {self.step}")
        if not 0 <= self.minimum <= self.initial <= self.maximum < math.inf:
            raise ValueError(
                f"0 <= minimum <= initial <= maximum must hold, got {self.minimum}, {self.initial} and {self.maximum}"
            )


class AdaptiveEntropyBonus(Algorithm):
    r"""GRPO with an entropy bonus whose coefficient follows a target (Skywork-OR1, arXiv:2505.22312).

    With the mean entropy :math:`e_k` of the tokens of batch :math:`k` at the behaviour policy,

    .. math:: \ell - \alpha_k H, \qquad \alpha_k = c_k\,[e_k \le e^*]

    and `next_coefficient` gives :math:`c_{k+1}`. So the bonus is off as long as the entropy is above the target:
    nothing pushes the entropy down to it.

    Implementation notes:
        * The paper's equation is known to us from TRL's implementation; that an entropy equal to the target leaves the
          coefficient alone is our choice.
        * The bonus is aggregated like the loss; see `EntropyBonus`.
        * The coefficient moves once a batch. With a ``process_group`` all ranks see the mean entropy of all.
    """

    Config = AdaptiveEntropyBonusConfig
    config: AdaptiveEntropyBonusConfig
    update_stats = frozenset({"log_prob", "entropy"})
    metrics: ClassVar[Mapping[str, str]] = {
        **EntropyBonus.metrics,
        "entropy_bonus/coefficient": "The coefficient of the entropy in the batch's loss: 0 above the target.",
        "entropy_bonus/controller": "The adaptive coefficient before the batch, whether applied or not.",
    }

    def __init__(self, config: AdaptiveEntropyBonusConfig | None = None) -> None:
        super().__init__(config)
        self.coefficient = self.config.initial

    def prepare(self, batch: Batch) -> Batch:
        """Fix the batch's coefficient, and move the controller."""
        c = self.config
        (entropies,) = batch.behaviour.required("entropy")
        entropy = masked_mean(entropies, batch.mask, process_group=self.process_group).item()
        before, applied = self.coefficient, self.coefficient if entropy <= c.target else 0.0
        self.coefficient = next_coefficient(
            before, entropy, c.target, step=c.step, minimum=c.minimum, maximum=c.maximum
        )
        return replace(
            batch,
            per_token={**batch.per_token, "entropy_coefficient": torch.full_like(entropies, applied)},
            metrics={"entropy_bonus/coefficient": applied, "entropy_bonus/controller": before},
        )

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """GRPO's loss minus the bonus."""
        return super().token_loss(batch, stats) - batch.per_token["entropy_coefficient"] * entropy_estimate(stats)

    def update_metrics(self, batch: Batch, stats: TokenStats) -> dict[str, tuple[Tensor, Tensor]]:
        """GRPO's, and the entropy that the bonus sees."""
        return {**super().update_metrics(batch, stats), "entropy_bonus/entropy": entropy_sum(batch, stats)}

    def state_dict(self) -> dict[str, Any]:
        """The coefficient."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back the coefficient."""
        if set(state) != {"coefficient"}:
            raise ValueError(f"the state must hold 'coefficient' alone, got {sorted(state)}")
        self.coefficient = float(state["coefficient"])
