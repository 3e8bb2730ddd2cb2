"""Linear forecasters along time, shared by all variates."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Module):
    """One linear map from the lookback window to the horizon, applied to every variate.

    Args:
        lookback: L.
        horizon: H.
        variates: N, the columns that are forecast; further columns of the input are ignored.
    """

    def __init__(self, lookback: int, horizon: int, variates: int) -> None:
        super().__init__()
        self.variates = variates
        self.linear = nn.Linear(lookback, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N + C)."""
        return self.linear(x[..., : self.variates].mT).mT


class NLinear(Linear):
    """`Linear` on the window minus its last value, which is added back (Zeng et al., arXiv:2205.13504)."""

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N + C)."""
        x = x[..., : self.variates]
        last = x[:, -1:]
        return self.linear((x - last).mT).mT + last


class DLinear(nn.Module):
    """Two linear maps, of the moving average of the window and of the rest (Zeng et al., arXiv:2205.13504).

    The average is over `kernel` steps, with the ends of the window repeated.
    """

    def __init__(self, lookback: int, horizon: int, variates: int, *, kernel: int = 25) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and positive, got {kernel}")
        self.variates, self.kernel = variates, kernel
        self.trend = nn.Linear(lookback, horizon)
        self.seasonal = nn.Linear(lookback, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N + C)."""
        x = x[..., : self.variates].mT
        ends = functional.pad(x, (self.kernel // 2, self.kernel // 2), mode="replicate")
        average = functional.avg_pool1d(ends, self.kernel, stride=1)
        return (self.trend(average) + self.seasonal(x - average)).mT


class RevIN(nn.Module):
    """Reversible instance normalisation around a forecaster (Kim et al., ICLR 2022), with affine parameters.

    Every variate of every window is shifted and scaled to mean 0 and deviation 1 (population, `epsilon` in the
    root), then the forecast is scaled back. Covariates pass through.
    """

    def __init__(self, forecaster: nn.Module, variates: int, *, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.forecaster, self.variates, self.epsilon = forecaster, variates, epsilon
        self.weight = nn.Parameter(torch.ones(variates))
        self.bias = nn.Parameter(torch.zeros(variates))

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N + C).

        Raises:
            ValueError: fewer columns than variates.
        """
        if x.shape[-1] < self.variates:
            raise ValueError(f"x must have {self.variates} columns or more, got {tuple(x.shape)}")
        series = x[..., : self.variates]
        mean = series.mean(1, keepdim=True).detach()
        deviation = (series.var(1, keepdim=True, unbiased=False) + self.epsilon).sqrt().detach()
        normalised = (series - mean) / deviation * self.weight + self.bias
        if x.shape[-1] > self.variates:
            normalised = torch.cat([normalised, x[..., self.variates :]], -1)
        # epsilon squared, as in the published code, keeps a weight of zero from dividing by zero
        return (self.forecaster(normalised) - self.bias) / (self.weight + self.epsilon**2) * deviation + mean
