"""FSNet as an online method: its own backbone, pre-trained, with memories that open in the online phase."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import nn

from corollary.evaluation import OnlineForecaster
from corollary.forecasting.backbones import backbone
from corollary.forecasting.backbones.fsnet import LastRows, set_online
from corollary.forecasting.experiment import OnlineMethod, Pretrain, Setting, pretrained
from corollary.forecasting.online import OnlineGD
from corollary.forecasting.problem import Problem
from corollary.forecasting.settings import LOOKBACK, RATES, published
from corollary.forecasting.synthetic import SWITCHING
from corollary.runs import Run, RunStore

FSNET_RATES = {"ETTh2": 3e-5, "ETTm1": 1e-5, "Weather": 3e-6, "ECL": 3e-5, "Traffic": 1e-5}
"""Online rates: the scripts of arXiv:2412.08435."""


def fsnet_setting(setting: Setting, *, rates: dict[str, float] | None = None) -> Setting:
    """The pre-training of FSNet that goes with a comparison on any backbone.

    FSNet reads 60 rows, or the whole window if that is shorter, and the calendar if the comparison has it. It
    pre-trains with AdamW and batches of 32; on the embedded streams, as everything there, with the setting's own fit.

    Args:
        setting: what is compared on.
        rates: pre-training rates by data set; the published ones of FSNet if not given.
    """
    fit = setting.fit
    if setting.data not in SWITCHING:
        rate = published(RATES["fsnet"] if rates is None else rates, setting.data)
        fit = replace(fit, rate=rate, optimizer="adamw", batch_size=32)
    return replace(
        setting,
        backbone="fsnet" if backbone(setting.backbone).calendar else "fsnet-plain",
        lookback=min(LOOKBACK["fsnet"], setting.lookback),
        fit=fit,
    )


class FSNetForecaster(OnlineGD):
    """`OnlineGD` on a network with `CalibratedConvs`, in their online phase: memories open.

    The walk through the validation rows is part of the online phase. In the official code the memories stay shut
    until the test rows begin.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, lookback: int) -> None:
        super().__init__(LastRows(model, lookback), optimizer)
        set_online(model, True)


@dataclass(frozen=True, kw_only=True)
class FSNetMethod(OnlineMethod):
    """Fast and slow learning network (Pham et al., ICLR 2023, arXiv:2202.11672), whatever the comparison's backbone."""

    rate: float = 3e-5

    @classmethod
    def preset(cls, setting: Setting) -> Self:
        """With the published rate."""
        return cls(rate=published(FSNET_RATES, setting.data))

    def requires(self, setting: Setting, seed: int) -> tuple[Run, ...]:
        """The pre-trained FSNet."""
        return (Run(Pretrain(setting=fsnet_setting(setting)), seed),)

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """FSNet on the last rows of the windows."""
        own = fsnet_setting(setting)
        return FSNetForecaster(*pretrained(own, seed, store, rate=self.rate), lookback=own.lookback)
