"""KL-Cov: a KL penalty on the tokens of highest covariance (arXiv:2505.22617)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl.algorithm import Algorithm, GRPOConfig
from corollary.rl.baselines.covariance import selection_count, token_covariance
from corollary.rl.batch import Batch
from corollary.rl.losses import ClipEvents, at_least_float32, binary_mask, importance_ratio

MIN_SHIFT = 1e-5
"""Nats. A smaller change of a log-probability is rounding, of forward passes over batches of different shape."""


def kl_cov_choice(covariance: Tensor, mask: Tensor, *, fraction: float = 2e-4) -> Tensor:
    r"""The tokens that KL-Cov penalises: the :math:`\max(1, \lfloor k N \rfloor)` of highest covariance.

    Symbols: :math:`k` ``fraction``, :math:`N` the number of valid tokens.

    Args:
        covariance: `token_covariance`, ``(B, T)``.
        mask: 1 for valid tokens, ``(B, T)``.
        fraction: In (0, 1].

    Returns:
        Bool, ``(B, T)``; nothing for an empty mask. Of equal covariances at the boundary any may be chosen.

    Raises:
        ValueError: shapes differ, the mask is not 0/1, or ``fraction`` is out of range.
    """
    check_kl_cov_options(fraction, 0.0)
    valid = binary_mask(mask, covariance.shape).flatten()
    chosen = torch.zeros_like(valid)
    if bool(valid.any()):
        ranked = torch.where(valid, covariance.flatten(), -torch.inf)
        chosen[ranked.topk(selection_count(fraction, valid)).indices] = True
    return chosen.view(covariance.shape)


def kl_cov_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, chosen: Tensor, *, coefficient: float = 1.0
) -> Tensor:
    r"""The unclipped surrogate, and on the chosen tokens a penalty for leaving the behaviour policy.

    .. math:: \ell = -A r + [i \in I]\, \beta\, \lvert \log\pi - \log\pi_\text{old} \rvert,
              \qquad r = \exp(\log\pi - \log\pi_\text{old})

    Symbols: :math:`\log\pi` ``log_probs``, :math:`\log\pi_\text{old}` ``old_log_probs``, :math:`A` ``advantages``,
    :math:`I` ``chosen``, :math:`\beta` ``coefficient``.

    Args:
        log_probs: Log-probability of each token under the policy being trained, nats, ``(B, T)``; carries the gradient.
        old_log_probs: The same under the behaviour policy, ``(B, T)``.
        advantages: ``(B, T)``.
        chosen: Bool, ``(B, T)``.
        coefficient: At least 0.

    Returns:
        The loss, ``(B, T)``.

    Raises:
        ValueError: shapes differ.

    Implementation notes:
        * A shift of less than `MIN_SHIFT` is not penalised. In the first mini-batch the policy still is the behaviour
          policy, and the gradient of an absolute value there, as in the released code, is the sign of a rounding
          error: plus or minus :math:`\\beta` at random, and another one if the batch is split in another way.
    """
    shapes = {tuple(x.shape) for x in (log_probs, old_log_probs, advantages, chosen)}
    if len(shapes) > 1:
        raise ValueError(
            f"log_probs, old_log_probs, advantages and chosen must have one shape (B, T), got {sorted(shapes)}"
        )
    shift = (at_least_float32(log_probs) - at_least_float32(old_log_probs)).abs()
    loss = -at_least_float32(advantages) * importance_ratio(log_probs, old_log_probs)
    return loss + torch.where(chosen & (shift > MIN_SHIFT), coefficient * shift, 0.0)


def check_kl_cov_options(fraction: float, coefficient: float) -> None:
    """Refuse options that KL-Cov does not have.

    Raises:
        ValueError: ``fraction`` is not in (0, 1], or ``coefficient`` is negative.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    if not 0 <= coefficient < float("inf"):
        raise ValueError(f"coefficient must be finite and at least 0, got {coefficient}")


@dataclass(frozen=True, kw_only=True)
class KLCovConfig(GRPOConfig):
    """Hyper-parameters of KL-Cov. It does not clip: to ask for another clip range than the default is an error."""

    dual_clip: float | None = None
    """There is none."""
    fraction: float = 2e-4
    """Share of the mini-batch's tokens that are penalised (verl's default; the authors' script for 7B has 2e-3)."""
    coefficient: float = 1.0
    """Weight of the penalty (verl's default, as in the authors' script)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kl_cov_options(self.fraction, self.coefficient)
        given = (self.clip_low, self.clip_high, self.dual_clip)
        if given != (GRPOConfig.clip_low, GRPOConfig.clip_high, None):
            raise ValueError(f"KL-Cov does not clip: leave clip_low, clip_high and dual_clip alone, got {given}")


class KLCov(Algorithm):
    """The unclipped surrogate with a KL penalty on the tokens of highest covariance.

    Implementation notes:
        * As for `corollary.rl.ClipCov`, covariances and the choice are the mini-batch's. With a ``process_group`` the
          means are those of all ranks and each rank chooses among its own tokens.
        * The penalty is that of the released code: the absolute log-ratio of the sampled token, whose mean is no KL
          divergence, though the paper calls it one.
    """

    Config = KLCovConfig
    config: KLCovConfig
    metrics: ClassVar[Mapping[str, str]] = {
        "covariance/mean": "Covariance of log-probability and advantage over the mini-batch's tokens.",
        "covariance/penalised": "Share of the tokens in the loss that carry KL-Cov's penalty.",
        "covariance/shift": "Mean absolute log-ratio of those tokens.",
    }

    def prepare_mini_batch(self, batch: Batch, stats: TokenStats) -> Batch:
        """Choose the mini-batch's penalised tokens."""
        covariance = token_covariance(
            *stats.required("log_prob"), batch.advantages, batch.mask, process_group=self.process_group
        )
        chosen = kl_cov_choice(covariance, batch.mask, fraction=self.config.fraction)
        count = max(int(batch.mask.sum()), 1)
        return replace(
            batch,
            per_token={**batch.per_token, "kl_cov": chosen},
            metrics={
                "covariance/mean": covariance.sum().item() / count,
                "covariance/penalised": chosen.sum().item() / count,
            },
        )

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """`kl_cov_loss` with the mini-batch's choice."""
        return kl_cov_loss(
            *stats.required("log_prob"),
            batch.old_log_probs,
            batch.advantages,
            batch.per_token["kl_cov"],
            coefficient=self.config.coefficient,
        )

    def clip_events(self, batch: Batch, stats: TokenStats) -> ClipEvents:
        """No token: nothing is clipped."""
        none = torch.zeros_like(batch.mask)
        return ClipEvents(none, none, none)

    def update_metrics(self, batch: Batch, stats: TokenStats) -> dict[str, tuple[Tensor, Tensor]]:
        """GRPO's, and how far the penalised tokens have moved."""
        chosen = batch.per_token["kl_cov"]
        (log_probs,) = stats.required("log_prob")
        shift = torch.where(chosen, (log_probs - batch.old_log_probs).abs(), 0.0)
        return {**super().update_metrics(batch, stats), "covariance/shift": (shift.sum(), chosen.sum())}
