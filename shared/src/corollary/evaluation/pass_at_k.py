"""Scores of many samples per problem: pass@k without bias, and how many different solutions were found."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["distinct_correct", "pass_at_k"]


def pass_at_k(num_samples: ArrayLike, num_correct: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    r"""Probability that at least one of ``k`` samples solves the problem, estimated without bias.

    With :math:`n` samples of which :math:`c` are correct (Chen et al. 2021, Eq. 1),

    .. math:: \widehat{\text{pass@}k} = 1 - \binom{n-c}{k} \Big/ \binom{n}{k},

    the share of the :math:`k`-subsets of the samples that hold a correct one. Its expectation over the
    samples is :math:`1 - (1-p)^k` for every success probability :math:`p`, which ``1 - (1 - c/n)**k`` does
    not have.

    Symbols: :math:`n` ``num_samples``, :math:`c` ``num_correct``, :math:`k` ``k``. The three broadcast
    against each other, so one call scores a benchmark, and ``pass_at_k(n, c[:, None], ks)`` gives the curve
    over ``k``.

    Args:
        num_samples: samples drawn per problem, integers >= 1.
        num_correct: how many of them are correct, integers in [0, ``num_samples``].
        k: size of the attempt, integers in [1, ``num_samples``].

    Returns:
        pass@k in [0, 1], float64, in the broadcast shape (a NumPy scalar if all three are scalars). The
        benchmark's score is the mean over problems.

    Raises:
        ValueError: an argument does not hold integers, lies outside its range, or the shapes do not
            broadcast.

    Implementation notes:
        * Factorials overflow and differences of log-gammas lose digits. The ratio is instead the product
          :math:`\prod_{j<s} (1 - l/(n-j))` with :math:`s = \min(c, k)` and :math:`l = \max(c, k)`, symmetric
          in :math:`c` and :math:`k`; it is summed with ``log1p`` and turned into the result with ``expm1``,
          so values close to 0 and close to 1 keep full precision.

    Example:
        >>> pass_at_k(4, [0, 1, 2, 4], 2).round(4).tolist()
        [0.0, 0.5, 0.8333, 1.0]

    References:
        Chen et al., Evaluating Large Language Models Trained on Code, arXiv:2107.03374, section 2.1.
    """
    n, c = _integers("num_samples", num_samples), _integers("num_correct", num_correct)
    k_ = _integers("k", k)
    try:
        n, c, k_ = np.broadcast_arrays(n, c, k_)
    except ValueError:
        raise ValueError(
            f"num_samples, num_correct and k must have shapes that broadcast, got {n.shape}, {c.shape} and {k_.shape}"
        ) from None
    _require(n >= 1, "num_samples must be >= 1", n)
    _require((c >= 0) & (c <= n), "num_correct must lie in [0, num_samples]", c)
    _require((k_ >= 1) & (k_ <= n), "k must lie in [1, num_samples]", k_)

    short, long = np.minimum(c, k_), np.maximum(c, k_)
    log_failure = np.zeros(n.shape)
    for j in range(int(short.max(initial=0))):
        # Where a factor reaches zero, fewer than k samples are wrong: every subset holds a correct one. The
        # factor one past it would be negative, hence the comparison and not a test for zero.
        factor = np.where(j < short, long / (n - j).clip(min=1), 0.0)
        certain = factor >= 1.0
        log_failure += np.where(certain, -np.inf, np.log1p(-np.where(certain, 0.0, factor)))
    return -np.expm1(log_failure)[()] + 0.0  # adding 0.0 turns -0.0 into 0.0


def distinct_correct(completions: Sequence[str | Sequence[int]] | NDArray[np.integer], correct: ArrayLike) -> int:
    r"""Number of different correct completions among the samples of one problem.

    .. math:: \big|\{\, y_i : v_i = 1,\ i = 1..n \,\}\big|

    Unlike pass@k it tells one memorised solution from many, so it falls when exploration collapses while the
    accuracy stays. It grows with the number of samples: compare it at equal :math:`n` only.

    Args:
        completions: :math:`y_i`, one string or one sequence of token ids per sample, or an integer array
            ``(n, T)``. Equal means equal token by token: remove padding, or pad all of them alike, before the
            call.
        correct: :math:`v_i`, booleans or 0/1, shape ``(n,)``.

    Returns:
        The count, between 0 and the number of correct samples.

    Raises:
        ValueError: ``correct`` is not one 0/1 value per completion.

    Example:
        >>> distinct_correct(["3+4", "4+3", "3+4", "3+5"], [1, 1, 1, 0])
        2
    """
    verdicts = np.asarray(correct)
    if verdicts.shape != (len(completions),):
        raise ValueError(
            f"correct must hold one value per completion, shape ({len(completions)},), got {verdicts.shape}"
        )
    if not np.isin(verdicts, (0, 1)).all():
        raise ValueError(f"correct must hold booleans or 0/1, got {verdicts[~np.isin(verdicts, (0, 1))][0]}")
    right = (y for y, is_right in zip(completions, verdicts, strict=True) if is_right)
    return len({y if isinstance(y, str) else tuple(map(int, y)) for y in right})


def _integers(name: str, value: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(value)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must hold integers, got dtype {array.dtype}")
    return array.astype(np.int64)


def _require(valid: NDArray[np.bool_], message: str, values: NDArray[np.int64]) -> None:
    if not valid.all():
        raise ValueError(f"{message}, got {values[~valid][0]}")
