"""Prequential evaluation of multi-step forecasters: predict, wait until the label is complete, then learn from it.

With horizon H the label of the window that ends at time t is s_{t+1} .. s_{t+H}: its last value is observed at t + H.
At time t the freshest pair that may be learned from is therefore the one of t - H. A `Stream` keeps that clock; it is
the only access to the series that an online run has, and it refuses what has not been observed yet.
"""

import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from corollary.evaluation.stream import Stream
from corollary.runs.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "OnlineForecaster",
    "OnlineResult",
    "Prequential",
    "prequential",
]


@runtime_checkable
class OnlineForecaster(Protocol):
    """Whatever can be evaluated online.

    Optional: ``observe() -> Mapping[str, float]``, read after every forecast into the traces of the result.
    """

    def update(self, x: "Tensor", y: "Tensor") -> None:
        """Learn from one complete pair: lookback window ``(L, N + C)`` and label ``(H, N)``."""

    def predict(self, x: "Tensor") -> "Tensor":
        """Forecast ``(H, N)`` from the lookback window ``(L, N + C)``."""


_ARRAYS = ("origins", "squared", "absolute", "update_ms", "forecast_ms")


@dataclass(kw_only=True)
class OnlineResult:
    """Errors of every forecast, one row an origin, each origin once and in order."""

    origins: NDArray[np.int64]
    squared: NDArray[np.float64]
    """Mean squared error of the H x N values of each forecast."""
    absolute: NDArray[np.float64]
    """Mean absolute error, likewise."""
    update_ms: NDArray[np.float64]
    """Wall time of each update, milliseconds; zero where there was no pair yet."""
    forecast_ms: NDArray[np.float64]
    """Wall time of each forecast, milliseconds."""
    traces: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """What the forecaster reported of itself, by name."""
    forecasts: NDArray[np.float32] | None = None
    """Forecasts of the traced variate, (origins, H), if asked for."""

    @property
    def mse(self) -> float:
        """Mean over all origins, horizon steps and variates."""
        return float(self.squared.mean()) if len(self.squared) else math.nan

    @property
    def mae(self) -> float:
        """Mean absolute error, likewise."""
        return float(self.absolute.mean()) if len(self.absolute) else math.nan

    def save(self, path: Path) -> None:
        """Write as ``.npz``, atomically."""
        content: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        content |= {f"trace:{name}": values for name, values in self.traces.items()}
        if self.forecasts is not None:
            content["forecasts"] = self.forecasts
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **content)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "OnlineResult":
        """Read back what `save` wrote."""
        with np.load(path, allow_pickle=False) as content:
            return cls(
                **{name: content[name] for name in _ARRAYS},
                traces={name.partition(":")[2]: content[name] for name in content if name.startswith("trace:")},
                forecasts=content.get("forecasts"),
            )


class Prequential:
    """An online run that can be stopped after any origin and gone on with; `prequential` runs one to its end.

    Args:
        forecaster: what is evaluated.
        stream: the series behind its clock; the run advances it.
        origins: consecutive origins, each of which is forecast and counted once.
        traced: a variate whose forecasts are kept.

    Raises:
        ValueError: the origins are not consecutive, or a forecast or label would lie outside the series.
    """

    def __init__(
        self, forecaster: OnlineForecaster, stream: Stream, origins: Sequence[int], *, traced: int | None = None
    ) -> None:
        first, count = (origins[0] if len(origins) else 0), len(origins)
        if count == 0 or list(origins) != list(range(first, first + count)):
            raise ValueError("origins must be consecutive and at least one")
        last = first + count - 1
        if first < stream.first_origin or last + stream.horizon >= stream.rows:
            raise ValueError(
                f"origins must lie in [{stream.first_origin}, {stream.rows - stream.horizon - 1}] for lookback "
                f"{stream.lookback}, horizon {stream.horizon} and {stream.rows} rows, got {first} to {last}"
            )
        if traced is not None and not 0 <= traced < stream.variates:
            raise ValueError(f"traced must be one of the {stream.variates} variates, got {traced}")
        self.forecaster, self.stream, self.traced = forecaster, stream, traced
        self.first, self.count, self.done = first, count, 0
        self._observe: Callable[[], Mapping[str, float]] | None = getattr(forecaster, "observe", None)
        self._errors = np.zeros((count, 4))  # squared, absolute, update ms, forecast ms
        self._forecasts = np.zeros((count, stream.horizon), np.float32) if traced is not None else None
        self._traces: dict[str, NDArray[np.float64]] = {}

    @property
    def finished(self) -> bool:
        """Whether every origin is behind us."""
        return self.done == self.count

    def step(self) -> None:
        """One origin: learn from the pair that has just become complete, then forecast and be judged.

        Raises:
            ValueError: the forecast is not (H, N).
        """
        stream, forecaster = self.stream, self.forecaster
        origin = self.first + self.done
        stream.advance(origin)
        pair = stream.pair(origin - stream.delay) if stream.released(origin - stream.delay) else None
        window = stream.window(origin)
        started = time.perf_counter()
        if pair is not None:
            forecaster.update(*pair)
        updated = time.perf_counter()
        forecast = forecaster.predict(window)
        ended = time.perf_counter()
        truth = stream._label(origin)
        if forecast.shape != truth.shape:
            raise ValueError(
                f"a forecast must be (horizon, variates) = {tuple(truth.shape)}, got {tuple(forecast.shape)} from "
                f"{type(forecaster).__name__}"
            )
        error = forecast.detach().numpy(force=True).astype(np.float64) - truth.numpy(force=True)
        flat = error.ravel()
        self._errors[self.done] = (
            flat.dot(flat) / flat.size,
            np.abs(flat).sum() / flat.size,
            (updated - started) * 1e3 if pair is not None else 0.0,
            (ended - updated) * 1e3,
        )
        if self._forecasts is not None:
            self._forecasts[self.done] = forecast.detach().numpy(force=True)[:, self.traced]
        if self._observe is not None:
            for name, value in self._observe().items():
                if name not in self._traces:
                    self._traces[name] = np.full(self.count, np.nan)
                self._traces[name][self.done] = value
        self.done += 1

    def result(self) -> OnlineResult:
        """What has been measured so far."""
        n = self.done
        squared, absolute, update_ms, forecast_ms = (column.copy() for column in self._errors[:n].T)
        return OnlineResult(
            origins=np.arange(self.first, self.first + n),
            squared=squared,
            absolute=absolute,
            update_ms=update_ms,
            forecast_ms=forecast_ms,
            traces={name: values[:n].copy() for name, values in self._traces.items()},
            forecasts=None if self._forecasts is None else self._forecasts[:n].copy(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything measured so far, as tensors; the forecaster's own state is not part of it."""
        import torch

        arrays: dict[str, NDArray[Any]] = {"errors": self._errors} | {
            f"trace:{name}": values for name, values in self._traces.items()
        }
        if self._forecasts is not None:
            arrays["forecasts"] = self._forecasts
        copies = {name: torch.from_numpy(values[: self.done].copy()) for name, values in arrays.items()}
        return {"first": self.first, "count": self.count, "done": self.done, "arrays": copies}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the state is of other origins.
        """
        if (state["first"], state["count"]) != (self.first, self.count):
            raise ValueError(
                f"the state is of {state['count']} origins from {state['first']}, got {self.count} from {self.first}"
            )
        self.done = int(state["done"])
        for name, values in state["arrays"].items():
            if name == "errors":
                target = self._errors
            elif name == "forecasts":
                if self._forecasts is None:
                    continue
                target = self._forecasts
            else:
                target = self._traces.setdefault(name.partition(":")[2], np.full(self.count, np.nan))
            target[: self.done] = values.numpy()
        if self.done:
            self.stream.advance(self.first + self.done - 1)


def prequential(
    forecaster: OnlineForecaster,
    stream: Stream,
    origins: Sequence[int],
    *,
    traced: int | None = None,
    on_step: Callable[[Prequential], None] | None = None,
) -> OnlineResult:
    r"""Evaluate a forecaster online, with labels released when they are complete.

    For every origin :math:`t` in order: update once on :math:`(X_{t-H}, Y_{t-H})`, forecast from :math:`X_t`, and
    count the error of all :math:`H \times N` values against :math:`Y_t` once:

    .. math:: \mathrm{MSE} = \frac1{|\mathcal T|} \sum_{t \in \mathcal T} \frac1{HN} \lVert \hat Y_t - Y_t \rVert^2

    Args:
        forecaster: any object with ``update(x, y)`` and ``predict(x)``.
        stream: the series behind its clock, with lookback L and horizon H. A `LeakyStream` gives the leaky protocol.
        origins: consecutive origins, for example ``range(first, last + 1)``.
        traced: a variate whose forecasts are kept in the result.
        on_step: called after every origin, for progress and checkpoints.

    Returns:
        Errors and times of every origin.

    Raises:
        LeakageError: the forecaster's update asked the stream for a label that is not complete.
        ValueError: origins outside the series, or a forecast of the wrong shape.

    Example:
        >>> import torch
        >>> class LastValue:
        ...     def update(self, x, y): ...
        ...     def predict(self, x):
        ...         return x[-1:].expand(2, -1)
        >>> stream = Stream(torch.arange(8.0)[:, None], lookback=2, horizon=2)
        >>> prequential(LastValue(), stream, range(1, 6)).mse  # a ramp: errors of one and two steps
        2.5
    """
    run = Prequential(forecaster, stream, origins, traced=traced)
    while not run.finished:
        run.step()
        if on_step is not None:
            on_step(run)
    return run.result()
