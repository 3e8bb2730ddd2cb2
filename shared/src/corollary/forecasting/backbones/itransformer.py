"""iTransformer: attention between variates, each of which is one token."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.forecasting.problem import CALENDAR, Problem

FEATURES = {"hour": (0, 23), "day_of_week": (0, 6), "day": (1, 31), "day_of_year": (1, 366)}
"""Calendar columns that the published code reads, at any frequency, and the range that it maps to [-0.5, 0.5]."""


class Attention(nn.Module):
    """Scaled dot-product attention with a linear map each for queries, keys, values and output."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, tokens, width) to the same shape."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention between variates, then a network on each; normalised after each residual sum."""

    def __init__(self, width: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, tokens, width) to the same shape."""
        tokens = self.norm1(tokens + self.dropout(self.attention(tokens)))
        hidden = self.dropout(functional.gelu(self.expand(tokens)))
        return self.norm2(tokens + self.dropout(self.contract(hidden)))


class ITransformer(nn.Module):
    r"""Every variate's whole window is one token; attention is between variates (Liu et al., arXiv:2310.06625).

    With :math:`\bar x_n, \sigma_n` mean and deviation of variate n over the window,

    .. math:: h_n = W_e (x_n - \bar x_n) / \sigma_n + b_e, \qquad
              \hat y_n = \sigma_n\,(W_o\,\mathrm{Encoder}(h_1, \dots, h_{N + C})_n + b_o) + \bar x_n

    Nothing tells the variates apart but their windows: permuting them permutes the forecast. Every covariate is one
    more token; its window is embedded as it is, and its forecast is not read.

    Differences to the published code, none of which changes the function: convolutions of kernel 1 are linear maps,
    and attention is torch's fused form.

    Args:
        lookback: L.
        horizon: H.
        variates: N; further columns of the input are covariates.
        width: of a token, d_model.
        hidden: of the network on each token, d_ff.
        layers: of the encoder.
        heads: of the attention; must divide ``width``.
        dropout: of tokens, attention weights and both residual branches.
        covariates: (column, lowest, highest) of each covariate that is read, counted from column N, with the range
            that is mapped to [-0.5, 0.5]. None reads all as they are.

    Raises:
        ValueError: heads that do not divide the width, or a size that is not positive.
    """

    low: Tensor
    span: Tensor

    def __init__(
        self,
        lookback: int,
        horizon: int,
        variates: int,
        *,
        width: int = 128,
        hidden: int = 128,
        layers: int = 2,
        heads: int = 8,
        dropout: float = 0.1,
        covariates: tuple[tuple[int, float, float], ...] | None = None,
    ) -> None:
        super().__init__()
        sizes = {
            "lookback": lookback,
            "horizon": horizon,
            "variates": variates,
            "width": width,
            "hidden": hidden,
            "layers": layers,
            "heads": heads,
        }
        for name, number in sizes.items():
            if number < 1:
                raise ValueError(f"{name} must be positive, got {number}")
        if width % heads:
            raise ValueError(f"heads must divide the width {width}, got {heads}")
        self.variates = variates
        self.columns = None if covariates is None else [variates + column for column, _, _ in covariates]
        ranges = torch.tensor([(float(low), float(high - low)) for _, low, high in covariates or ()]).reshape(-1, 2)
        self.register_buffer("low", ranges[:, 0], persistent=False)
        self.register_buffer("span", ranges[:, 1], persistent=False)
        self.embedding = nn.Linear(lookback, width)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.Sequential(*(Layer(width, hidden, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N + C)."""
        series = x[..., : self.variates]
        mean = series.mean(1, keepdim=True).detach()
        deviation = (series.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt().detach()
        series = (series - mean) / deviation
        if x.shape[-1] > self.variates:
            series = torch.cat([series, self._covariates(x)], -1)
        tokens = self.encoder(self.dropout(self.embedding(series.mT)))
        return self.projection(self.norm(tokens[:, : self.variates])).mT * deviation + mean

    def _covariates(self, x: Tensor) -> Tensor:
        if self.columns is None:
            return x[..., self.variates :]
        return (x[..., self.columns] - self.low) / self.span - 0.5


def itransformer(problem: Problem) -> nn.Module:
    """ITransformer in the published size for the data of a problem; it reads the calendar if that is there.

    Two layers of width 256 for ETTh1 and 128 for the rest of ETT, else three (Traffic: four) of width 512.
    """
    calendar = problem.values.shape[1] > problem.variates
    width = 256 if problem.name == "ETTh1" else 128 if problem.name.startswith("ETT") else 512
    return ITransformer(
        problem.lookback,
        problem.horizon,
        problem.variates,
        width=width,
        hidden=width,
        layers=2 if problem.name.startswith("ETT") else 4 if problem.name == "Traffic" else 3,
        covariates=tuple((CALENDAR.index(name), *limits) for name, limits in FEATURES.items()) if calendar else None,
    )
