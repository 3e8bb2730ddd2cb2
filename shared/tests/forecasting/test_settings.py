import pytest

from corollary.forecasting import SYNTHETIC_SETTING, FitConfig, Setting, make_setting, published


def test_published_settings_of_the_tcn() -> None:
    assert make_setting("ETTh2", "tcn", 24) == Setting(
        data="ETTh2",
        backbone="tcn",
        lookback=60,
        horizon=24,
        fit=FitConfig(rate=1e-3, optimizer="adamw", batch_size=32, epochs=100, patience=3, decay=0.9),
    )


@pytest.mark.parametrize(
    ("data", "backbone", "lookback", "rate", "optimizer", "batch"),
    [
        ("ETTh2", "nlinear", 336, 0.05, "adam", 32),
        ("Traffic", "nlinear", 336, 0.005, "adam", 32),
        ("ETTm1", "tcn", 60, 1e-4, "adamw", 32),
        ("ETTh2", "patchtst", 336, 1e-4, "adam", 128),
        ("Weather", "patchtst", 512, 1e-4, "adam", 128),
        ("ECL", "patchtst", 512, 1e-4, "adam", 32),
        ("Traffic", "patchtst", 512, 1e-4, "adam", 24),
        ("ETTh2", "itransformer", 336, 1e-4, "adamw", 32),
        ("Weather", "itransformer", 512, 1e-5, "adamw", 32),
        ("ECL", "itransformer", 512, 5e-4, "adamw", 16),
        ("ETTm1", "fsnet", 60, 1e-3, "adamw", 32),
        ("Weather", "fsnet", 60, 3e-3, "adamw", 32),
    ],
)
def test_published_settings(data: str, backbone: str, lookback: int, rate: float, optimizer: str, batch: int) -> None:
    setting = make_setting(data, backbone, 48)
    assert (setting.lookback, setting.horizon) == (lookback, 48)
    assert (setting.fit.rate, setting.fit.optimizer, setting.fit.batch_size) == (rate, optimizer, batch)


def test_data_without_entry_takes_those_of_etth2() -> None:
    for backbone in ("nlinear", "tcn", "patchtst", "itransformer", "dlinear"):
        assert make_setting("ETTh1", backbone, 24).fit == make_setting("ETTh2", backbone, 24).fit
    assert published({"ETTh2": 1.0, "ECL": 2.0}, "ECL") == 2.0
    assert published({"ETTh2": 1.0, "ECL": 2.0}, "Exchange") == 1.0


def test_lookback_can_be_chosen() -> None:
    assert make_setting("ETTm1", "patchtst", 24, lookback=96).lookback == 96
    assert make_setting("switching-levels", "linear", 24, lookback=48).lookback == 48


def test_embedded_stream_has_its_own_setting() -> None:
    assert make_setting("switching-levels", "linear", 12) == SYNTHETIC_SETTING
    assert make_setting("constant-level", "linear", 12).fit == SYNTHETIC_SETTING.fit
    assert SYNTHETIC_SETTING.fit.rate_of(30) == SYNTHETIC_SETTING.fit.rate == 1e-3


def test_backbone_without_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="no published setting of the backbone 'arima'; there are: dlinear, fsnet, "):
        make_setting("ETTh2", "arima", 24)


def test_label_says_what_is_compared() -> None:
    assert make_setting("ETTh2", "tcn", 24).label == "ETTh2, tcn, H = 24"
