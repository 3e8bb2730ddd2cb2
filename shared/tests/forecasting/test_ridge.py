from pathlib import Path

import pytest
import torch
from torch import Tensor

from corollary.evaluation import Stream, prequential
from corollary.forecasting import Problem, Split, make_method, make_setting, prepare_online
from corollary.forecasting.ridge import OnlineRidge
from corollary.runs import RunStore

LOOKBACK, HORIZON, VARIATES = 12, 5, 3
SETTING = make_setting("switching-levels", "linear", 4)


def walk_series(rows: int, columns: int = VARIATES, seed: int = 0) -> Tensor:
    steps = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return steps.cumsum(0)


def make_problem(rows: int = 300) -> Problem:
    return Problem(
        name="walk",
        values=walk_series(rows).float(),
        variates=VARIATES,
        split=Split(160, 220, rows),
        lookback=LOOKBACK,
        horizon=HORIZON,
        period=1,
    )


def closed_form(windows: Tensor, labels: Tensor, *, penalty: float, forgetting: float) -> Tensor:
    """The weighted ridge solution, (L, H), by least squares on the rows written out, the penalty as further rows."""
    count, _, variates = labels.shape
    rows, targets, weights = [], [], []
    for pair in range(count):
        for variate in range(variates):
            series = windows[pair, :, variate].double()
            rows.append(torch.cat([series[:-1] - series[-1], torch.ones(1, dtype=torch.float64)]))
            targets.append(labels[pair, :, variate].double() - series[-1])
            weights.append(forgetting ** (count - 1 - pair))
    scale = torch.tensor(weights, dtype=torch.float64).sqrt()[:, None]
    ridge = (penalty * forgetting**count) ** 0.5 * torch.eye(windows.shape[1], dtype=torch.float64)
    left = torch.cat([torch.stack(rows) * scale, ridge])
    right = torch.cat([torch.stack(targets) * scale, torch.zeros(len(ridge), labels.shape[1], dtype=torch.float64)])
    return torch.linalg.lstsq(left, right, driver="gelsd").solution


def make_ridge(**options: float) -> OnlineRidge:
    return OnlineRidge(lookback=LOOKBACK, horizon=HORIZON, variates=VARIATES, **options)


def pairs(problem: Problem, first: int, last: int) -> tuple[Tensor, Tensor]:
    x, y = problem.windows(range(first, last + 1))
    return x, y


@pytest.mark.parametrize("forgetting", [1.0, 0.99])
@pytest.mark.parametrize("count", [1, 4, 150])
def test_updates_reach_the_closed_form(count: int, forgetting: float) -> None:
    x, y = pairs(make_problem(), LOOKBACK - 1, LOOKBACK - 2 + count)
    ridge = make_ridge(penalty=2.0, forgetting=forgetting)
    for window, label in zip(x, y, strict=True):
        ridge.update(window, label)
    expected = closed_form(x, y, penalty=2.0, forgetting=forgetting)
    torch.testing.assert_close(ridge.weight, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("forgetting", [1.0, 0.99])
def test_one_fit_is_the_same_as_an_update_for_each(forgetting: float) -> None:
    x, y = pairs(make_problem(), LOOKBACK - 1, 200)
    fitted, updated = (make_ridge(penalty=2.0, forgetting=forgetting) for _ in range(2))
    for window, label in zip(x, y, strict=True):
        updated.update(window, label)
    fitted.fit(x[:40], y[:40])
    fitted.fit(x[40:], y[40:])  # also from a state that has seen something
    torch.testing.assert_close(fitted.weight, updated.weight, rtol=0, atol=1e-10)
    torch.testing.assert_close(fitted.covariance, updated.covariance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("forgetting", [1.0, 0.995])
def test_at_any_time_of_a_run_every_released_pair_counts_once(forgetting: float, tmp_path: Path) -> None:
    problem = make_problem()
    method = make_method("ridge", penalty=3.0, forgetting=forgetting)
    ridge = method.build(problem, SETTING, 0, RunStore(tmp_path))
    assert isinstance(ridge, OnlineRidge)
    prepare_online(ridge, problem)
    seen = 60
    prequential(ridge, problem.stream(), range(problem.test_origins[0], problem.test_origins[0] + seen))
    last = problem.test_origins[0] + seen - 1 - HORIZON
    expected = closed_form(*pairs(problem, LOOKBACK - 1, last), penalty=3.0, forgetting=forgetting)
    torch.testing.assert_close(ridge.weight, expected, rtol=0, atol=1e-8)
    for wrong in (pairs(problem, LOOKBACK - 1, last - 1), pairs(problem, LOOKBACK, last)):
        assert (closed_form(*wrong, penalty=3.0, forgetting=forgetting) - expected).abs().max() > 1e-5


@pytest.mark.parametrize("forgetting", [1.0, 0.98])
def test_long_runs_stay_exact(forgetting: float) -> None:
    # 0.98 ** -2000 = 4e17: an error that only grows by 1 / f a step would be plain to see
    values = walk_series(2100).float().unfold(0, LOOKBACK + HORIZON, 1).mT[:2000]
    x, y = values[:, :LOOKBACK], values[:, LOOKBACK:]
    updated, fitted = (make_ridge(penalty=1.0, forgetting=forgetting) for _ in range(2))
    for window, label in zip(x, y, strict=True):
        updated.update(window, label)
    fitted.fit(x, y)
    torch.testing.assert_close(updated.weight, fitted.weight, rtol=0, atol=1e-8)


def test_a_linear_recurrence_is_learned_exactly() -> None:
    # a sum of two sines and a trend obeys one linear recurrence, whatever the variate's phases and slope
    time = torch.arange(400, dtype=torch.float64)[:, None]
    phases, slopes = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.01, -0.02, 0.0])
    values = torch.sin(time / 3 + phases) + 0.5 * torch.cos(time / 7 - phases) + slopes * time
    stream = Stream(values, lookback=LOOKBACK, horizon=HORIZON)
    result = prequential(make_ridge(penalty=1e-9), stream, range(LOOKBACK - 1, 390))
    assert result.squared[-50:].max() < 1e-6
    assert result.squared[:5].mean() > 1e-2


def test_covariates_do_not_matter() -> None:
    x, y = pairs(make_problem(), LOOKBACK - 1, 60)
    with_calendar = torch.cat([x, torch.randn(*x.shape[:2], 4)], -1)
    plain, other = make_ridge(penalty=1.0), make_ridge(penalty=1.0)
    plain.fit(x, y)
    other.fit(with_calendar, y)
    assert torch.equal(plain.predict(x[-1]), other.predict(with_calendar[-1]))
    assert other.predict(with_calendar[-1]).shape == (HORIZON, VARIATES)


def test_without_pairs_the_forecast_is_persistence() -> None:
    window = walk_series(LOOKBACK).float()
    assert torch.equal(make_ridge(penalty=1.0).predict(window), window[-1:].expand(HORIZON, -1))


def test_the_state_carries_the_run_on_exactly() -> None:
    x, y = pairs(make_problem(), LOOKBACK - 1, 100)
    first, second = (make_ridge(penalty=1.0, forgetting=0.99) for _ in range(2))
    first.fit(x[:40], y[:40])
    second.load_state_dict(first.state_dict())
    first.update(x[50], y[50])  # the copy must not follow
    second.update(x[50], y[50])
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.covariance, second.covariance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": 0.0}, "penalty must be positive, got 0.0"),
        ({"penalty": float("nan")}, "penalty must be positive, got nan"),
        ({"penalty": 1.0, "forgetting": 0.0}, r"forgetting must be in \(0, 1\], got 0.0"),
        ({"penalty": 1.0, "forgetting": 1.1}, r"forgetting must be in \(0, 1\], got 1.1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ridge(**options)


@pytest.mark.parametrize("name", ["lookback", "horizon", "variates"])
def test_sizes_must_be_positive(name: str) -> None:
    sizes = {"lookback": 2, "horizon": 1, "variates": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        OnlineRidge(**sizes, penalty=1.0)


def test_the_ridge_needs_no_pre_training() -> None:
    assert make_method("ridge").requires(SETTING, 0) == ()
