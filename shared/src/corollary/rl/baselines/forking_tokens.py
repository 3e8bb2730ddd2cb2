"""80/20: the policy gradient of the most uncertain tokens alone (forking tokens, arXiv:2506.01939)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl.algorithm import Algorithm, GRPOConfig
from corollary.rl.batch import Batch
from corollary.rl.losses import binary_mask


class ForkingChoice(NamedTuple):
    """The uncertain tokens of a batch, and from which entropy on they are."""

    tokens: Tensor
    """Bool, ``(B, T)``."""
    threshold: float
    """Nats; NaN without any valid token."""


def high_entropy_tokens(entropy: Tensor, mask: Tensor, *, fraction: float = 0.2) -> ForkingChoice:
    r"""The valid tokens in the upper quantile of the entropies.

    .. math:: \{t : H_t \ge \tau_\rho\}, \qquad \tau_\rho \text{ the } (1 - \rho) \text{ quantile of the valid } H

    Symbols: :math:`H` ``entropy``, :math:`\rho` ``fraction``.

    Args:
        entropy: Nats, ``(B, T)``.
        mask: 1 for valid tokens, ``(B, T)``. Padding may hold anything.
        fraction: In (0, 1]; 1 takes every valid token.

    Returns:
        The tokens and the threshold. With ties at the threshold they are more than the share.

    Raises:
        ValueError: shapes differ, the mask is not 0/1, or ``fraction`` is out of range.

    Implementation notes:
        * Between two entropies the quantile is interpolated linearly, as `torch.quantile` does, which however refuses
          more than 2**24 tokens.
    """
    check_forking_options(fraction)
    valid = binary_mask(mask, entropy.shape)
    values = entropy.detach()[valid].sort().values
    if not len(values):
        return ForkingChoice(valid, torch.nan)
    position = (1 - fraction) * (len(values) - 1)
    below = min(int(position), len(values) - 1)
    above = min(below + 1, len(values) - 1)
    threshold = torch.lerp(values[below], values[above], position - below)
    return ForkingChoice(valid & (entropy.detach() >= threshold), threshold.item())


def check_forking_options(fraction: float) -> None:
    """Refuse options that `high_entropy_tokens` does not have.

    Raises:
        ValueError: ``fraction`` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")


@dataclass(frozen=True, kw_only=True)
class ForkingTokensConfig(GRPOConfig):
    """Hyper-parameters of the 80/20 rule."""

    fraction: float = 0.2
    """Share of the tokens that keep their gradient (the paper's 20 %)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_forking_options(self.fraction)


class ForkingTokens(Algorithm):
    """GRPO that learns from the tokens of highest entropy alone; the normaliser stays the number of all tokens.

    Implementation notes:
        * The quantile is that of the whole rollout batch at the behaviour policy, so that neither mini-batches nor
          micro-batches change it. The paper's is of the batch that is trained on; TRL takes the micro-batch's at the
          policy being trained.
        * The paper trains with DAPO's options (``clip_high=0.28``); the defaults here are GRPO's.
        * With a ``process_group`` every rank takes the quantile of its own tokens.
    """

    Config = ForkingTokensConfig
    config: ForkingTokensConfig
    metrics: ClassVar[Mapping[str, str]] = {
        "forking/threshold": "Entropy from which on a token keeps its gradient, nats.",
        "forking/kept": "Share of the batch's tokens that keep it.",
    }

    def prepare(self, batch: Batch) -> Batch:
        """Find the batch's uncertain tokens."""
        found = high_entropy_tokens(*batch.behaviour.required("entropy"), batch.mask, fraction=self.config.fraction)
        return replace(
            batch,
            per_token={**batch.per_token, "forking": found.tokens},
            metrics={
                "forking/threshold": found.threshold,
                "forking/kept": found.tokens.sum().item() / max(int(batch.mask.sum()), 1),
            },
        )

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """GRPO's loss, 0 on the other tokens."""
        return torch.where(batch.per_token["forking"], super().token_loss(batch, stats), 0.0)
