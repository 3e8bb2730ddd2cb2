"""Online forecasters behind the interface of river: one observation at a time, without a stream or a clock."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from corollary.evaluation import OnlineForecaster


class RiverForecaster:
    """Feeds single observations to an online forecaster, whose labels it completes by itself.

    It keeps the last L + H observations. With the one of time t, the label of origin t - H is complete, and the
    forecaster is updated with that pair at once; a forecast is made from the window that ends at t. A run of
    ``learn_one`` and ``forecast`` by turns is therefore the same as `corollary.evaluation.prequential.prequential`.

    The methods are those of ``river.time_series.base.Forecaster``, and ``predict_one`` is that of a regressor; loops
    written for regressors, which put ``x`` first, must pass x and y by keyword. river itself is not needed. Its
    ``evaluate.evaluate`` asks for forecasts after H observations already, so let the model learn L observations before.

    Methods that learn from their own forecasts see what `prequential` shows them only if one is asked for at every
    step.

    Args:
        forecaster: any object with ``update(x, y)`` and ``predict(x)``.
        lookback: L.
        horizon: H, the longest forecast.
        variates: names of the N variates in the order of the forecaster's columns, if an observation is a mapping;
            None if it is a number.
        covariates: names of the features of ``x`` that follow the variates as further columns; others are ignored.
        dtype: of the windows.

    Raises:
        ValueError: a size that is not positive, or names that are not unique.

    Example:
        >>> class LastValue:
        ...     def update(self, x, y): ...
        ...     def predict(self, x):
        ...         return x[-1:].expand(2, -1)
        >>> model = RiverForecaster(LastValue(), lookback=3, horizon=2, variates=["load", "oil"])
        >>> for hour in range(3):
        ...     model.learn_one({"oil": 7.0, "load": float(hour)})
        >>> model.forecast(2)
        [{'load': 2.0, 'oil': 7.0}, {'load': 2.0, 'oil': 7.0}]
    """

    def __init__(
        self,
        forecaster: OnlineForecaster,
        lookback: int,
        horizon: int,
        variates: Sequence[str] | None = None,
        *,
        covariates: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        for name, number in (("lookback", lookback), ("horizon", horizon)):
            if number < 1:
                raise ValueError(f"{name} must be positive, got {number}")
        if isinstance(variates, str) or (variates is not None and not variates):
            raise ValueError(f"variates must be a sequence of names or None, got {variates!r}")
        for names in (variates or (), covariates):
            if len(set(names)) != len(names):
                raise ValueError(f"names must be unique, got {list(names)}")
        self.forecaster, self.lookback, self.horizon = forecaster, lookback, horizon
        self.variates = None if variates is None else tuple(variates)
        self.covariates = tuple(covariates)
        self.observations = 0
        self._count = 1 if variates is None else len(variates)
        # Twice as long as what is kept: the newest rows move to the front once in L + H observations.
        self._rows = torch.empty(2 * (lookback + horizon), self._count + len(covariates), dtype=dtype)
        self._end = 0
        self._forecast: list[Any] | None = None

    def learn_one(self, y: float | Mapping[str, float], x: Mapping[str, Any] | None = None) -> None:
        """Observe one time step, and learn from the pair that it completes.

        Args:
            y: the observation: a number, or a mapping with exactly the variates as keys, in any order.
            x: features of the same time step; must hold the covariates.

        Raises:
            ValueError: variates or covariates are missing, unknown or not finite. Nothing is learned then.
        """
        row = torch.tensor(self._row(y, x), dtype=self._rows.dtype)
        if not bool(row.isfinite().all()):
            raise ValueError(f"observations must be finite, got {y!r} with features {x!r}")
        kept = self.lookback + self.horizon
        if self._end == len(self._rows):
            self._rows[: kept - 1] = self._rows[self._end - kept + 1 :].clone()
            self._end = kept - 1
        self._rows[self._end] = row
        self._end += 1
        self.observations += 1
        self._forecast = None
        if self.observations >= kept:
            origin = self._end - self.horizon
            label = self._rows[origin : self._end, : self._count].clone()
            self.forecaster.update(self._rows[origin - self.lookback : origin].clone(), label)

    def forecast(self, horizon: int, xs: Sequence[Mapping[str, Any]] | None = None) -> list[Any]:
        """Forecast the next time steps.

        The forecaster is asked once an observation, however often this is called.

        Args:
            horizon: how many, at most H.
            xs: features of these time steps: accepted as river passes them, and not used.

        Returns:
            One number, or mapping of variates to numbers, for each step.

        Raises:
            ValueError: a horizon outside [1, H], or fewer than L observations so far.
        """
        if not 1 <= horizon <= self.horizon:
            raise ValueError(f"horizon must be in [1, {self.horizon}], got {horizon}")
        if self.observations < self.lookback:
            raise ValueError(f"a forecast needs lookback = {self.lookback} observations, got {self.observations}")
        if self._forecast is None:
            window = self._rows[self._end - self.lookback : self._end].clone()
            self._forecast = self._named(self.forecaster.predict(window))
        return self._forecast[:horizon] if self.variates is None else [dict(step) for step in self._forecast[:horizon]]

    def predict_one(self, x: Mapping[str, Any] | None = None) -> Any:
        """Forecast the next time step only; its features are not used.

        Raises:
            ValueError: fewer than L observations so far.
        """
        return self.forecast(1)[0]

    def _row(self, y: float | Mapping[str, float], x: Mapping[str, Any] | None) -> list[float]:
        if self.variates is None:
            if isinstance(y, Mapping):
                raise ValueError(f"y must be a number unless variates are named, got {y!r}")
            row = [float(y)]
        else:
            if not isinstance(y, Mapping) or set(y) != set(self.variates):
                raise ValueError(f"y must be a mapping of the variates {', '.join(self.variates)}, got {y!r}")
            row = [float(y[name]) for name in self.variates]
        absent = [name for name in self.covariates if x is None or name not in x]
        if absent:
            raise ValueError(f"x must hold the covariates {', '.join(self.covariates)}, got none called {absent[0]!r}")
        return row + [float(x[name]) for name in self.covariates] if x is not None else row

    def _named(self, forecast: Tensor) -> list[Any]:
        if forecast.shape != (self.horizon, self._count):
            raise ValueError(
                f"a forecast must be (horizon, variates) = {(self.horizon, self._count)}, got {tuple(forecast.shape)} "
                f"from {type(self.forecaster).__name__}"
            )
        if self.variates is None:
            return forecast.detach()[:, 0].tolist()
        return [dict(zip(self.variates, step, strict=True)) for step in forecast.detach().tolist()]
