"""Entropy-based advantage: a little more for what was decided in doubt (arXiv:2506.14758)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl.algorithm import Algorithm, GRPOConfig
from corollary.rl.batch import Batch
from corollary.rl.losses import at_least_float32


def entropy_advantages(advantages: Tensor, entropy: Tensor, *, weight: float = 0.4, kappa: float = 2.0) -> Tensor:
    r"""Advantages plus a bounded share of the entropy.

    .. math:: A'_t = A_t + \min\Bigl(\alpha\, H_t,\; \frac{\lvert A_t \rvert}{\kappa}\Bigr)

    with no gradient through :math:`H`. As :math:`\kappa > 1` no sign changes, and a token without advantage gets none.

    Symbols: :math:`A` ``advantages``, :math:`H` ``entropy``, :math:`\alpha` ``weight``, :math:`\kappa` ``kappa``.

    Args:
        advantages: ``(B, T)``.
        entropy: Nats, ``(B, T)``. Gradients are cut.
        weight: Larger than 0.
        kappa: Larger than 1.

    Returns:
        ``A'``, ``(B, T)``, float32 at least.

    Raises:
        ValueError: shapes differ, or an option is out of range.

    Example:
        >>> entropy_advantages(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.625, 9.0]])).tolist()
        [[1.25, -0.5]]
    """
    check_entropy_advantage_options(weight, kappa)
    if advantages.shape != entropy.shape:
        raise ValueError(
            f"advantages and entropy must have one shape (B, T), got {tuple(advantages.shape)} and "
            f"{tuple(entropy.shape)}"
        )
    advantages, entropy = at_least_float32(advantages), at_least_float32(entropy.detach())
    return advantages + torch.minimum(weight * entropy, advantages.abs() / kappa)


def check_entropy_advantage_options(weight: float, kappa: float) -> None:
    """Refuse options that `entropy_advantages` does not have.

    Raises:
        ValueError: ``weight`` is not larger than 0, or ``kappa`` not larger than 1.
    """
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight must be finite and larger than 0, got {weight}")
    if not kappa > 1:
        raise ValueError(f"kappa must be larger than 1, got {kappa}")


@dataclass(frozen=True, kw_only=True)
class EntropyAdvantageConfig(GRPOConfig):
    """Hyper-parameters of the entropy-based advantage. Both values are from memory of the paper, not checked."""

    weight: float = 0.4
    """Of the entropy; 0.4 for GRPO."""
    kappa: float = 2.0
    """The entropy's share is at most the advantage's size divided by this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_entropy_advantage_options(self.weight, self.kappa)


class EntropyAdvantage(Algorithm):
    """GRPO with `entropy_advantages`, from the entropy of the policy being trained."""

    Config = EntropyAdvantageConfig
    config: EntropyAdvantageConfig
    update_stats = frozenset({"log_prob", "entropy"})
    metrics: ClassVar[Mapping[str, str]] = {
        "entropy_advantage/bonus": "Mean of what the entropy adds to the advantage of a token in the loss."
    }

    def shaped(self, batch: Batch, stats: TokenStats) -> Tensor:
        """The advantages that the loss uses, ``(B, T)``."""
        c = self.config
        return entropy_advantages(batch.advantages, *stats.required("entropy"), weight=c.weight, kappa=c.kappa)

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """GRPO's loss with the shaped advantages."""
        return super().token_loss(replace(batch, advantages=self.shaped(batch, stats)), stats)

    def update_metrics(self, batch: Batch, stats: TokenStats) -> dict[str, tuple[Tensor, Tensor]]:
        """GRPO's, and the size of the bonus."""
        added = (self.shaped(batch, stats) - batch.advantages) * batch.mask
        return {**super().update_metrics(batch, stats), "entropy_advantage/bonus": (added.sum(), batch.mask.sum())}
