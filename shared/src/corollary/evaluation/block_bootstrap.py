"""Interval of the difference of two loss series over time, by the circular block bootstrap."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corollary.evaluation.intervals import Interval, _check_confidence, _finite

__all__ = ["paired_block_bootstrap"]

_HELD = 2**22
"""Values held at once while resampling (32 MiB of float64), whatever the number of resamples."""


def paired_block_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    block: int,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int | np.random.Generator = 0,
) -> Interval:
    r"""Percentile interval of the mean difference of two series of losses over the same forecast origins.

    The losses of neighbouring origins depend on each other: the series is autocorrelated, and forecasts of
    horizon :math:`H` share :math:`H - 1` targets. Resampling single origins takes them for independent and gives
    intervals that are far too narrow. Here each resample joins :math:`\lceil T / b \rceil` blocks of :math:`b`
    consecutive origins, the last one cut so that :math:`T` origins result. A block may start anywhere and runs on
    from the end of the series to its beginning, so that every origin is drawn equally often:

    .. math:: \bar d^* = \frac1T \sum_j \sum_{i=0}^{b_j - 1} d_{(s_j + i) \bmod T}, \qquad
              s_j \sim \mathrm{U}\{0, \dots, T - 1\}, \qquad \mathrm{E}^*[\bar d^*] = \bar d

    with the paired differences :math:`d_t`: both forecasters get the same blocks. With :math:`S` seeds every
    resample also draws :math:`S` seeds with replacement, and the blocks are the same for all seeds, since these
    share the series and its hard and easy stretches.

    Symbols: :math:`d` ``first - second``, :math:`b` ``block``.

    Args:
        first: losses of the first forecaster per origin in the order of time, shape ``(T,)`` or, with one row per
            seed, ``(S, T)``; finite.
        second: losses of the second forecaster for the same origins and seeds, same shape.
        block: :math:`b`, origins per block, in ``[1, T]``; 1 is the bootstrap of independent origins. It must
            exceed the range of the dependence, so at least the horizon, and leave many blocks, say
            :math:`T / b \ge 20`.
        resamples: resamples, >= 1.
        confidence: nominal coverage in (0, 1).
        seed: an integer, or a generator that is advanced; the same integer gives the same interval.

    Returns:
        The interval of the mean of ``first - second``; below zero the first forecaster is the better one. ``n``
        counts the differences, ``T`` or ``S T``. Without seeds to resample, the bounds are ``nan`` for
        ``block == T``: every block then holds the whole series and shows no spread.

    Raises:
        ValueError: the shapes differ or have other than one or two axes, a value is not finite, or an option is
            outside its range.

    Implementation notes:
        * Block sums are differences of cumulative sums of the centred series, so that a resample costs
          :math:`\lceil T / b \rceil` additions per seed and not :math:`T`.
        * Percentile bounds. Blocks estimate the variance of the mean slightly too small, by a share of order
          :math:`1 / b`, and few seeds by the share :math:`1 / S`: with a handful of seeds the interval is too
          narrow. Compare it with :func:`corollary.evaluation.mean_interval` of the differences per seed.

    Example:
        >>> interval = paired_block_bootstrap([1.0, 3.0, 2.0, 4.0], [0.5, 2.5, 1.5, 3.5], block=2)
        >>> interval.mean, interval.low, interval.high
        (0.5, 0.5, 0.5)

    References:
        Künsch, The jackknife and the bootstrap for general stationary observations, Annals of Statistics 17, 1989.
        Politis and Romano, A circular block-resampling procedure for stationary data, in Exploring the Limits of
        Bootstrap, 1992.
    """
    first_ST, second_ST = _finite("first", first), _finite("second", second)
    if first_ST.shape != second_ST.shape:
        raise ValueError(
            f"first and second are paired and must have one shape, got {first_ST.shape} and {second_ST.shape}"
        )
    if first_ST.ndim not in (1, 2):
        raise ValueError(f"first and second must be (T,) or (S, T), got shape {first_ST.shape}")
    difference_ST = np.atleast_2d(first_ST - second_ST)
    num_seeds, num_origins = difference_ST.shape
    if isinstance(block, bool) or not isinstance(block, (int, np.integer)) or not 1 <= block <= num_origins:
        raise ValueError(f"block must be an integer in [1, T] = [1, {num_origins}], got {block!r}")
    if isinstance(resamples, bool) or not isinstance(resamples, (int, np.integer)) or resamples < 1:
        raise ValueError(f"resamples must be an integer >= 1, got {resamples!r}")
    _check_confidence(confidence)
    rng = _generator(seed)

    mean = float(difference_ST.mean())
    if num_seeds == 1 and block == num_origins:
        return Interval(mean, math.nan, math.nan, num_origins, confidence)
    draws = np.concatenate(list(_resampled_means(difference_ST - mean, int(block), int(resamples), rng)))
    low, high = mean + np.quantile(draws, [0.5 * (1.0 - confidence), 0.5 * (1.0 + confidence)])
    return Interval(mean, float(low), float(high), difference_ST.size, confidence)


def _resampled_means(
    centred_ST: NDArray[np.float64], block: int, resamples: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Yield the means of resampled series, in portions that bound the memory."""
    num_seeds, num_origins = centred_ST.shape
    whole, rest = divmod(num_origins, block)
    whole_ST = _block_sums(centred_ST, block)
    rest_ST = _block_sums(centred_ST, rest)
    portion = max(1, _HELD // (num_seeds * (whole + 1)))
    for done in range(0, resamples, portion):
        count = min(portion, resamples - done)
        starts_RK = rng.integers(num_origins, size=(count, whole))
        sums_SR = whole_ST[:, starts_RK].sum(axis=2)
        if rest:
            sums_SR += rest_ST[:, rng.integers(num_origins, size=count)]
        if num_seeds == 1:
            yield sums_SR[0] / num_origins
        else:
            times_RS = rng.multinomial(num_seeds, np.full(num_seeds, 1.0 / num_seeds), size=count)
            yield np.einsum("sr,rs->r", sums_SR, times_RS) / (num_seeds * num_origins)


def _block_sums(values_ST: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Sums of the `length` values from each position on, running on from the end to the beginning."""
    around = np.concatenate([np.zeros_like(values_ST[:, :1]), values_ST, values_ST[:, :length]], axis=1)
    totals = np.cumsum(around, axis=1)
    num_origins = values_ST.shape[1]
    return totals[:, length : length + num_origins] - totals[:, :num_origins]


def _generator(seed: int | np.random.Generator) -> np.random.Generator:
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed must be an integer >= 0 or a numpy Generator, got {seed!r}")
    return np.random.default_rng(seed)
