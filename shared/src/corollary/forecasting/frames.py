"""Long data frames in and out: one row a series and time, in the columns `unique_id`, `ds` and `y`.

That is the convention of Nixtla's libraries (statsforecast, neuralforecast, mlforecast) and of many others.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor

ID, TIME, VALUE = "unique_id", "ds", "y"


class LongSeries(NamedTuple):
    """A multivariate series read from a long frame."""

    values: NDArray[np.float64]
    """(T, N), one column a series."""
    times: pd.Index
    """(T,), increasing; a `DatetimeIndex` where the frame has dates."""
    ids: tuple[Any, ...]
    """Names of the N columns, sorted."""


def from_long(frame: pd.DataFrame, *, regular: bool = True) -> LongSeries:
    """Turn a long frame into the (T, N) values of a multivariate series.

    Rows may come in any order: they are sorted by series and time. Further columns are ignored.

    Args:
        frame: columns ``unique_id``, ``ds`` (dates or numbers) and ``y``; every series at the same times.
        regular: whether times must be evenly spaced, or follow a calendar that pandas can infer, such as months. False
            takes them as they are: a window is then so many rows, whatever time they span.

    Raises:
        ValueError: a column is missing or there are no rows; a name or time is missing; a value is not a finite
            number; a row is there twice or not at all; series span different times; or steps are irregular. The
            message names series and time.

    Example:
        >>> times = pd.date_range("2024-01-01", periods=3, freq="h")
        >>> frame = pd.DataFrame({"unique_id": list("bbbaaa"), "ds": [*times, *times], "y": range(6)})
        >>> values, times, ids = from_long(frame)
        >>> ids, values.tolist()
        (('a', 'b'), [[3.0, 0.0], [4.0, 1.0], [5.0, 2.0]])
    """
    absent = [name for name in (ID, TIME, VALUE) if name not in frame.columns]
    if absent:
        raise ValueError(f"frame must have the columns {ID}, {TIME} and {VALUE}, got none called {', '.join(absent)}")
    if frame.empty:
        raise ValueError("frame must have rows, got none")
    for name in (ID, TIME):
        gaps = np.flatnonzero(frame[name].isna())
        if len(gaps):
            raise ValueError(f"{name} must be given in every row, got none in row {gaps[0]}")
    rows = pd.DataFrame(
        {
            ID: frame[ID].astype(object).to_numpy(),  # a categorical would bring its unused names
            TIME: frame[TIME].array,
            VALUE: pd.to_numeric(frame[VALUE], errors="coerce").to_numpy(np.float64, na_value=np.nan),
        }
    )
    _name_first(rows, ~np.isfinite(rows[VALUE]), "must have a finite y", given=frame[VALUE])
    _name_first(rows, rows.duplicated([ID, TIME]), "must be one row")
    try:
        table = rows.pivot(index=TIME, columns=ID, values=VALUE).sort_index(axis=0).sort_index(axis=1)
    except TypeError as error:
        raise ValueError(f"{ID} and {TIME} must each be of one kind, to be sorted: {error}") from None
    _check_complete(table)
    if regular:
        _check_steps(table.index)
    return LongSeries(table.to_numpy(np.float64), table.index.rename(None), tuple(table.columns))


def to_long(
    forecast: "ArrayLike | Tensor",
    *,
    last_time: Any,
    freq: str | int | pd.DateOffset,
    ids: Sequence[Any],
    name: str = "forecast",
) -> pd.DataFrame:
    """A forecast as a long frame, in the order of ``ids`` and of time.

    Args:
        forecast: (H, N).
        last_time: time of the newest row of the window, a date or an integer.
        freq: step of time: an alias of pandas such as ``"h"`` or ``"MS"``, or an integer where times are integers.
        ids: names of the N series.
        name: column of the forecast.

    Returns:
        H x N rows with the columns ``unique_id``, ``ds`` and ``name``.

    Raises:
        ValueError: a forecast that is not (H, N), ids that are not as many or not unique, a name that is taken, or a
            time and a frequency that do not go together.

    Example:
        >>> to_long([[1.5], [2.5]], last_time=7, freq=1, ids=["a"], name="Ridge").to_dict("list")
        {'unique_id': ['a', 'a'], 'ds': [8, 9], 'Ridge': [1.5, 2.5]}
    """
    detach = getattr(forecast, "detach", None)
    values = np.asarray(forecast if detach is None else detach().cpu())
    if values.ndim != 2 or values.shape[1] != len(ids):
        raise ValueError(f"forecast must be (H, N) with N = {len(ids)} ids, got shape {values.shape}")
    if len(set(ids)) != len(ids):
        raise ValueError(f"ids must be unique, got {list(ids)}")
    if name in (ID, TIME):
        raise ValueError(f"name must be neither {ID} nor {TIME}, got {name!r}")
    times = _times_after(last_time, freq, len(values))
    return pd.DataFrame(
        {
            ID: pd.Series(list(ids)).repeat(len(values)).array,
            TIME: times.append([times] * (len(ids) - 1)),
            name: values.T.ravel(),
        }
    )


def _times_after(last_time: Any, freq: str | int | pd.DateOffset, count: int) -> pd.Index:
    if isinstance(last_time, int | np.integer) and isinstance(freq, int):
        return pd.Index([int(last_time) + step * freq for step in range(1, count + 1)], dtype=np.int64)
    if isinstance(last_time, int | np.integer) or isinstance(freq, int):
        raise ValueError(f"integer times need an integer freq, and dates an alias, got {last_time!r} and {freq!r}")
    start, offset = pd.Timestamp(last_time), pd.tseries.frequencies.to_offset(freq)
    # Not `date_range`: it would begin at the first date of the calendar, which may be the next one already.
    return pd.DatetimeIndex([start + offset * step for step in range(1, count + 1)])


def _name_first(rows: pd.DataFrame, wrong: "pd.Series", message: str, *, given: "pd.Series | None" = None) -> None:
    """Refuse the first of the wrong rows."""
    places = np.flatnonzero(wrong)
    if len(places):
        row = rows.iloc[places[0]]
        found = "" if given is None else f", got {given.iloc[places[0]]}"
        count = f" ({len(places)} such rows)" if len(places) > 1 else ""
        raise ValueError(f"series {row[ID]!r} at {row[TIME]} {message}{found or ', got another'}{count}")


def _check_complete(table: pd.DataFrame) -> None:
    """Refuse series of different spans, then gaps."""
    for name in table.columns:
        present = table.index[table[name].notna()]
        if (present[0], present[-1]) != (table.index[0], table.index[-1]):
            raise ValueError(
                f"all series must span the same times, {table.index[0]} to {table.index[-1]}, got {present[0]} to "
                f"{present[-1]} for series {name!r}"
            )
    gaps = np.argwhere(table.isna().to_numpy())
    if len(gaps):
        row, column = gaps[0]
        count = f" ({len(gaps)} such rows)" if len(gaps) > 1 else ""
        raise ValueError(f"series {table.columns[column]!r} must have a row at {table.index[row]}, got none{count}")


def _check_steps(times: pd.Index) -> None:
    """Refuse a row that is missing from every series."""
    if len(times) < 3 or len(set(times[1:] - times[:-1])) == 1:
        return
    if isinstance(times, pd.DatetimeIndex):
        with warnings.catch_warnings():  # pandas announces another type of answer; whether there is one stays
            warnings.simplefilter("ignore", DeprecationWarning)
            if pd.infer_freq(times) is not None:
                return
    steps = pd.Series(times[1:] - times[:-1])
    usual = steps.mode()[0]
    place = int(np.flatnonzero(steps != usual)[0])
    raise ValueError(
        f"times must be evenly spaced: most steps are {usual}, got {times[place]} followed by {times[place + 1]}; "
        "regular=False takes them as they are"
    )
