"""Online forecasting: problems, backbones, methods on one protocol, and experiments as runs of the store."""

from corollary.forecasting.backbones import BACKBONES, TCN, DLinear, Linear, NLinear, RevIN, make_backbone
from corollary.forecasting.backbones.itransformer import ITransformer
from corollary.forecasting.backbones.patchtst import PatchTST
from corollary.forecasting.experiment import (
    Online,
    OnlineMethod,
    Pretrain,
    Setting,
    make_method,
    method_class,
    method_names,
    prepare_online,
    pretrained,
    read_result,
)
from corollary.forecasting.fitting import FitConfig, FitHistory, fit, make_optimizer, narrowed, set_rate
from corollary.forecasting.frames import LongSeries, from_long, to_long
from corollary.forecasting.fsnet import FSNetForecaster
from corollary.forecasting.naive import Persistence, SeasonalNaive
from corollary.forecasting.onenet import OneNetForecaster
from corollary.forecasting.online import Frozen, OnlineGD, restore_streaming_state, streaming_state
from corollary.forecasting.problem import (
    Problem,
    Split,
    StandardScaler,
    Windows,
    chronological_split,
    make_problem,
    problem_of,
)
from corollary.forecasting.replay import ER, DERpp
from corollary.forecasting.ridge import OnlineRidge
from corollary.forecasting.river import RiverForecaster
from corollary.forecasting.selection import Selection
from corollary.forecasting.settings import SYNTHETIC_SETTING, make_setting, published
from corollary.forecasting.solid import SOLID, SOLIDpp
from corollary.forecasting.synthetic import SwitchingLevels, switching_levels

__all__ = [
    "BACKBONES",
    "ER",
    "SOLID",
    "SYNTHETIC_SETTING",
    "TCN",
    "DERpp",
    "DLinear",
    "FSNetForecaster",
    "FitConfig",
    "FitHistory",
    "Frozen",
    "ITransformer",
    "Linear",
    "LongSeries",
    "NLinear",
    "OneNetForecaster",
    "Online",
    "OnlineGD",
    "OnlineMethod",
    "OnlineRidge",
    "PatchTST",
    "Persistence",
    "Pretrain",
    "Problem",
    "RevIN",
    "RiverForecaster",
    "SOLIDpp",
    "SeasonalNaive",
    "Selection",
    "Setting",
    "Split",
    "StandardScaler",
    "SwitchingLevels",
    "Windows",
    "chronological_split",
    "fit",
    "from_long",
    "make_backbone",
    "make_method",
    "make_optimizer",
    "make_problem",
    "make_setting",
    "method_class",
    "method_names",
    "narrowed",
    "prepare_online",
    "pretrained",
    "problem_of",
    "published",
    "read_result",
    "restore_streaming_state",
    "set_rate",
    "streaming_state",
    "switching_levels",
    "to_long",
]
