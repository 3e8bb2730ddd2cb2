import gzip
import os

import numpy as np
import pandas as pd
import pytest

from corollary.data import DATASETS, DataUnavailable, load_table

REAL = os.environ.get("COROLLARY_DATA")  # Read before a fixture hides it.


def table(small, folder, content, **changes):
    (folder / "small.csv").write_bytes(content)
    return load_table(small.entry(content, **changes), folder=folder, download=False)


def test_values_are_the_nearest_doubles_under_their_names_and_dates(small, tmp_path):
    loaded = table(small, tmp_path, small.content)
    assert list(loaded.columns) == ["load", "OT"]
    assert loaded.index.equals(pd.date_range("2020-01-01", periods=24, freq="1h").astype(loaded.index.dtype))
    assert loaded.index.name == "date"
    assert (loaded.dtypes == np.float64).all()
    assert loaded["OT"].tolist() == [0.1 * hour for hour in range(24)]  # Bit for bit.


def test_long_decimals_are_read_to_the_last_bit(small, tmp_path):
    # The default parser of pandas before 3.1 is off by one unit in the last place for some of these.
    texts = [repr(value) for value in (np.random.default_rng(0).normal(size=24) * 1e3).tolist()]
    lines = "".join(f"2020-01-01 {hour:02d}:00:00,{text}\n" for hour, text in enumerate(texts))
    loaded = table(small, tmp_path, f"date,x\n{lines}".encode(), columns=1)
    assert loaded["x"].tolist() == [float(text) for text in texts]


def test_whole_numbers_become_float64(small, tmp_path):
    lines = "".join(f"2020-01-01 {hour:02d}:00:00,{hour}\n" for hour in range(24))
    assert table(small, tmp_path, f"date,x\n{lines}".encode(), columns=1)["x"].dtype == np.float64


def test_a_compressed_copy_gives_the_same_table(small, tmp_path):
    (tmp_path / "small.csv.gz").write_bytes(gzip.compress(small.content))
    packed = load_table(small.entry(), folder=tmp_path)
    (tmp_path / "small.csv.gz").unlink()
    pd.testing.assert_frame_equal(packed, table(small, tmp_path, small.content))


def test_a_file_without_dates_has_no_header_and_numbered_columns(small, tmp_path):
    loaded = table(small, tmp_path, b"1,2,3\n4,5,6\n", rows=2, columns=3, dated=False)
    assert list(loaded.columns) == ["0", "1", "2"]
    assert loaded.index.tolist() == [0, 1]
    assert loaded.to_numpy().tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


@pytest.mark.parametrize(("text", "shown"), [(b"", "nan"), (b"NA", "nan"), (b"?", r"\?"), (b"inf", "inf")])
def test_what_is_no_finite_number_is_named_by_row_and_column(small, tmp_path, text, shown):
    lines = small.content.splitlines(keepends=True)
    lines[8] = b"2020-01-01 07:00:00,7.5," + text + b"\n"
    with pytest.raises(ValueError, match=rf"got {shown} in row 7, column 'OT' \(1 such values"):
        table(small, tmp_path, b"".join(lines))


@pytest.mark.parametrize("change", [{"rows": 25}, {"rows": 23}, {"columns": 1}, {"columns": 3}])
def test_another_shape_than_registered_is_refused(small, tmp_path, change):
    rows, columns = change.get("rows", 24), change.get("columns", 2)
    with pytest.raises(ValueError, match=f"must have {rows} rows of {columns} values for Small, got 24 rows of 2"):
        table(small, tmp_path, small.content, **change)


def test_lines_of_unequal_length_are_refused(small, tmp_path):
    with pytest.raises(
        ValueError, match=r"small.csv must be a table of 2 values a line: .*Expected 3 fields in line 26, saw 4"
    ):
        table(small, tmp_path, small.content + b"2020-01-02 00:00:00,1,2,3\n", rows=25)
    with pytest.raises(ValueError, match=r"got nan in row 24, column 'OT'"):
        table(small, tmp_path, small.content + b"2020-01-02 00:00:00,1\n", rows=25)


def test_columns_without_a_name_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match="the header must name every column"):
        table(small, tmp_path, small.content.replace(b"date,load,OT", b"date,load"), columns=1)


def test_an_empty_file_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="must be a table of 2 values a line: No columns to parse"):
        table(small, tmp_path, b"")


def test_a_header_without_dates_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="the first column must be 'date', got 'time'"):
        table(small, tmp_path, small.content.replace(b"date", b"time"))


def test_a_date_that_cannot_be_read_is_named(small, tmp_path):
    with pytest.raises(ValueError, match="got '2020-01-01 99:00:00' in row 3"):
        table(small, tmp_path, small.content.replace(b" 03:", b" 99:"))


@pytest.mark.parametrize(("old", "new", "first"), [(b" 05:", b" 04:", "04:00:00"), (b" 05:00", b" 05:30", "04:00:00")])
def test_steps_must_be_those_registered(small, tmp_path, old, new, first):
    # A date that moves changes the step before it and the one after it.
    message = f"0 steps of Small must differ from 1h, got 2, the first from 2020-01-01 {first} to 2020-01-01 "
    with pytest.raises(ValueError, match=message):
        table(small, tmp_path, small.content.replace(old, new))
    assert len(table(small, tmp_path, small.content.replace(old, new), irregular_steps=2)) == 24


def test_a_registered_irregularity_must_be_there(small, tmp_path):
    with pytest.raises(ValueError, match="1 steps of Small must differ from 1h, got 0"):
        table(small, tmp_path, small.content, irregular_steps=1)


def test_another_step_than_registered_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="0 steps of Small must differ from 30min, got 23"):
        table(small, tmp_path, small.content, step="30min")


def test_a_table_that_is_not_there_is_unavailable(small, tmp_path):
    with pytest.raises(DataUnavailable):
        load_table(small.entry(), folder=tmp_path, download=False)


# Real files


def real(name):
    """The table, or nothing if `COROLLARY_DATA` names no folder that has it."""
    try:
        return load_table(name, folder=REAL, download=False) if REAL else None
    except DataUnavailable:
        return None


def test_real_files_are_what_the_registry_says():
    shapes = {name: loaded.shape for name in DATASETS if (loaded := real(name)) is not None}
    if not shapes:
        pytest.skip("COROLLARY_DATA names no folder with data sets")
    assert shapes == {name: (DATASETS[name].rows, DATASETS[name].columns) for name in shapes}


def test_the_real_etth2_starts_and_ends_as_published():
    loaded = real("etth2")
    if loaded is None:
        pytest.skip("COROLLARY_DATA names no folder with ETTh2")
    assert list(loaded.columns) == ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    assert loaded.index[0] == pd.Timestamp("2016-07-01 00:00")
    assert loaded.index[-1] == pd.Timestamp("2018-06-26 19:00")
    assert loaded["OT"].iloc[0] == 38.6619987487793
    assert loaded["HUFL"].iloc[-1] == 38.86800003051758
