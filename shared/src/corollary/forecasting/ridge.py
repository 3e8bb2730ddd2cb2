"""Online ridge regression: the exact linear forecaster of everything seen so far, by recursive least squares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corollary.evaluation import OnlineForecaster, Stream
from corollary.forecasting.experiment import OnlineMethod, Setting
from corollary.forecasting.problem import Problem
from corollary.runs import Run, RunStore

SYMMETRISE_EVERY = 64
"""Updates after which the matrix P of `OnlineRidge` is made symmetric again."""
CHUNK = 256
"""Windows that `OnlineRidge.fit` holds in double precision at a time."""


class OnlineRidge:
    r"""One linear map per horizon step, shared by all variates, kept at the ridge solution of all pairs seen.

    A pair gives N rows, one per variate: features :math:`\phi = (s_{t-L+1} - s_t, \dots, s_{t-1} - s_t, 1)` and
    targets :math:`\tau = (s_{t+1} - s_t, \dots, s_{t+H} - s_t)`. Writing :math:`\Phi_i` (N x L) and :math:`T_i`
    (N x H) for the rows of the i-th of n pairs, at any time

    .. math:: W_n = P_n \sum_{i=1}^n f^{n-i} \Phi_i^\top T_i, \qquad
        P_n = \Big( \lambda f^n I + \sum_{i=1}^n f^{n-i} \Phi_i^\top \Phi_i \Big)^{-1}

    A new pair changes the matrix to be inverted by rank N, so with the Cholesky factor :math:`C C^\top = f I + \Phi
    P \Phi^\top` (N x N) and :math:`Z = P \Phi^\top C^{-\top}` (L x N) the update is exact (Woodbury):

    .. math:: W \leftarrow W + Z C^{-1} (T - \Phi W), \qquad P \leftarrow (P - Z Z^\top) / f

    Symbols: :math:`\lambda` ``penalty``, :math:`f` ``forgetting``, L ``lookback``, H ``horizon``, N ``variates``.
    Everything inside is float64. One update costs about 3 N L^2 multiplications.

    Args:
        lookback: L, rows of a window.
        horizon: H.
        variates: N, the columns that are forecast; further columns of a window are ignored.
        penalty: the ridge penalty, added once to the sum over all rows, not to a mean. It acts on the intercept too,
            which matters little: the targets are changes of the series.
        forgetting: weight of a pair relative to the next one. The penalty fades with the pairs, as in recursive
            least squares everywhere; so with a factor far below 1 the windows themselves must excite all directions.

    Raises:
        ValueError: a size that is not positive, a penalty that is not positive, or a forgetting factor outside (0, 1].
    """

    def __init__(self, *, lookback: int, horizon: int, variates: int, penalty: float, forgetting: float = 1.0) -> None:
        for name, number in (("lookback", lookback), ("horizon", horizon), ("variates", variates)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if not penalty > 0:
            raise ValueError(f"penalty must be positive, got {penalty}")
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting must be in (0, 1], got {forgetting}")
        self.variates, self.forgetting = variates, forgetting
        self.covariance = torch.eye(lookback, dtype=torch.float64) / penalty
        """P, (L, L)."""
        self.weight = torch.zeros(lookback, horizon, dtype=torch.float64)
        """W, (L, H); its last row is the intercept."""
        self.updates = 0

    def fit(self, x: Tensor, y: Tensor) -> None:
        """Learn from many pairs at once, oldest first: the same as `update` on each in turn, but in one solution.

        Args:
            x: windows (n, L, N + C).
            y: labels (n, H, N).
        """
        count = len(x)
        precision = torch.linalg.inv(self.covariance)
        moment = precision @ self.weight
        precision *= self.forgetting**count
        moment *= self.forgetting**count
        ages = torch.arange(count - 1, -1, -1, dtype=torch.float64)
        scales = (self.forgetting**ages).sqrt()[:, None, None]
        for part in torch.arange(count).split(CHUNK):
            features, targets = self._rows(x[part], y[part])
            features, targets = (features * scales[part]).flatten(0, 1), (targets * scales[part]).flatten(0, 1)
            precision += features.mT @ features
            moment += features.mT @ targets
        factor = torch.linalg.cholesky(precision)
        # One layout in memory, whatever came before: sums are rounded in its order.
        self.covariance = torch.cholesky_inverse(factor).contiguous()
        self.weight = torch.cholesky_solve(moment, factor).contiguous()

    def prepare(self, stream: Stream, origins: Sequence[int]) -> None:
        """Walk through history: at each of ``origins``, learn from the pair just complete."""
        for origin in origins:
            if stream.released(origin - stream.delay):
                self.update(*stream.pair(origin - stream.delay))

    def update(self, x: Tensor, y: Tensor) -> None:
        """Learn exactly from one pair: window (L, N + C) and label (H, N)."""
        features, targets = self._rows(x, y)
        gain = features @ self.covariance
        inner = gain @ features.mT
        inner.diagonal().add_(self.forgetting)
        factor = torch.linalg.cholesky(inner)
        basis = torch.linalg.solve_triangular(factor, gain, upper=False)  # Z transposed
        errors = torch.linalg.solve_triangular(factor, targets - features @ self.weight, upper=False)
        self.weight.addmm_(basis.mT, errors)
        self.covariance.addmm_(basis.mT, basis, beta=1 / self.forgetting, alpha=-1 / self.forgetting)
        self.updates += 1
        if self.updates % SYMMETRISE_EVERY == 0:
            # Data never correct an antisymmetric part: left alone, rounding errors would grow by 1 / f every step.
            self.covariance = (self.covariance + self.covariance.mT) / 2

    def predict(self, x: Tensor) -> Tensor:
        """Forecast (H, N) from (L, N + C), in the dtype of the window."""
        last = x[-1:, : self.variates]
        return (self._features(x) @ self.weight).mT.to(x.dtype) + last

    def state_dict(self) -> dict[str, Any]:
        """The solution, the matrix that carries it on, and the number of updates."""
        return {"covariance": self.covariance, "weight": self.weight, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore all three."""
        self.covariance.copy_(state["covariance"])
        self.weight.copy_(state["weight"])
        self.updates = int(state["updates"])

    def _rows(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Features (..., N, L) and targets (..., N, H) of pairs."""
        last = x[..., -1:, : self.variates]
        return self._features(x), (y.double() - last).mT

    def _features(self, x: Tensor) -> Tensor:
        values = x[..., : self.variates].double().mT
        features = values - values[..., -1:]
        features[..., -1] = 1.0  # the place of the last value, whose deviation is always zero, holds the intercept
        return features


@dataclass(frozen=True, kw_only=True)
class RidgeMethod(OnlineMethod):
    """Online ridge regression on the window minus its last value, starting from the fit of all training windows."""

    penalty: float = 1000.0
    """Best of 1, 10, 100, 1e3 and 1e4 on the validation rows of ETTh2 (H = 24, L = 336; none of the test rows); with
    the 17,640 rows of its training pairs, the mean error changes by less than 1 % from 1 to 1e4."""
    forgetting: float = 0.9998
    """A memory of 5000 pairs; the best of 1, 0.9999, 0.9998, 0.9995, 0.999, 0.998 and 0.995 on the same rows, where 1
    is 0.2 % worse and 0.999 is 2 % worse."""

    def requires(self, setting: Setting, seed: int) -> tuple[Run, ...]:
        """Nothing: the start is a closed form."""
        return ()

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """The solution of the training windows."""
        forecaster = OnlineRidge(
            lookback=problem.lookback,
            horizon=problem.horizon,
            variates=problem.variates,
            penalty=self.penalty,
            forgetting=self.forgetting,
        )
        # The pair of the last training origin is the first that `prepare` meets; it must not count twice.
        forecaster.fit(*problem.windows(problem.training_origins[:-1]))
        return forecaster
