"""Forecasts without a model: the last value, and the value one season ago."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from corollary.evaluation import OnlineForecaster, Stream
from corollary.forecasting.experiment import OnlineMethod, Setting
from corollary.forecasting.problem import Problem
from corollary.runs import Run, RunStore


class SeasonalNaive:
    r"""Repeat the last season of the window.

    With season :math:`p` and horizon step :math:`h = 1, \dots, H`,

    .. math:: \hat s_{t+h} = s_{t + h - p \lceil h / p \rceil}

    Nothing is learned, so there is no state.

    Args:
        period: p, rows of a season; 1 repeats the last value.
        lookback: L, rows of a window.
        horizon: H.
        variates: N, the columns that are forecast; further columns of a window are ignored.

    Raises:
        ValueError: a size that is not positive, or a window shorter than a season.
    """

    def __init__(self, *, period: int, lookback: int, horizon: int, variates: int) -> None:
        for name, number in (("period", period), ("horizon", horizon), ("variates", variates)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if lookback < period:
            raise ValueError(f"lookback must be at least the period {period}, got {lookback}")
        self.variates = variates
        self._rows = [lookback - period + step % period for step in range(horizon)]

    def prepare(self, stream: Stream, origins: Sequence[int]) -> None:
        """There is nothing to learn from history."""

    def update(self, x: Tensor, y: Tensor) -> None:
        """Nor from the stream."""

    def predict(self, x: Tensor) -> Tensor:
        """Forecast (H, N) from (L, N + C)."""
        return x[self._rows, : self.variates]

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


class Persistence(SeasonalNaive):
    r"""Repeat the last value: :math:`\hat s_{t+h} = s_t`, the seasonal forecast with period 1."""

    def __init__(self, *, lookback: int, horizon: int, variates: int) -> None:
        super().__init__(period=1, lookback=lookback, horizon=horizon, variates=variates)


@dataclass(frozen=True, kw_only=True)
class PersistenceMethod(OnlineMethod):
    """The last value, repeated."""

    def requires(self, setting: Setting, seed: int) -> tuple[Run, ...]:
        """Nothing."""
        return ()

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """For the sizes of the problem."""
        return Persistence(lookback=problem.lookback, horizon=problem.horizon, variates=problem.variates)


@dataclass(frozen=True, kw_only=True)
class SeasonalNaiveMethod(OnlineMethod):
    """The last season, repeated."""

    period: int | None = None
    """Rows of a season; None takes that of the data: a day, or for daily data a row."""

    def requires(self, setting: Setting, seed: int) -> tuple[Run, ...]:
        """Nothing."""
        return ()

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """For the sizes of the problem."""
        return SeasonalNaive(
            period=problem.period if self.period is None else self.period,
            lookback=problem.lookback,
            horizon=problem.horizon,
            variates=problem.variates,
        )
