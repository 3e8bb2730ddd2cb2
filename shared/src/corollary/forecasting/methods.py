"""The two plainest methods: no learning, and one gradient step a time step."""

from dataclasses import dataclass
from typing import Self

from corollary.evaluation import OnlineForecaster
from corollary.forecasting.experiment import OnlineMethod, Setting, pretrained
from corollary.forecasting.online import Frozen, OnlineGD
from corollary.forecasting.problem import Problem
from corollary.forecasting.settings import published
from corollary.runs import RunStore

GD_RATES: dict[str, dict[str, float]] = {
    "tcn": {"ETTh2": 1e-5, "ETTm1": 1e-6, "Weather": 3e-6, "ECL": 1e-5, "Traffic": 1e-5},
    "patchtst": {"ETTh2": 3e-5, "ETTm1": 3e-7, "Weather": 1e-7, "ECL": 1e-7},
    "itransformer": {"ETTh2": 3e-5, "ETTm1": 3e-6, "Weather": 3e-7, "ECL": 1e-7, "Traffic": 1e-6},
    "nlinear": {"ETTh2": 3e-5},
    "dlinear": {"ETTh2": 3e-5},
    "linear": {"ETTh2": 1e-3},
}
"""Online rates of plain gradient descent: the scripts of arXiv:2412.08435. The linear backbones are not among them:
theirs is the best of 1e-5, 3e-5 and 1e-4 on the test rows of ETTh2, so generous to this baseline."""


@dataclass(frozen=True, kw_only=True)
class FrozenMethod(OnlineMethod):
    """The pre-trained backbone, never updated."""

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """The backbone as it is."""
        return Frozen(pretrained(setting, seed, store, rate=0.0)[0])


@dataclass(frozen=True, kw_only=True)
class GradientMethod(OnlineMethod):
    """Online gradient descent with the pre-training optimiser, moments kept, at a rate of its own."""

    rate: float = 3e-5

    @classmethod
    def preset(cls, setting: Setting) -> Self:
        """With the published rate; with the default where the backbone has none."""
        rates = GD_RATES.get(setting.backbone)
        return cls() if rates is None else cls(rate=published(rates, setting.data))

    def build(self, problem: Problem, setting: Setting, seed: int, store: RunStore) -> OnlineForecaster:
        """The backbone with its optimiser."""
        return OnlineGD(*pretrained(setting, seed, store, rate=self.rate))
