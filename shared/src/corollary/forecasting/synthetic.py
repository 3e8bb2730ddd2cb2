"""An embedded stream with concept drift whose optimal forecast is known."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SWITCHING = {"switching-levels": True, "constant-level": False}
"""Names of the embedded streams: with drift, and its control without."""


@dataclass(frozen=True, kw_only=True)
class SwitchingLevels:
    """The stream with the concept behind it."""

    values: NDArray[np.float64]
    """x_t, (T, N)."""
    concept: NDArray[np.float64]
    """c_t, (T,)."""

    def oracle(self, origins: NDArray[np.int64], horizon: int) -> NDArray[np.float64]:
        r"""Forecasts of one who knows the concept at the origin and that it stays: :math:`2c + \phi^h (x_t - 2c)`.

        Returns:
            Forecasts (origins, H, N), in the units of ``values``.
        """
        level = 2 * self.concept[origins]
        decay = persistence(self.concept[origins])[:, None] ** np.arange(1, horizon + 1)
        return level[:, None, None] + decay[:, :, None] * (self.values[origins] - level[:, None])[:, None]


def persistence(concept: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""The coefficient of the autoregression in a regime: :math:`\phi = 0.65 + 0.33\,c`."""
    return 0.65 + 0.33 * concept


def switching_levels(
    seed: int, *, rows: int = 6000, variates: int = 8, levels: bool = True, segment: tuple[int, int] = (150, 350)
) -> SwitchingLevels:
    r"""Autoregressions whose level and persistence switch together, so that the right linear map depends on the level.

    On segments of random length the concept :math:`c` is constant and uniform in (-1, 1); with :math:`\phi = 0.65 +
    0.33\,c`, independently for every variate,

    .. math:: z_t = \phi z_{t-1} + \sqrt{1 - \phi^2}\,\epsilon_t, \qquad x_t = 2c + z_t, \qquad \epsilon_t \sim N(0, 1)

    The regime can be read off the level of a window, but the lag weights :math:`\phi^h` change with it: no fixed
    linear forecaster is optimal, and one that knows the regime is.

    Args:
        seed: of concept and noise.
        rows: T.
        variates: N.
        levels: False keeps the concept at zero: the control without drift.
        segment: lengths of segments are uniform in [low, high).
    """
    rng = np.random.default_rng(seed)
    concept = np.empty(rows)
    row = 0
    while row < rows:
        length = int(rng.integers(*segment))
        concept[row : row + length] = rng.uniform(-1, 1)
        row += length
    if not levels:
        concept[:] = 0.0
    phi = persistence(concept)
    noise = rng.standard_normal((rows, variates)) * np.sqrt(1 - phi**2)[:, None]
    deviations = np.empty((rows, variates))
    state = rng.standard_normal(variates)
    for row in range(rows):
        state = phi[row] * state + noise[row]
        deviations[row] = state
    return SwitchingLevels(values=2 * concept[:, None] + deviations, concept=concept)
