"""A series behind a clock: the only access to data that an online run has."""

import warnings
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LeakageError", "LeakageWarning", "LeakyStream", "Stream"]


class LeakageError(ValueError):
    """Something was asked for whose last value has not been observed yet."""


class LeakageWarning(UserWarning):
    """A protocol is in use that shows a forecaster values before they are observed."""


class Stream:
    """A multivariate series behind a clock.

    Symbols: :math:`s_t` rows of ``values``, :math:`L` ``lookback``, :math:`H` ``horizon``; the pair of origin k is
    :math:`X_k = s_{k-L+1..k}`, :math:`Y_k = s_{k+1..k+H}`.

    Args:
        values: the series, shape (T, N + C): N variates that are forecast, then C covariates known in advance, such
            as the calendar. A tensor, or anything that `torch.as_tensor` takes. Windows are copies: a forecaster that
            writes into its input cannot change the series.
        lookback: L, rows of a window.
        horizon: H, rows of a label.
        variates: N; all columns if not given.

    Raises:
        ValueError: fewer than L + 2 H rows, a value that is not finite, or a size that is not positive.
    """

    def __init__(
        self, values: "ArrayLike | Tensor", *, lookback: int, horizon: int, variates: int | None = None
    ) -> None:
        import torch

        series = torch.as_tensor(values)
        if series.ndim != 2:
            raise ValueError(f"values must be (T, N), got shape {tuple(series.shape)}")
        rows, columns = series.shape
        variates = columns if variates is None else variates
        for name, number in (("lookback", lookback), ("horizon", horizon), ("variates", variates)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} must be a positive integer, got {number!r}")
        if variates > columns:
            raise ValueError(f"variates must be at most the {columns} columns of values, got {variates}")
        if rows < lookback + 2 * horizon:
            raise ValueError(
                f"values must have at least lookback + 2 horizon = {lookback + 2 * horizon} rows, got {rows}"
            )
        finite = torch.isfinite(series)
        if not bool(finite.all()):
            row, column = (int(place) for place in torch.nonzero(~finite)[0])
            raise ValueError(f"values must be finite, got {float(series[row, column])} in row {row}, column {column}")
        self._values = series
        self._now = -1
        self.rows, self.lookback, self.horizon, self.variates = rows, lookback, horizon, variates

    @property
    def now(self) -> int:
        """Index of the last observed row; -1 before the first."""
        return self._now

    @property
    def delay(self) -> int:
        """Steps after which the label of an origin is released: the horizon."""
        return self.horizon

    @property
    def first_origin(self) -> int:
        """The first origin with a whole lookback window behind it."""
        return self.lookback - 1

    def advance(self, row: int) -> None:
        """Observe everything up to and including ``row``.

        Raises:
            ValueError: time would run backwards, or past the end of the series.
        """
        if not self._now <= row < self.rows:
            raise ValueError(f"time goes on from row {self._now} to at most {self.rows - 1}, got {row}")
        self._now = row

    def released(self, origin: int) -> bool:
        """Whether the pair of this origin may be learned from now."""
        complete = origin + self.delay <= self._now and origin + self.horizon < self.rows
        return complete and origin >= self.first_origin

    def pair(self, origin: int) -> "tuple[Tensor, Tensor]":
        """Window (L, N + C) and label (H, N) of an origin whose label is complete.

        Raises:
            LeakageError: its last value has not been observed.
            ValueError: the window would begin before the series does, or the label end after it.
        """
        if origin + self.delay > self._now:
            raise LeakageError(
                f"the label of origin {origin} is complete at row {origin + self.delay}, but the last observed row "
                f"is {self._now}"
            )
        if origin + self.horizon >= self.rows:  # only where labels are released early
            raise ValueError(
                f"the label of origin {origin} would end at row {origin + self.horizon}, past the last row "
                f"{self.rows - 1}"
            )
        return self.window(origin), self._label(origin)

    def window(self, origin: int) -> "Tensor":
        """The window that ends at an observed row, (L, N + C).

        Raises:
            LeakageError: the row has not been observed.
            ValueError: the window would begin before the series does.
        """
        if origin > self._now:
            raise LeakageError(f"row {origin} is not observed yet: the last observed row is {self._now}")
        if origin < self.first_origin:
            raise ValueError(f"the first whole window ends at row {self.first_origin}, got {origin}")
        return self._values[origin - self.lookback + 1 : origin + 1].clone()

    def _label(self, origin: int) -> "Tensor":
        """The truth, for the evaluator, which looks at it after the forecast."""
        return self._values[origin + 1 : origin + self.horizon + 1, : self.variates].clone()


class LeakyStream(Stream):
    """The protocol of much earlier work: the pair of t - 1 is learned from at time t, H - 1 values too early.

    It exists to show how much that over-estimates a method, and to check that tests of leakage can fail. For H = 1 it
    is the honest protocol.
    """

    def __init__(
        self, values: "ArrayLike | Tensor", *, lookback: int, horizon: int, variates: int | None = None
    ) -> None:
        super().__init__(values, lookback=lookback, horizon=horizon, variates=variates)
        if horizon > 1:
            warnings.warn(
                f"labels are released {horizon - 1} steps before their last value is observed: for comparison only",
                LeakageWarning,
                stacklevel=2,
            )

    @property
    def delay(self) -> int:
        """One step, whatever the horizon."""
        return 1
