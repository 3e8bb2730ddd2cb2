"""A forecasting problem: a standardised series with its chronological split, windows and online origins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from corollary.data import find_dataset, load_table
from corollary.evaluation import LeakyStream, Stream
from corollary.forecasting.synthetic import SWITCHING, switching_levels

CALENDAR = ("minute", "hour", "day_of_week", "day", "day_of_year", "month", "week")
"""Covariates of a row, as raw integers, in this order."""

MONTH = 30 * 24
"""Hours of a month in the splits of the ETT data."""

PERIODS = {"ETTh1": 24, "ETTh2": 24, "ETTm1": 96, "ETTm2": 96, "Weather": 144, "ECL": 24, "Traffic": 24, "Exchange": 1}
"""Rows of the seasonal period: a day; of daily data, which has no shorter one, a row."""


class Split(NamedTuple):
    """Rows [0, train) are for training, [train, validation) for validation, [validation, test) for the online test."""

    train: int
    validation: int
    test: int


def chronological_split(rows: int, shares: tuple[float, float, float] = (0.2, 0.05, 0.75)) -> Split:
    """The paper's split of a series without months: the first 20 %, the last 75 %, and what is between.

    Raises:
        ValueError: shares that are not positive or do not sum to 1, or a part without rows.
    """
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be positive and sum to 1, got {shares}")
    split = Split(int(shares[0] * rows), rows - int(shares[2] * rows), rows)
    if not 0 < split.train < split.validation < split.test:
        raise ValueError(f"{rows} rows are too few for the shares {shares}")
    return split


def split_of(name: str, rows: int) -> Split:
    """The split of a data set under the online protocol: 4, 1 and 15 months of 30 days for ETT, else by shares."""
    if name in {"ETTh1", "ETTh2", "ETTm1", "ETTm2"}:
        month = MONTH * (4 if name.startswith("ETTm") else 1)
        return Split(4 * month, 5 * month, 20 * month)
    return chronological_split(rows)


class StandardScaler:
    """Column-wise (x - mean) / deviation, fitted on the rows given: population deviation, float64.

    A column that never changes is only centred.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.mean = values.mean(0)
        deviation = values.std(0)
        self.deviation = np.where(deviation > 0, deviation, 1.0)

    def transform(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """To the standardised scale."""
        return (values - self.mean) / self.deviation

    def inverse(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Back to the units of the data."""
        return values * self.deviation + self.mean


class Windows(NamedTuple):
    """Pairs of many origins: inputs (n, L, N + C) and labels (n, H, N), views of the series."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A standardised series, its split, and the sizes of window and label.

    Raises:
        ValueError: a part of the split is too short for a single window and label, a size is not positive, or the
            split or the variates go beyond ``values``.
    """

    name: str
    values: Tensor
    """(T, N + C), float32; the N variates are standardised with their training rows, the calendar is not."""
    variates: int
    split: Split
    lookback: int
    horizon: int
    period: int
    """Rows of the seasonal period."""
    variate_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("lookback", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        rows, columns = self.values.shape
        if self.split.test > rows:
            raise ValueError(f"{self.name}: the split ends at row {self.split.test}, but there are {rows} rows")
        if not 1 <= self.variates <= columns:
            raise ValueError(f"{self.name}: variates must be in [1, {columns}], got {self.variates}")
        needed = self.lookback + 2 * self.horizon
        if self.split.train < needed:
            raise ValueError(
                f"{self.name}: the {self.split.train} training rows must be at least lookback + 2 horizon = {needed}"
            )
        for name, rows in (
            ("validation", self.split.validation - self.split.train),
            ("test", self.split.test - self.split.validation),
        ):
            if rows < self.horizon:
                raise ValueError(f"{self.name}: the {rows} {name} rows must be at least the horizon {self.horizon}")

    @property
    def test_origins(self) -> range:
        """Origins whose whole forecast lies in the test rows; the first forecast is of the first test row."""
        return range(self.split.validation - 1, self.split.test - self.horizon)

    @property
    def validation_origins(self) -> range:
        """Origins whose whole forecast lies in the validation rows."""
        return range(self.split.train - 1, self.split.validation - self.horizon)

    @property
    def preparation_origins(self) -> range:
        """Every origin of the walk through the validation rows: up to the one before the first test origin."""
        return range(self.split.train - 1, self.split.validation - 1)

    @property
    def training_origins(self) -> range:
        """Origins whose window and label lie in the training rows."""
        return range(self.lookback - 1, self.split.train - self.horizon)

    def windows(self, origins: Sequence[int]) -> Windows:
        """Pairs of consecutive origins, without copying the series."""
        first, last = origins[0], origins[-1]
        inputs = self.values[first - self.lookback + 1 : last + 1].unfold(0, self.lookback, 1)
        labels = self.values[first + 1 : last + self.horizon + 1, : self.variates].unfold(0, self.horizon, 1)
        return Windows(inputs.transpose(1, 2), labels.transpose(1, 2))

    def stream(self, *, until: int | None = None) -> Stream:
        """The series behind a clock, up to the end of the test rows."""
        stream = Stream(self._rows, lookback=self.lookback, horizon=self.horizon, variates=self.variates)
        if until is not None:
            stream.advance(until)
        return stream

    def leaky_stream(self) -> LeakyStream:
        """The same under the leaky protocol; warns."""
        return LeakyStream(self._rows, lookback=self.lookback, horizon=self.horizon, variates=self.variates)

    @cached_property
    def _rows(self) -> Tensor:
        return self.values[: self.split.test]


def calendar(times: pd.DatetimeIndex) -> NDArray[np.float64]:
    """The seven covariates of each row, raw integers as floats, (T, 7)."""
    columns = [getattr(times, name) for name in CALENDAR[:-1]] + [times.isocalendar().week]
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])


def problem_of(
    values: ArrayLike | Tensor,
    *,
    lookback: int,
    horizon: int,
    covariates: ArrayLike | Tensor | None = None,
    split: Split | None = None,
    period: int = 1,
    name: str = "series",
    variate_names: tuple[str, ...] = (),
) -> Problem:
    """The problem of a series of your own.

    Args:
        values: (T, N), in any units; every variate is standardised with its training rows.
        lookback: L.
        horizon: H.
        covariates: (T, C), known in advance, appended as they are.
        split: the parts; the first 20 %, the next 5 % and the last 75 % if not given.
        period: rows of the seasonal period.
        name: what displays call it.
        variate_names: of the N columns.

    Raises:
        ValueError: a value that is not finite (its row and column are named), shapes that do not fit, or too few rows.
    """
    series = np.asarray(values, np.float64)
    if series.ndim != 2:
        raise ValueError(f"values must be (T, N), got shape {series.shape}")
    if not np.isfinite(series).all():
        row, column = np.argwhere(~np.isfinite(series))[0]
        raise ValueError(f"values must be finite, got {series[row, column]} in row {row}, column {column}")
    split = chronological_split(len(series)) if split is None else split
    if not 0 < split.train < split.validation < split.test <= len(series):
        raise ValueError(f"split must have 0 < train < validation < test <= {len(series)} rows, got {tuple(split)}")
    scaled = StandardScaler(series[: split.train]).transform(series)
    if covariates is not None:
        known = np.asarray(covariates, np.float64)
        if known.ndim != 2 or len(known) != len(series):
            raise ValueError(f"covariates must be ({len(series)}, C), got shape {known.shape}")
        scaled = np.column_stack([scaled, known])
    return Problem(
        name=name,
        values=torch.from_numpy(scaled.astype(np.float32)),
        variates=series.shape[1],
        split=split,
        lookback=lookback,
        horizon=horizon,
        period=period,
        variate_names=variate_names,
    )


def make_problem(name: str, *, lookback: int, horizon: int, seed: int = 0, with_calendar: bool = False) -> Problem:
    """The problem of a registered data set, or of an embedded synthetic stream.

    Args:
        name: a name from `corollary.data`, or one of the embedded streams (`corollary.forecasting.SYNTHETIC`).
        lookback: L.
        horizon: H.
        seed: of the embedded stream; the others do not depend on it.
        with_calendar: whether the calendar is appended as covariates.

    Raises:
        ValueError: an unknown name, sizes that the data cannot carry, or a calendar asked of data without dates.
        DataUnavailable: the data set is neither in a local folder nor can it be fetched.
    """
    if name in SWITCHING:
        values = switching_levels(seed, levels=SWITCHING[name]).values
        names, times, period = tuple(f"x{i}" for i in range(values.shape[1])), None, 1
    else:
        name = find_dataset(name).name  # as registered: split and period are looked up by it
        table = load_table(name)
        values, names = table.to_numpy(np.float64), tuple(map(str, table.columns))
        times = table.index if isinstance(table.index, pd.DatetimeIndex) else None
        period = PERIODS[name]
    if with_calendar and times is None:
        raise ValueError(f"{name} has no dates, so there is no calendar to append")
    return problem_of(
        values,
        lookback=lookback,
        horizon=horizon,
        covariates=calendar(times) if with_calendar and times is not None else None,
        split=split_of(name, len(values)),
        period=period,
        name=name,
        variate_names=names,
    )
