"""Data sets as pandas tables, checked row by row: what a forecaster gets holds no gaps that nobody mentioned."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from corollary.data.fetch import fetch
from corollary.data.registry import Dataset, find_dataset

if TYPE_CHECKING:
    import pandas as pd


def load_table(
    dataset: str | Dataset,
    *,
    folder: str | os.PathLike[str] | None = None,
    download: bool = True,
    progress: bool = True,
) -> "pd.DataFrame":
    """The values of a data set, one row per time step and one column per variable.

    Every value is the float64 that is nearest to the decimal number in the file.

    Args:
        dataset: A name in `DATASETS`, in any case, or an entry of your own.
        folder: A folder to look in first, see `fetch`.
        download: Whether a file that is not on this machine may be downloaded.
        progress: Whether a download shows its progress.

    Returns:
        Table of shape `(rows, columns)`, float64, every value finite. The index is the date where the file has
        dates, else 0, 1, ...; the columns have the names in the file, else "0", "1", ...

    Raises:
        ValueError: The file has another number of rows or columns than the entry says, a value or date that
            cannot be read, or steps that the entry does not mention; or a reason of `fetch`.
        CorruptFileError: The file is not the registered one.
        DataUnavailable: There is no file, and it cannot be downloaded.
    """
    import pandas as pd

    entry = find_dataset(dataset) if isinstance(dataset, str) else dataset
    path = fetch(entry, folder=folder, download=download, progress=progress)
    # pandas is exact by itself from 3.1 on, where it deprecates the option.
    exact = "round_trip" if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else None
    try:
        table = pd.read_csv(path, header=0 if entry.dated else None, float_precision=exact)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} must be a table of {entry.columns} values a line: {error}") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{path}: the header must name every column, got lines with more values than names")
    if entry.dated:
        if table.columns[0] != "date":
            raise ValueError(f"{path}: the first column must be 'date', got {table.columns[0]!r}")
        dates = table.pop("date")
    if table.shape != (entry.rows, entry.columns):
        raise ValueError(
            f"{path} must have {entry.rows} rows of {entry.columns} values for {entry.name}, got "
            f"{table.shape[0]} rows of {table.shape[1]}"
        )
    table.columns = table.columns.astype(str)
    table = _finite_values(table, path)
    if entry.dated:
        table.index = _regular_dates(dates, entry, path)
    return table


def _finite_values(table: "pd.DataFrame", path: Path) -> "pd.DataFrame":
    import numpy as np
    import pandas as pd

    values = table.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    wrong = np.argwhere(~np.isfinite(values.to_numpy()))
    if wrong.size:
        row, column = (int(position) for position in wrong[0])
        raise ValueError(
            f"{path}: every value must be a finite number, got {table.iat[row, column]!s} in row {row}, column "
            f"{table.columns[column]!r} ({len(wrong)} such values; the first row after the header is row 0)"
        )
    return values


def _regular_dates(dates: "pd.Series", entry: Dataset, path: Path) -> "pd.DatetimeIndex":
    import numpy as np
    import pandas as pd

    parsed = pd.to_datetime(dates, format="%Y-%m-%d %H:%M:%S", errors="coerce")
    if parsed.isna().any():
        row = int(np.flatnonzero(parsed.isna())[0])
        raise ValueError(f"{path}: dates must read like 2016-07-01 00:00:00, got {dates[row]!r} in row {row}")
    expected = pd.Timedelta(entry.step)
    irregular = np.flatnonzero(parsed.diff().iloc[1:] != expected) + 1
    if len(irregular) != entry.irregular_steps:
        where = f", the first from {parsed[irregular[0] - 1]} to {parsed[irregular[0]]}" if len(irregular) else ""
        raise ValueError(
            f"{path}: {entry.irregular_steps} steps of {entry.name} must differ from {entry.step}, got "
            f"{len(irregular)}{where}"
        )
    return pd.DatetimeIndex(parsed, name="date")
