"""GRPO with an entropy bonus: the baseline that AEPO is meant to replace."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl import Algorithm, Batch, GRPOConfig

Estimator = Literal["analytic", "mc"]


@dataclass(frozen=True, kw_only=True)
class EntropyBonusConfig(GRPOConfig):
    """Hyper-parameters of GRPO, and the bonus."""

    coefficient: float = 0.03
    """Weight of the entropy (the released code's field; the value behind the paper's tables is not known)."""
    estimator: Estimator = "analytic"
    """``"analytic"``: -sum p log p. ``"mc"``: -log pi of the sampled token, as in the released code base."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.coefficient < float("inf"):
            raise ValueError(f"coefficient must be finite and at least 0, got {self.coefficient}")
        if self.estimator not in get_args(Estimator):
            raise ValueError(f"estimator must be one of {get_args(Estimator)}, got {self.estimator!r}")


class EntropyBonus(Algorithm):
    r"""GRPO with the loss :math:`\ell_t - \beta\, H(\pi_\theta(\cdot | s_t))`.

    The entropy of each token's state must be the analytic one. The Monte-Carlo estimate :math:`-\log \pi_\theta(o_t)`
    has the right value, but its gradient is not the entropy's: on-policy
    :math:`E_\pi[\nabla(-\log \pi_\theta)] = 0`, so it only adds noise.

    Symbols: :math:`\beta` ``coefficient``.
    """

    Config = EntropyBonusConfig
    config: EntropyBonusConfig
    update_stats: ClassVar[frozenset[str]] = frozenset({"log_prob", "entropy"})
    metrics: ClassVar[Mapping[str, str]] = {}

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """GRPO's loss minus the bonus."""
        log_probs, entropy = stats.required("log_prob", "entropy")
        bonus = entropy if self.config.estimator == "analytic" else -log_probs
        return super().token_loss(batch, stats) - self.config.coefficient * bonus
