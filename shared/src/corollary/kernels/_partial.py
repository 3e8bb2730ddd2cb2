r"""Statistics of a row whose columns are spread over several places, such as ranks of a tensor-parallel head.

Each place sums its own columns around its own maximum. With logits :math:`z` already divided by the temperature, and
:math:`u_j = z_j - m`,

.. math:: S_1 = \sum e^u,\; T_1 = \sum u e^u,\; Q_1 = \sum u^2 e^u,\; S_2 = \sum e^{2u},\; T_2 = \sum u e^{2u}.

To merge two parts, both are moved to the larger maximum :math:`m'` (:math:`d = m - m' \le 0`, :math:`a = e^d`),

.. math:: Q_1 \leftarrow a (Q_1 + 2 d T_1 + d^2 S_1),\; T_1 \leftarrow a (T_1 + d S_1),\; S_1 \leftarrow a S_1,\;
    T_2 \leftarrow a^2 (T_2 + d S_2),\; S_2 \leftarrow a^2 S_2,

and added. In the end, with :math:`\ell = \log S_1`,

.. math:: \log Z = m + \ell,\quad \log p_y = z_y - \log Z,\quad H = \ell - T_1/S_1,\quad G = S_2/S_1^2,\quad
    F = (T_2 - \ell S_2)/S_1^2,\quad W = Q_1/S_1 - (T_1/S_1)^2.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from corollary.kernels._rows import compute_dtype
from corollary.kernels._token_stats import TokenStats
from corollary.kernels._validation import check_logits, check_targets, row_temperature

_EXP_IS_ZERO = -1e4


class PartialStats(NamedTuple):
    """Sums over some of the columns of each row, each field of the targets' shape; see the module's formulas."""

    row_max: Tensor
    """:math:`m`, -inf for a part without a finite logit."""
    s1: Tensor
    t1: Tensor
    q1: Tensor
    s2: Tensor
    t2: Tensor
    taken: Tensor
    """:math:`z_y` where the part holds the taken token's column, else -inf."""


@torch.no_grad()
def partial_token_stats(
    logits: Tensor,
    targets: Tensor,
    *,
    first_column: int = 0,
    temperature: float | Tensor = 1.0,
) -> PartialStats:
    """Sum the columns of each row that are here.

    Args:
        logits: Columns ``first_column`` to ``first_column + K - 1`` of the logits, shape ``(..., K)``, floating.
        targets: Taken tokens, shape ``(...)``, numbered in the whole vocabulary.
        first_column: Number of the first column here, at least 0.
        temperature: Divides the logits; a number or a tensor that broadcasts to ``(...)``.

    Returns:
        PartialStats of shape ``(...)``, float32 (float64 for float64 logits), without a gradient.

    Raises:
        ValueError: as `token_stats`, or ``first_column`` is negative.
    """
    check_logits(logits)
    check_targets(targets, logits)
    if first_column < 0:
        raise ValueError(f"first_column must be at least 0, got {first_column}")
    dtype, leading = compute_dtype(logits), tuple(logits.shape[:-1])
    tau = row_temperature(temperature, leading, None, device=logits.device, dtype=dtype)
    per_row = tau.view(*leading, 1) if isinstance(tau, Tensor) else tau
    z = logits.to(dtype) / per_row
    row_max = z.amax(-1)
    u = z - torch.where(row_max.isneginf(), 0.0, row_max).unsqueeze(-1)
    e = u.exp()
    u = u.clamp(min=_EXP_IS_ZERO)
    place = targets.long() - first_column
    here = (place >= 0) & (place < logits.shape[-1])
    taken = z.gather(-1, place.clamp(0, logits.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
    return PartialStats(
        row_max,
        e.sum(-1),
        (u * e).sum(-1),
        (u * u * e).sum(-1),
        (e * e).sum(-1),
        (u * e * e).sum(-1),
        taken.masked_fill(~here, -torch.inf),
    )


@torch.no_grad()
def merge_partial_stats(a: PartialStats, b: PartialStats) -> PartialStats:
    """Merge the sums of two disjoint sets of columns.

    Associative and commutative up to rounding; for the same bits on every rank, merge in the same order everywhere.

    Args:
        a: Sums of some columns, each ``(...)``.
        b: Sums of others, of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if a.row_max.shape != b.row_max.shape:
        raise ValueError(f"expected parts of one shape, got {tuple(a.row_max.shape)} and {tuple(b.row_max.shape)}")
    row_max = torch.maximum(a.row_max, b.row_max)
    one, other = _moved(a, row_max), _moved(b, row_max)
    sums = (x + y for x, y in zip(one, other, strict=True))
    return PartialStats(row_max, *sums, torch.maximum(a.taken, b.taken))


def _moved(part: PartialStats, row_max: Tensor) -> tuple[Tensor, ...]:
    # A part without a finite logit has nothing to move, and -inf - -inf would be NaN.
    d = torch.where(part.row_max.isneginf(), 0.0, part.row_max - row_max).clamp(min=_EXP_IS_ZERO)
    a = d.exp()
    return (
        a * part.s1,
        a * (part.t1 + d * part.s1),
        a * (part.q1 + 2 * d * part.t1 + d * d * part.s1),
        a * a * part.s2,
        a * a * (part.t2 + d * part.s2),
    )


@torch.no_grad()
def finish_partial_stats(part: PartialStats) -> TokenStats:
    """Return all statistics of rows of which every column has been merged.

    A row of only -inf, or with NaN or +inf, gives NaN.
    """
    s1 = torch.where(part.s1 > 0, part.s1, torch.nan)
    log_sum, mean = s1.log(), part.t1 / s1
    square = s1 * s1
    varentropy = part.q1 / s1 - mean * mean
    return TokenStats(
        log_prob=part.taken - part.row_max - log_sum,
        entropy=log_sum - mean,
        sum_p2=part.s2 / square,
        sum_p2_log_p=(part.t2 - log_sum * part.s2) / square,
        varentropy=torch.where(varentropy < 0, 0.0, varentropy),
        log_z=part.row_max + log_sum,
    )
