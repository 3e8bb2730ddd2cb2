"""The settings of the online-forecasting papers: pre-training rates and lookbacks per backbone and data set.

Values from the scripts of the official code of Proceed (arXiv:2412.08435, OnlineTSF at commit 466b682). ETTh1 has no
entry there and takes those of ETTh2, its sister series; so does every data set that is not named.
"""

from corollary.forecasting.experiment import Setting
from corollary.forecasting.fitting import FitConfig
from corollary.forecasting.synthetic import SWITCHING

LOOKBACK = {"nlinear": 336, "dlinear": 336, "tcn": 60, "fsnet": 60, "patchtst": 336, "itransformer": 336, "linear": 24}
RATES: dict[str, dict[str, float]] = {
    "nlinear": {"ETTh2": 0.05, "ETTm1": 0.05, "Weather": 0.01, "ECL": 0.01, "Traffic": 0.005},
    "tcn": {"ETTh2": 1e-3, "ETTm1": 1e-4, "Weather": 1e-3, "ECL": 3e-3, "Traffic": 3e-3},
    "fsnet": {"ETTh2": 3e-3, "ETTm1": 1e-3},
    "patchtst": {"ETTh2": 1e-4},
    "itransformer": {"ETTh2": 1e-4, "ETTm1": 1e-4, "Weather": 1e-5, "ECL": 5e-4, "Traffic": 1e-3},
    "dlinear": {"ETTh2": 0.05},
}
ADAMW = {"tcn", "fsnet", "itransformer"}
"""The others train with Adam."""
BATCHES = {
    "patchtst": {"Traffic": 24} | dict.fromkeys(("ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather"), 128),
    "itransformer": {"ECL": 16, "Traffic": 16},
}
"""Batch sizes of pre-training other than 32."""

SYNTHETIC_SETTING = Setting(
    data="switching-levels",
    backbone="linear",
    lookback=24,
    horizon=12,
    fit=FitConfig(rate=1e-3, epochs=30, patience=None, decay=1.0),
)
"""The embedded stream: one linear map, 30 epochs of Adam at 1e-3."""


def published(values: dict[str, float], data: str, default: str = "ETTh2") -> float:
    """The value of a data set, or that of the default one."""
    return values.get(data, values[default])


def make_setting(data: str, backbone: str, horizon: int, *, lookback: int | None = None) -> Setting:
    """The setting of a data set, a backbone and a horizon, with the published pre-training.

    Raises:
        ValueError: the backbone has no published setting.
    """
    if data in SWITCHING:
        return Setting(
            data=data,
            backbone=backbone,
            lookback=LOOKBACK["linear"] if lookback is None else lookback,
            horizon=horizon,
            fit=SYNTHETIC_SETTING.fit,
        )
    if backbone not in RATES:
        raise ValueError(f"no published setting of the backbone {backbone!r}; there are: {', '.join(sorted(RATES))}")
    if lookback is None:
        lookback = LOOKBACK[backbone]
        if backbone in {"patchtst", "itransformer"} and not data.startswith("ETTh"):
            lookback = 512
    return Setting(
        data=data,
        backbone=backbone,
        lookback=lookback,
        horizon=horizon,
        fit=FitConfig(
            rate=published(RATES[backbone], data),
            optimizer="adamw" if backbone in ADAMW else "adam",
            batch_size=BATCHES.get(backbone, {}).get(data, 32),
        ),
    )
