"""Clip_B and Clip_V: leave outliers of the entropy discriminator out of the loss (arXiv:2602.03392, section 4).

Both are computed once for a batch, at the behaviour policy, over all valid tokens of the whole batch - never over a
micro-batch - and without gradient. The mask they return takes the place of the completion mask, so the loss is
normalised over the tokens that are kept.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch import distributed as dist

from corollary.kernels import TokenStats
from corollary.rl import binary_mask
from corollary_entropy_dynamics.discriminator import LOG_PROB_TOLERANCE, deviation, entropy_discriminator

MIN_DEVIATION = 1e-12
"""Below this standard deviation there are no outliers, and everything is kept."""

Applies = Literal["negative", "positive", "all", "entropy-decreasing"]


class ClipMask(NamedTuple):
    """A narrowed mask, and what it did."""

    mask: Tensor
    """``(B, T)``, bool: valid and kept."""
    metrics: Mapping[str, float]
    """Glossary: `METRICS`."""


METRICS: dict[str, str] = {
    "frac_clipped": "Share of the valid tokens that the mask dropped.",
    "frac_clipped_pos": "Share of the valid tokens that were dropped and have a positive advantage.",
    "frac_clipped_neg": "Share of the valid tokens that were dropped and have a negative advantage.",
}


def clip_b_mask(
    stats: TokenStats,
    advantages: Tensor,
    mask: Tensor,
    *,
    log_probs: Tensor | None = None,
    mu: float = 2.5,
    mu_high: float | None = None,
    applies: Applies = "negative",
    lower: bool = True,
    upper: bool = False,
    process_group: dist.ProcessGroup | None = None,
) -> ClipMask:
    r"""Batch-normalised clipping: drop tokens whose discriminator is an outlier of the batch.

    With mean :math:`\bar S` and population standard deviation :math:`\sigma_S` of :math:`S` over the valid tokens,

    .. math:: z = (S - \bar S) / \sigma_S, \qquad
              \text{keep} = \lnot\bigl(\text{lower} \wedge z < -\mu \;\vee\;
              \text{upper} \wedge z > \mu_\text{high}\bigr)

    for the tokens that the rule applies to; all others are kept. The default is the released code's rule: only the
    lower tail, only of negative advantages - penalised rare tokens, whose update lowers the entropy.

    Args:
        stats: ``log_prob`` and ``entropy`` at the behaviour policy, nats, each ``(B, T)``.
        advantages: ``(B, T)``. Only the sign matters.
        mask: 1 for valid tokens, ``(B, T)``. Padding may hold anything.
        log_probs: Log-probabilities to use in place of ``stats.log_prob``, for example the sampler's, ``(B, T)``.
        mu: :math:`\mu`, larger than 0; 2.5 in the authors' example, 2.0 to 3.0 in the paper's sweep.
        mu_high: :math:`\mu_\text{high}`; None for ``mu``.
        applies: ``"negative"`` (the released code), ``"positive"`` or ``"all"`` advantages (the paper's prose can be
            read so), or ``"entropy-decreasing"``: the lower tail of negative and the upper tail of positive
            advantages, the two channels through which the entropy falls (ours; needs ``upper=True`` as well).
        lower: Clip the lower tail.
        upper: Clip the upper tail.
        process_group: Take mean and deviation over the ranks of this group.

    Returns:
        The narrowed mask, with `METRICS`.

    Raises:
        ValueError: shapes differ; the mask is not 0/1; the options do not go together (see
            `check_clip_b_options`); on a valid token a statistic is not finite, a log-probability positive or an
            entropy negative.

    Implementation notes:
        * ``z = -mu`` exactly is kept, as in the released code.
        * An empty mask, and a standard deviation below 1e-12, keep everything.
        * The released code mixes the sampler's log-probability with the trainer's entropy. The default here is the
          trainer's for both; pass ``log_probs``, or set `ClipBConfig.log_prob_source`, for theirs.
        * With a ``process_group`` every rank must call this, and bad input on one rank alone leaves the others
          waiting for it.
        * Sums are taken in float64 (the released code: float32).
    """
    (entropy,) = stats.required("entropy")
    if log_probs is None:
        (log_probs,) = stats.required("log_prob")
    valid = _check(advantages, mask, log_prob=log_probs, entropy=entropy)
    check_clip_b_options(mu, mu_high, applies, lower, upper)
    thresholds = {"mu": mu, "mu_high": mu if mu_high is None else mu_high}
    s = entropy_discriminator(_where(valid, log_probs), _where(valid, entropy)).double()
    moments = batch_moments(s, valid, process_group=process_group)
    if moments.deviation < MIN_DEVIATION:
        return _result(valid, torch.zeros_like(valid), advantages, process_group)
    low_tail = s - moments.mean < -thresholds["mu"] * moments.deviation
    high_tail = s - moments.mean > thresholds["mu_high"] * moments.deviation
    low_signs, high_signs = {
        "negative": (advantages < 0, advantages < 0),
        "positive": (advantages > 0, advantages > 0),
        "all": (valid, valid),
        "entropy-decreasing": (advantages < 0, advantages > 0),
    }[applies]
    dropped = torch.zeros_like(valid)
    if lower:
        dropped |= low_tail & low_signs
    if upper:
        dropped |= high_tail & high_signs
    return _result(valid, dropped, advantages, process_group)


def clip_v_mask(
    stats: TokenStats,
    advantages: Tensor,
    mask: Tensor,
    *,
    mu: float = 8.5,
    max_fraction: float = 1e-4,
    strict_official: bool = False,
    process_group: dist.ProcessGroup | None = None,
) -> ClipMask:
    r"""Vocabulary-normalised clipping: drop tokens far below their own vocabulary's mean of the discriminator.

    With :math:`x = N - S = -D` and its population standard deviation :math:`\sigma_x` over the valid tokens, the
    candidates are the tokens with :math:`A < 0` and :math:`x > \mu\,\sigma_x`. If they are more than ``max_fraction``
    of the :math:`n` valid tokens, only the :math:`K = \max(\lfloor \text{max\_fraction} \cdot n \rfloor, 1)`
    candidates with the largest :math:`x` are dropped.

    Args:
        stats: ``log_prob``, ``entropy``, ``sum_p2`` and ``sum_p2_log_p`` at the behaviour policy, each ``(B, T)``.
        advantages: ``(B, T)``. Only the sign matters.
        mask: 1 for valid tokens, ``(B, T)``. Padding may hold anything.
        mu: :math:`\mu`, larger than 0; 8.5 in the authors' example, 7.5 to 8.5 in the paper's sweep.
        max_fraction: The cap, in (0, 1]; 1 switches it off. The authors' value drops one token in 10,000, and at least
            one where there are candidates.
        strict_official: Bit parity with the released code, whose candidates include tokens with ``A = 0`` as long as
            the cap does not bind: dropping them changes no gradient but the normaliser.
        process_group: Take deviation, cap and the largest candidates over the ranks of this group.

    Returns:
        The narrowed mask, with `METRICS`.

    Raises:
        ValueError: as `clip_b_mask`; ``max_fraction`` is not in (0, 1]; a statistic is missing.

    Implementation notes:
        * The deviation :math:`\sigma_x` is taken around the batch mean, but ``x`` is not centred in the test, as in
          the released code.
        * Of candidates with equal ``x`` at the cap, any may be kept.
    """
    check_clip_v_options(mu, max_fraction)
    names = ("log_prob", "entropy", "sum_p2", "sum_p2_log_p")
    fields = dict(zip(names, stats.required(*names), strict=True))
    valid = _check(advantages, mask, **fields)
    x = -deviation(stats._replace(**{name: _where(valid, value) for name, value in fields.items()})).double()
    moments = batch_moments(x, valid, process_group=process_group)
    if moments.deviation < MIN_DEVIATION:
        return _result(valid, torch.zeros_like(valid), advantages, process_group)
    outlier = valid & (x > mu * moments.deviation)
    candidates = outlier & ((advantages <= 0) if strict_official else (advantages < 0))
    n_candidates = _sum_over(candidates.sum(), process_group)
    if n_candidates <= max_fraction * moments.count:
        return _result(valid, candidates, advantages, process_group)
    cap = max(int(max_fraction * moments.count), 1)
    dropped = _largest(x, candidates & (advantages < 0), cap, process_group)
    return _result(valid, dropped, advantages, process_group)


def check_clip_b_options(mu: float, mu_high: float | None, applies: str, lower: bool, upper: bool) -> None:
    """Refuse options that `clip_b_mask` does not have.

    Raises:
        ValueError: a threshold is not larger than 0; ``applies`` is unknown, or ``"entropy-decreasing"`` without both
            tails; both tails are off; or ``mu_high`` is given for an upper tail that is off.
    """
    for name, value in {"mu": mu, "mu_high": mu if mu_high is None else mu_high}.items():
        if not value > 0:
            raise ValueError(f"{name} must be larger than 0, got {value}")
    if applies not in get_args(Applies):
        raise ValueError(f"applies must be one of {get_args(Applies)}, got {applies!r}")
    if not (lower or upper):
        raise ValueError("at least one of lower and upper must be set, got neither")
    if applies == "entropy-decreasing" and not (lower and upper):
        raise ValueError(f"applies='entropy-decreasing' needs both tails, got lower={lower} and upper={upper}")
    if mu_high is not None and not upper:
        raise ValueError(f"mu_high is the threshold of the upper tail, which is off; got mu_high={mu_high}")


def check_clip_v_options(mu: float, max_fraction: float) -> None:
    """Refuse options that `clip_v_mask` does not have.

    Raises:
        ValueError: ``mu`` is not larger than 0, or ``max_fraction`` is not in (0, 1].
    """
    if not mu > 0:
        raise ValueError(f"mu must be larger than 0, got {mu}")
    if not 0 < max_fraction <= 1:
        raise ValueError(f"max_fraction must be in (0, 1], got {max_fraction}")


class Moments(NamedTuple):
    """Count, mean and population standard deviation of the valid entries of a batch."""

    count: float
    mean: float
    deviation: float


def batch_moments(values: Tensor, mask: Tensor, *, process_group: dist.ProcessGroup | None = None) -> Moments:
    r"""Moments of ``values`` where ``mask`` holds, over all ranks of ``process_group``.

    The ranks' :math:`(n, \bar x, M_2)` are merged by the parallel form of Welford's rule,
    :math:`M_2 = \sum_r M_{2,r} + \sum_r n_r (\bar x_r - \bar x)^2`, which does not cancel as
    :math:`E[x^2] - E[x]^2` does.
    """
    chosen = values[mask].double()
    count = torch.tensor(float(chosen.numel()), dtype=torch.float64, device=values.device)
    mean = chosen.sum() / count.clamp(min=1)
    parts = torch.stack([count, mean, ((chosen - mean) ** 2).sum()])
    ranks = torch.stack(_gather(parts, process_group))
    total = ranks[:, 0].sum()
    if total == 0:
        return Moments(0.0, 0.0, 0.0)
    overall = (ranks[:, 0] * ranks[:, 1]).sum() / total
    squares = ranks[:, 2].sum() + (ranks[:, 0] * (ranks[:, 1] - overall) ** 2).sum()
    return Moments(total.item(), overall.item(), (squares / total).sqrt().item())


def _largest(x: Tensor, candidates: Tensor, count: int, group: dist.ProcessGroup | None) -> Tensor:
    """The ``count`` largest ``x`` among the candidates of all ranks, as a mask over this rank's tokens."""
    here = torch.full((count,), -torch.inf, dtype=x.dtype, device=x.device)
    best = x[candidates].topk(min(count, int(candidates.sum()))).values
    here[: len(best)] = best
    threshold = torch.cat(_gather(here, group)).topk(count).values[-1]
    dropped = candidates & (x > threshold)
    # Ties at the threshold fill what is left of the budget, rank by rank.
    tied = candidates & (x == threshold)
    ties_per_rank = [int(n) for n in _gather(tied.sum(), group)]
    rank = dist.get_rank(group) if group is not None else 0
    left = count - int(_sum_over(dropped.sum(), group)) - sum(ties_per_rank[:rank])
    dropped[tuple(tied.nonzero()[: max(left, 0)].T)] = True
    return dropped


def _gather(x: Tensor, group: dist.ProcessGroup | None) -> list[Tensor]:
    if group is None:
        return [x]
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.contiguous(), group=group)
    return parts


def _sum_over(x: Tensor, group: dist.ProcessGroup | None) -> float:
    return float(sum(_gather(x, group)))


def _where(valid: Tensor, x: Tensor) -> Tensor:
    return torch.where(valid, x.detach(), 0.0)


def _check(advantages: Tensor, mask: Tensor, **statistics: Tensor) -> Tensor:
    shape = advantages.shape
    for name, value in statistics.items():
        if value.shape != shape:
            raise ValueError(f"{name} must have the shape of advantages {tuple(shape)}, got {tuple(value.shape)}")
    valid = binary_mask(mask, shape)
    for name, value in {"advantages": advantages, **statistics}.items():
        broken = valid & ~torch.isfinite(value)
        if bool(broken.any()):
            raise ValueError(f"{name} must be finite on valid tokens, got {value[broken][0].item()}")
    if bool((valid & (statistics["log_prob"] > LOG_PROB_TOLERANCE)).any()):
        raise ValueError(f"log-probabilities must be at most 0, got {statistics['log_prob'][valid].max().item()}")
    if bool((valid & (statistics["entropy"] < -LOG_PROB_TOLERANCE)).any()):
        raise ValueError(f"entropies must be at least 0, got {statistics['entropy'][valid].min().item()}")
    return valid


def _result(valid: Tensor, dropped: Tensor, advantages: Tensor, group: dist.ProcessGroup | None) -> ClipMask:
    dropped = dropped & valid
    count = max(_sum_over(valid.sum(), group), 1.0)
    metrics = {
        "frac_clipped": _sum_over(dropped.sum(), group) / count,
        "frac_clipped_pos": _sum_over((dropped & (advantages > 0)).sum(), group) / count,
        "frac_clipped_neg": _sum_over((dropped & (advantages < 0)).sum(), group) / count,
    }
    return ClipMask(valid & ~dropped, metrics)
