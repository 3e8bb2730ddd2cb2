"""PatchTST as `transformers` implements it, with the sizes of the online-forecasting papers."""

from dataclasses import dataclass

from torch import Tensor, nn

from corollary.forecasting.problem import Problem


@dataclass(frozen=True, kw_only=True)
class PatchTSTSize:
    """Width of the network."""

    width: int
    """Channels of a patch, d_model."""
    hidden: int
    """Channels between the two maps of the feed-forward part."""
    heads: int
    dropout: float
    """Of attention output, feed-forward output and position embedding, as in the published code."""


HOURLY = PatchTSTSize(width=16, hidden=128, heads=4, dropout=0.3)
"""ETTh1 and ETTh2: small data, small network."""
LARGE = PatchTSTSize(width=128, hidden=256, heads=16, dropout=0.2)
"""ETTm1, ETTm2, Weather, ECL and Traffic."""
OTHER = PatchTSTSize(width=64, hidden=128, heads=16, dropout=0.2)
"""Data that the scripts do not name, such as Exchange."""
SIZES = {"ETTh1": HOURLY, "ETTh2": HOURLY} | dict.fromkeys(("ETTm1", "ETTm2", "Weather", "ECL", "Traffic"), LARGE)


class PatchTST(nn.Module):
    """Attention over patches of each variate by itself (Nie et al., arXiv:2211.14730).

    An adapter around `transformers.PatchTSTForPrediction`, which

    - standardises every variate of every window by its own mean and population deviation (1e-5 added to the variance)
      and scales the forecast back, without affine parameters;
    - cuts the window into (L - patch) // stride + 1 patches; if they do not fill the window, its first rows are left
      out, so the newest are always read. The published code repeats the last value to gain one more patch;
    - treats variates as further samples of the batch: one network, no exchange between variates;
    - normalises by batch norm over samples, variates and patches. In training mode the running statistics move with
      every update, online too, and evaluation mode forecasts with them: they are buffers of the state;
    - ends with one linear map of all patches of a variate to its forecast (``pooling_type=None``).

    As in the paper, and unlike the defaults of `transformers`: norm after the residual sum, and positions that are
    learned from uniform values within 0.02. Unlike the published code: attention scores are not handed on from layer
    to layer, and linear maps start from normal values of deviation 0.02.

    Args:
        lookback: L.
        horizon: H.
        variates: N; further columns of the input are ignored.
        size: width, heads and dropout.
        layers: of the encoder.
        patch: rows of a patch.
        stride: rows from patch to patch.

    Raises:
        ImportError: `transformers` is not installed.
        ValueError: the window is not longer than one patch, or a size is not positive.
    """

    def __init__(
        self,
        lookback: int,
        horizon: int,
        variates: int,
        *,
        size: PatchTSTSize = HOURLY,
        layers: int = 3,
        patch: int = 16,
        stride: int = 8,
    ) -> None:
        super().__init__()
        sizes = {"horizon": horizon, "variates": variates, "layers": layers, "patch": patch, "stride": stride}
        for name, number in sizes.items():
            if number < 1:
                raise ValueError(f"{name} must be positive, got {number}")
        if lookback <= patch:
            raise ValueError(f"PatchTST needs a lookback longer than one patch of {patch} rows, got {lookback}")
        try:
            from transformers import PatchTSTConfig, PatchTSTForPrediction
        except ImportError as error:
            raise ImportError("PatchTST needs transformers: install corollary[forecasting]") from error
        self.variates = variates
        config = PatchTSTConfig(
            num_input_channels=variates,
            context_length=lookback,
            prediction_length=horizon,
            patch_length=patch,
            patch_stride=stride,
            num_hidden_layers=layers,
            d_model=size.width,
            ffn_dim=size.hidden,
            num_attention_heads=size.heads,
            attention_dropout=0.0,
            path_dropout=size.dropout,
            ff_dropout=size.dropout,
            positional_dropout=size.dropout,
            head_dropout=0.0,
            pre_norm=False,
            norm_type="batchnorm",
            positional_encoding_type="random",
            pooling_type=None,
            share_embedding=True,
            share_projection=True,
            scaling="std",
            loss="mse",
            do_mask_input=False,
        )
        self.forecaster = PatchTSTForPrediction(config)
        nn.init.uniform_(self.forecaster.model.encoder.positional_encoder.position_enc, -0.02, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N + C).

        Raises:
            ValueError: fewer columns than variates.
        """
        if x.shape[-1] < self.variates:
            raise ValueError(f"x must have {self.variates} columns or more, got {tuple(x.shape)}")
        return self.forecaster(x[..., : self.variates]).prediction_outputs


def patchtst(problem: Problem) -> nn.Module:
    """PatchTST in the published size for the data of a problem."""
    size = SIZES.get(problem.name, OTHER)
    return PatchTST(problem.lookback, problem.horizon, problem.variates, size=size)
