import numpy as np
import pandas as pd
import pytest
import torch

from corollary.forecasting.frames import from_long, to_long


def long(ids: str = "ab", periods: int = 5, freq: str = "h") -> pd.DataFrame:
    """Series ``a`` holds 0, 1, ..., series ``b`` 100, 101, ..."""
    times = pd.date_range("2024-02-28 22:00", periods=periods, freq=freq)
    return pd.concat(
        [
            pd.DataFrame({"unique_id": name, "ds": times, "y": np.arange(periods) + 100.0 * place})
            for place, name in enumerate(ids)
        ],
        ignore_index=True,
    )


def test_long_frame_becomes_columns() -> None:
    values, times, ids = from_long(long().assign(other="ignored"))
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [[step, 100 + step] for step in range(5)])
    assert isinstance(times, pd.DatetimeIndex)
    assert times.tolist() == pd.date_range("2024-02-28 22:00", periods=5, freq="h").tolist()
    assert ids == ("a", "b")


def test_rows_in_any_order() -> None:
    shuffled = long("cab", periods=20).sample(frac=1, random_state=0)
    result = from_long(shuffled)
    assert result.ids == ("a", "b", "c")
    np.testing.assert_array_equal(result.values[:, 2], np.arange(20))  # c was written first
    np.testing.assert_array_equal(result.values[:, 0], np.arange(20) + 100)
    assert result.times.is_monotonic_increasing


@pytest.mark.parametrize("kind", ["category", "string", object])
def test_names_of_any_kind(kind: str) -> None:
    frame = long("abc").astype({"unique_id": kind})
    assert from_long(frame[frame["unique_id"] != "b"]).ids == ("a", "c")


def test_times_may_be_integers_and_names_too() -> None:
    frame = pd.DataFrame({"unique_id": [1, 1, 1, 0, 0, 0], "ds": [4, 5, 6] * 2, "y": [1, 2, 3, 4, 5, 6]})
    values, times, ids = from_long(frame)
    assert (values.tolist(), times.tolist(), ids) == ([[4, 1], [5, 2], [6, 3]], [4, 5, 6], (0, 1))


@pytest.mark.parametrize("freq", ["15min", "D", "MS", "ME", "B", "QS", "W-WED"])
def test_calendars_are_regular(freq: str) -> None:
    assert len(from_long(long(periods=40, freq=freq)).values) == 40


@pytest.mark.parametrize("column", ["unique_id", "ds", "y"])
def test_missing_column_is_named(column: str) -> None:
    with pytest.raises(ValueError, match=f"columns unique_id, ds and y, got none called {column}$"):
        from_long(long().drop(columns=column))


def test_empty_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="frame must have rows"):
        from_long(long().iloc[:0])


@pytest.mark.parametrize("column", ["unique_id", "ds"])
def test_missing_name_or_time_is_refused(column: str) -> None:
    frame = long()
    frame.loc[3, column] = None
    with pytest.raises(ValueError, match=f"{column} must be given in every row, got none in row 3"):
        from_long(frame)


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), ("many", "many"), (None, "None|nan")])
def test_value_that_is_no_number_is_named(value: object, shown: str) -> None:
    frame = long().astype({"y": object})
    frame.loc[6, "y"] = value
    with pytest.raises(ValueError, match=f"series 'b' at 2024-02-28 23:00:00 must have a finite y, got ({shown})$"):
        from_long(frame)
    frame.loc[7, "y"] = value
    with pytest.raises(ValueError, match=r"\(2 such rows\)$"):
        from_long(frame)


def test_missing_value_of_a_nullable_column_is_named() -> None:
    frame = long().astype({"y": "Float64"})
    frame.loc[0, "y"] = pd.NA
    with pytest.raises(ValueError, match="series 'a' at 2024-02-28 22:00:00 must have a finite y, got <NA>"):
        from_long(frame)


def test_row_that_is_there_twice_is_named() -> None:
    frame = pd.concat([long(), long().iloc[[6]]])
    with pytest.raises(ValueError, match="series 'b' at 2024-02-28 23:00:00 must be one row, got another"):
        from_long(frame)


def test_missing_row_is_named() -> None:
    with pytest.raises(ValueError, match=r"series 'b' must have a row at 2024-02-29 00:00:00, got none$"):
        from_long(long().drop(index=7))
    with pytest.raises(ValueError, match=r"series 'b' must have a row at 2024-02-28 23:00:00, got none \(2 such rows"):
        from_long(long().drop(index=[6, 7]))


@pytest.mark.parametrize(
    ("dropped", "span"),
    [(5, "2024-02-28 23:00:00 to 2024-02-29 02:00:00"), (9, "2024-02-28 22:00:00 to 2024-02-29 01:00:00")],
)
def test_unequal_spans_are_named(dropped: int, span: str) -> None:
    words = f"span the same times, 2024-02-28 22:00:00 to 2024-02-29 02:00:00, got {span} for series 'b'"
    with pytest.raises(ValueError, match=words):
        from_long(long().drop(index=dropped))


def test_row_missing_from_every_series_is_named() -> None:
    frame = long(periods=8).drop(index=[4, 12])
    words = "most steps are 0 days 01:00:00, got 2024-02-29 01:00:00 followed by 2024-02-29 03:00:00"
    with pytest.raises(ValueError, match=words):
        from_long(frame)
    assert from_long(frame, regular=False).values.shape == (7, 2)
    numbers = pd.DataFrame({"unique_id": "a", "ds": [1, 2, 3, 5], "y": 0.0})
    with pytest.raises(ValueError, match="most steps are 1, got 3 followed by 5"):
        from_long(numbers)


def test_names_that_cannot_be_sorted_are_refused() -> None:
    frame = long().astype({"unique_id": object})
    frame.loc[5:, "unique_id"] = 1
    with pytest.raises(ValueError, match="must each be of one kind, to be sorted"):
        from_long(frame)


# Out


def test_forecast_becomes_rows() -> None:
    frame = to_long(
        torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]], requires_grad=True),
        last_time="2024-02-28 23:00",
        freq="h",
        ids=["b", "a"],
        name="Proceed",
    )
    assert frame.columns.tolist() == ["unique_id", "ds", "Proceed"]
    assert frame["unique_id"].tolist() == ["b"] * 3 + ["a"] * 3
    assert frame["Proceed"].tolist() == [1, 2, 3, 10, 20, 30]
    assert frame["ds"].tolist() == pd.date_range("2024-02-29 00:00", periods=3, freq="h").tolist() * 2


@pytest.mark.parametrize(
    ("last", "freq", "expected"),
    [
        ("2024-01-31", "ME", ["2024-02-29", "2024-03-31"]),
        ("2024-01-15", "ME", ["2024-01-31", "2024-02-29"]),  # not on the calendar: the next date counts
        ("2024-02-01", "MS", ["2024-03-01", "2024-04-01"]),
        ("2024-03-01", "B", ["2024-03-04", "2024-03-05"]),
        ("2024-12-31 23:45", "15min", ["2025-01-01 00:00", "2025-01-01 00:15"]),
    ],
)
def test_times_follow_the_calendar(last: str, freq: str, expected: list[str]) -> None:
    frame = to_long(np.zeros((2, 1)), last_time=last, freq=freq, ids=["a"])
    assert frame["ds"].tolist() == [pd.Timestamp(time) for time in expected]


def test_what_goes_out_comes_back() -> None:
    values = np.random.default_rng(0).normal(size=(7, 3))
    frame = to_long(values, last_time="2024-02-28", freq="D", ids=["x", "y", "z"], name="y")
    back = from_long(frame)
    np.testing.assert_array_equal(back.values, values)
    assert back.ids == ("x", "y", "z")
    assert back.times[0] == pd.Timestamp("2024-02-29")
    zoned = to_long(values, last_time=pd.Timestamp("2024-02-28", tz="UTC"), freq="D", ids=[0, 1, 2], name="y")
    assert from_long(zoned).times[0] == pd.Timestamp("2024-02-29", tz="UTC")
    whole = to_long(values, last_time=np.int64(9), freq=2, ids=["x", "y", "z"], name="y")
    assert from_long(whole).times.tolist() == [11, 13, 15, 17, 19, 21, 23]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forecast": np.zeros(4)}, r"forecast must be \(H, N\) with N = 2 ids, got shape \(4,\)"),
        ({"forecast": np.zeros((4, 3))}, r"N = 2 ids, got shape \(4, 3\)"),
        ({"ids": ["a", "a"]}, r"ids must be unique, got \['a', 'a'\]"),
        ({"name": "ds"}, "name must be neither unique_id nor ds, got 'ds'"),
        ({"freq": 1}, "integer times need an integer freq, and dates an alias, got '2024-01-01' and 1"),
        ({"last_time": 3}, "got 3 and 'h'"),
        ({"freq": "fortnight"}, "fortnight"),
    ],
)
def test_bad_forecast_is_refused(changes: dict, words: str) -> None:
    arguments = {"forecast": np.zeros((4, 2)), "last_time": "2024-01-01", "freq": "h", "ids": ["a", "b"]} | changes
    with pytest.raises(ValueError, match=words):
        to_long(**arguments)  # ty: ignore[invalid-argument-type]
