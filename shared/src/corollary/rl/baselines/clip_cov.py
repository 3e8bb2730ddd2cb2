"""Clip-Cov: no gradient for a few random tokens of high covariance (arXiv:2505.22617)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl.algorithm import Algorithm, GRPOConfig
from corollary.rl.baselines.covariance import selection_count, token_covariance
from corollary.rl.batch import Batch
from corollary.rl.losses import binary_mask


def clip_cov_choice(
    covariance: Tensor,
    mask: Tensor,
    clipped: Tensor,
    *,
    fraction: float = 2e-4,
    lower: float = 1.0,
    upper: float = 5.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""The tokens that Clip-Cov leaves without gradient.

    Of the valid tokens that PPO has not clipped and whose covariance lies in an interval, so many are drawn at random
    without replacement:

    .. math:: I = \mathrm{Uniform}\bigl(\{i : \omega_\text{low} < c_i < \omega_\text{high}\},\;
              \max(1, \lfloor r N \rfloor)\bigr)

    all of them if they are fewer.

    Symbols: :math:`c` ``covariance``, :math:`\omega_\text{low}` ``lower``, :math:`\omega_\text{high}` ``upper``,
    :math:`r` ``fraction``, :math:`N` the number of valid tokens, clipped ones included.

    Args:
        covariance: `token_covariance`, ``(B, T)``.
        mask: 1 for valid tokens, ``(B, T)``.
        clipped: Bool, ``(B, T)``: tokens that the PPO clip holds back anyway.
        fraction: In (0, 1].
        lower: Lower bound, excluded.
        upper: Upper bound, excluded; larger than ``lower``.
        generator: Source of the random choice.

    Returns:
        Bool, ``(B, T)``.

    Raises:
        ValueError: shapes differ, the mask is not 0/1, or an option is out of range.
    """
    check_clip_cov_options(fraction, lower, upper)
    valid = binary_mask(mask, covariance.shape)
    if clipped.shape != covariance.shape:
        raise ValueError(f"clipped must have the shape {tuple(covariance.shape)}, got {tuple(clipped.shape)}")
    candidates = (valid & ~clipped & (covariance > lower) & (covariance < upper)).flatten().nonzero().squeeze(1)
    device = generator.device if generator is not None else candidates.device
    order = torch.randperm(len(candidates), generator=generator, device=device).to(candidates.device)
    chosen = torch.zeros(covariance.numel(), dtype=torch.bool, device=covariance.device)
    chosen[candidates[order[: selection_count(fraction, valid)]]] = True
    return chosen.view(covariance.shape)


def check_clip_cov_options(fraction: float, lower: float, upper: float) -> None:
    """Refuse options that `clip_cov_choice` does not have.

    Raises:
        ValueError: ``fraction`` is not in (0, 1], or the interval is empty.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    if not lower < upper:
        raise ValueError(f"lower must be smaller than upper, got {lower} and {upper}")


@dataclass(frozen=True, kw_only=True)
class ClipCovConfig(GRPOConfig):
    """Hyper-parameters of Clip-Cov; the defaults are those of verl's ``clip_cov``, taken from the authors' code."""

    dual_clip: float | None = None
    """The authors' code has no dual clip."""
    fraction: float = 2e-4
    """Share of the mini-batch's tokens that lose their gradient, at least one if there is a candidate."""
    lower: float = 1.0
    """Covariances of candidates are larger ..."""
    upper: float = 5.0
    """... and smaller than this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip_cov_options(self.fraction, self.lower, self.upper)


class ClipCov(Algorithm):
    """GRPO without the gradient of some random tokens of high covariance; the normaliser stays.

    Implementation notes:
        * Covariances and the choice are the mini-batch's, at the policy being trained; the released code takes those
          of a micro-batch of one device, so that its result depends on the memory.
        * With a ``process_group`` the means in the covariance are those of all ranks. The choice is made by each rank
          among its own tokens, so that at least one token a rank is dropped.
        * A fraction of 2e-4 of a small mini-batch rounds to one token.
    """

    Config = ClipCovConfig
    config: ClipCovConfig
    metrics: ClassVar[Mapping[str, str]] = {
        "covariance/mean": "Covariance of log-probability and advantage over the mini-batch's tokens.",
        "covariance/candidates": "Share of the tokens in the loss whose covariance makes them candidates for Clip-Cov "
        "and that PPO does not clip.",
        "covariance/clipped": "Share of the tokens in the loss that Clip-Cov left without gradient.",
    }

    def prepare_mini_batch(self, batch: Batch, stats: TokenStats) -> Batch:
        """Choose the mini-batch's tokens without gradient."""
        c = self.config
        covariance = token_covariance(
            *stats.required("log_prob"), batch.advantages, batch.mask, process_group=self.process_group
        )
        high, low, dual = self.clip_events(batch, stats)
        clipped = high | low | dual
        chosen = clip_cov_choice(
            covariance,
            batch.mask,
            clipped,
            fraction=c.fraction,
            lower=c.lower,
            upper=c.upper,
            generator=batch.generator,
        )
        count = max(int(batch.mask.sum()), 1)
        candidates = batch.mask & ~clipped & (covariance > c.lower) & (covariance < c.upper)
        return replace(
            batch,
            per_token={**batch.per_token, "clip_cov": chosen},
            metrics={
                "covariance/mean": covariance.sum().item() / count,
                "covariance/candidates": candidates.sum().item() / count,
                "covariance/clipped": chosen.sum().item() / count,
            },
        )

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """GRPO's loss, 0 on the chosen tokens."""
        return torch.where(batch.per_token["clip_cov"], 0.0, super().token_loss(batch, stats))
