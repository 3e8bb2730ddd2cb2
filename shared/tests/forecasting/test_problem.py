from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch

from corollary.evaluation import LeakageWarning
from corollary.forecasting import Problem, Split, StandardScaler, chronological_split, make_problem
from corollary.forecasting import problem as problem_module
from corollary.forecasting.problem import CALENDAR, calendar, split_of


def etth(horizon: int = 24, rows: int = 17420, lookback: int = 60) -> Problem:
    values = torch.randn(rows, 7, generator=torch.Generator().manual_seed(0))
    return Problem(
        name="noise",
        values=values,
        variates=7,
        split=split_of("ETTh2", rows),
        lookback=lookback,
        horizon=horizon,
        period=24,
    )


def small(**changes: object) -> Problem:
    """Row t holds t, t + 1000 and, as covariate, -t."""
    rows = torch.arange(100.0)
    fields = {
        "name": "small",
        "values": torch.stack([rows, rows + 1000, -rows], 1),
        "variates": 2,
        "split": Split(40, 60, 90),
        "lookback": 5,
        "horizon": 3,
        "period": 1,
    }
    return Problem(**fields | changes)  # ty: ignore[invalid-argument-type]


# Splits


def test_months_of_the_ett_data() -> None:
    assert split_of("ETTh1", 17420) == split_of("ETTh2", 17420) == (2880, 3600, 14400)
    assert split_of("ETTm1", 69680) == split_of("ETTm2", 69680) == (11520, 14400, 57600)


def test_other_data_is_split_by_shares() -> None:
    # The test part is the last 75 %, rounded down; validation is what is left between.
    assert split_of("Weather", 52696) == (10539, 13174, 52696)
    assert chronological_split(10) == (2, 3, 10)
    assert chronological_split(1001, (0.5, 0.25, 0.25)) == (500, 751, 1001)


@pytest.mark.parametrize("shares", [(0.2, 0.05, 0.7), (0.5, 0.0, 0.5), (1.2, -0.4, 0.2)])
def test_bad_shares_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="shares must be positive and sum to 1, got"):
        chronological_split(1000, shares)


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_too_few_rows_to_split(rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows are too few"):
        chronological_split(rows)


# Origins


@pytest.mark.parametrize(("horizon", "test", "validation"), [(1, 10800, 720), (24, 10777, 697), (96, 10705, 625)])
def test_number_of_origins(horizon: int, test: int, validation: int) -> None:
    problem = etth(horizon)
    assert len(problem.test_origins) == test
    assert len(problem.validation_origins) == validation
    assert len(problem.preparation_origins) == 720
    assert len(problem.training_origins) == 2880 - 60 - horizon + 1


def test_parts_of_the_split_do_not_touch() -> None:
    problem = etth()
    covered = {
        name: (origins[0] + 1, origins[-1] + problem.horizon)
        for name, origins in {
            "training": problem.training_origins,
            "validation": problem.validation_origins,
            "test": problem.test_origins,
        }.items()
    }
    assert covered == {"training": (60, 2879), "validation": (2880, 3599), "test": (3600, 14399)}
    assert problem.training_origins[0] == problem.lookback - 1
    # The walk through history ends right before the first forecast of the test.
    assert problem.preparation_origins[-1] + 1 == problem.test_origins[0]


def test_stream_ends_with_the_test_rows() -> None:
    stream = etth().stream(until=3599)
    assert (stream.rows, stream.now, stream.variates) == (14400, 3599, 7)
    with pytest.warns(LeakageWarning):
        assert etth().leaky_stream().rows == 14400


def test_streams_are_independent_and_share_the_rows() -> None:
    problem = small()
    first, second = problem.stream(until=20), problem.stream()
    assert (first.now, second.now) == (20, -1)
    assert first._values.data_ptr() == problem.values.data_ptr()


def test_windows_agree_with_the_stream() -> None:
    problem = small()
    for origins in (problem.training_origins, problem.validation_origins, problem.test_origins, range(50, 51)):
        windows = problem.windows(origins)
        assert windows.x.shape == (len(origins), 5, 3)
        assert windows.y.shape == (len(origins), 3, 2)
        stream = problem.stream(until=problem.split.test - 1)
        for i, origin in enumerate(origins):
            x, y = stream.pair(origin)
            assert torch.equal(windows.x[i], x)
            assert torch.equal(windows.y[i], y)
    assert windows.x.untyped_storage().data_ptr() == problem.values.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lookback": 0}, "lookback must be positive, got 0"),
        ({"horizon": -1}, "horizon must be positive, got -1"),
        ({"lookback": 35}, r"small: the 40 training rows must be at least lookback \+ 2 horizon = 41"),
        ({"split": Split(40, 42, 90)}, "small: the 2 validation rows must be at least the horizon 3"),
        ({"split": Split(40, 60, 62)}, "small: the 2 test rows must be at least the horizon 3"),
        ({"split": Split(40, 60, 101)}, "small: the split ends at row 101, but there are 100 rows"),
        ({"variates": 4}, r"small: variates must be in \[1, 3\], got 4"),
        ({"variates": 0}, r"small: variates must be in \[1, 3\], got 0"),
    ],
)
def test_impossible_problem_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(**changes)


def test_smallest_problem() -> None:
    problem = small(lookback=34, split=Split(40, 43, 46))
    assert (len(problem.training_origins), len(problem.validation_origins), len(problem.test_origins)) == (4, 1, 1)


# Standardisation


def test_scaler_has_mean_zero_and_population_deviation_one() -> None:
    values = np.random.default_rng(0).normal(5, 3, (50, 4))
    scaler = StandardScaler(values)
    scaled = scaler.transform(values)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-14)
    np.testing.assert_allclose((scaled**2).mean(0), 1, rtol=1e-13)
    np.testing.assert_allclose(scaler.inverse(scaled), values, rtol=1e-13)


def test_constant_column_is_only_centred() -> None:
    scaler = StandardScaler(np.full((10, 1), 7.0))
    np.testing.assert_array_equal(scaler.transform(np.array([[7.0], [9.5]])), [[0.0], [2.5]])
    np.testing.assert_array_equal(scaler.inverse(np.array([[2.5]])), [[9.5]])


class Table:
    """Stands in for the files: ``ETTh2`` of 14,500 hours, of which only the training rows are quiet."""

    def __init__(self, rows: int = 14500, start: str = "2016-07-01") -> None:
        values = np.random.default_rng(1).normal(3, 2, (rows, 2))
        values[2880:] *= 100
        times = pd.date_range(start, periods=rows, freq="h", name="date") if start else None
        self.frame = pd.DataFrame(values, columns=["load", "oil"], index=times)
        self.asked: list[str] = []

    def __call__(self, name: str) -> pd.DataFrame:
        self.asked.append(name)
        return self.frame


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    table = Table()
    monkeypatch.setattr(problem_module, "load_table", table)
    return table


def test_data_is_scaled_by_its_training_rows_only(table: Table) -> None:
    problem = make_problem("ETTh2", lookback=60, horizon=24)
    train = table.frame.to_numpy()[:2880]
    expected = (table.frame.to_numpy() - train.mean(0)) / train.std(0)
    np.testing.assert_array_equal(problem.values.numpy(), expected.astype(np.float32))
    assert problem.values[:2880].double().square().mean() == pytest.approx(1, abs=1e-6)
    assert problem.values[2880:].abs().max() > 50
    assert problem.variate_names == ("load", "oil")
    assert (problem.variates, problem.period, problem.split) == (2, 24, (2880, 3600, 14400))


def test_name_in_lower_case_means_the_same_data(table: Table) -> None:
    problem = make_problem("etth2", lookback=60, horizon=24)
    assert (problem.name, problem.split.test, table.asked) == ("ETTh2", 14400, ["ETTh2"])


def test_calendar_is_appended_as_it_is(table: Table) -> None:
    problem = make_problem("ETTh2", lookback=60, horizon=24, with_calendar=True)
    assert problem.values.shape == (14500, 9)
    assert problem.variates == 2
    # Friday 1 July 2016, then Saturday at 13 o'clock.
    assert problem.values[0, 2:].tolist() == [0, 0, 4, 1, 183, 7, 26]
    assert problem.values[37, 2:].tolist() == [0, 13, 5, 2, 184, 7, 26]


def test_data_without_dates_has_no_calendar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_module, "load_table", Table(rows=7588, start=""))
    assert make_problem("Exchange", lookback=60, horizon=24).period == 1
    for name in ("Exchange", "switching-levels"):
        with pytest.raises(ValueError, match=f"{name} has no dates"):
            make_problem(name, lookback=60, horizon=24, with_calendar=True)


def test_unknown_data_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown data set 'ETTh3'"):
        make_problem("ETTh3", lookback=60, horizon=24)


def test_embedded_stream_is_a_problem_of_its_seed() -> None:
    first, again, other = (make_problem("switching-levels", lookback=24, horizon=12, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)
    assert (first.split, first.variates, first.period) == ((1200, 1500, 6000), 8, 1)
    assert first.values[:1200].double().mean(0).abs().max() < 1e-6


# The calendar


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2016-07-01 00:00", (0, 0, 4, 1, 183, 7, 26)),  # a Friday of a leap year
        ("2017-01-01 23:45", (45, 23, 6, 1, 1, 1, 52)),  # a Sunday that belongs to the last week of 2016
        ("2020-12-31 12:30", (30, 12, 3, 31, 366, 12, 53)),  # a leap year with 53 weeks
        ("2024-12-30 00:00", (0, 0, 0, 30, 365, 12, 1)),  # a Monday that belongs to the first week of 2025
        ("2018-02-28 06:15", (15, 6, 2, 28, 59, 2, 9)),
    ],
)
def test_calendar_of_known_dates(time: str, expected: Sequence[int]) -> None:
    assert CALENDAR == ("minute", "hour", "day_of_week", "day", "day_of_year", "month", "week")
    columns = calendar(pd.DatetimeIndex([time]))
    assert columns.dtype == np.float64
    assert columns.tolist() == [list(expected)]
