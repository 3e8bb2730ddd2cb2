import pytest
import torch

from corollary.evaluation import Stream, prequential
from corollary.forecasting import Setting, make_method, make_setting
from corollary.forecasting.naive import Persistence, SeasonalNaive
from corollary.runs import RunStore


@pytest.fixture
def embedded() -> Setting:
    return make_setting("switching-levels", "linear", 4)


def test_the_last_season_is_repeated_in_order() -> None:
    window = torch.arange(7.0)[:, None]
    forecast = SeasonalNaive(period=3, lookback=7, horizon=8, variates=1).predict(window)
    assert forecast[:, 0].tolist() == [4, 5, 6, 4, 5, 6, 4, 5]


def test_a_periodic_series_is_forecast_without_error() -> None:
    season = torch.tensor([[0.0, 5.0], [2.0, -1.0], [1.0, 3.0], [4.0, 4.0]])

    def error(period: int) -> float:
        stream = Stream(season.repeat(10, 1), lookback=6, horizon=7)
        forecaster = SeasonalNaive(period=period, lookback=6, horizon=7, variates=2)
        return prequential(forecaster, stream, range(5, 33)).mse

    assert error(4) == 0
    assert error(3) > 0


def test_persistence_repeats_the_last_row_and_drops_covariates() -> None:
    window = torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]])
    forecast = Persistence(lookback=2, horizon=3, variates=2).predict(window)
    assert forecast.tolist() == [[3.0, 4.0]] * 3


def test_persistence_has_the_error_of_a_random_walk() -> None:
    # E (s_{t+h} - s_t)^2 = h for unit steps, so the mean over h = 1..H is (H + 1) / 2
    steps = torch.randn(4100, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stream = Stream(steps.cumsum(0), lookback=1, horizon=5)
    result = prequential(Persistence(lookback=1, horizon=5, variates=1), stream, range(4000))
    assert result.mse == pytest.approx(3, rel=0.1)


def test_a_window_shorter_than_the_season_is_refused() -> None:
    with pytest.raises(ValueError, match="lookback must be at least the period 24, got 23"):
        SeasonalNaive(period=24, lookback=23, horizon=1, variates=1)


@pytest.mark.parametrize("name", ["period", "horizon", "variates"])
def test_sizes_must_be_positive(name: str) -> None:
    sizes = {"period": 1, "lookback": 5, "horizon": 1, "variates": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SeasonalNaive(**sizes)


def test_the_season_of_the_data_is_the_default(embedded: Setting, tmp_path) -> None:
    problem, store = embedded.problem(0), RunStore(tmp_path)
    window = problem.values[: problem.lookback]

    def forecast(name: str, **options: int) -> torch.Tensor:
        method = make_method(name, **options)
        assert method.requires(embedded, 0) == ()
        return method.build(problem, embedded, 0, store).predict(window)

    assert problem.period == 1
    assert torch.equal(forecast("seasonal-naive"), forecast("persistence"))
    assert torch.equal(forecast("seasonal-naive", period=4), window[-4:])
