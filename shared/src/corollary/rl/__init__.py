"""Policy optimisation of language models: the GRPO family and its reference trainer."""

from corollary.rl.advantages import group_advantages
from corollary.rl.algorithm import (
    GRPO,
    Algorithm,
    ClipHigher,
    ClipHigherConfig,
    GRPOConfig,
    RolloutRequest,
    algorithm_class,
    algorithm_names,
    make_algorithm,
)
from corollary.rl.batch import Batch, Rollouts, concatenate
from corollary.rl.losses import (
    TRL_AGGREGATIONS,
    ClipEvents,
    aggregate,
    aggregation_mode,
    at_least_float32,
    binary_mask,
    clip_events,
    clipped_surrogate,
)
from corollary.rl.results import end_of, entropy_gain_at_equal_reward, held_out
from corollary.rl.rlvr import RLVR, evaluate, read_evaluation, read_metrics
from corollary.rl.scoring import score
from corollary.rl.trainer import METRICS, TrainConfig, Trainer, TrainingError

__all__ = [
    "GRPO",
    "METRICS",
    "RLVR",
    "TRL_AGGREGATIONS",
    "Algorithm",
    "Batch",
    "ClipEvents",
    "ClipHigher",
    "ClipHigherConfig",
    "GRPOConfig",
    "RolloutRequest",
    "Rollouts",
    "TrainConfig",
    "Trainer",
    "TrainingError",
    "aggregate",
    "aggregation_mode",
    "algorithm_class",
    "algorithm_names",
    "at_least_float32",
    "binary_mask",
    "clip_events",
    "clipped_surrogate",
    "concatenate",
    "end_of",
    "entropy_gain_at_equal_reward",
    "evaluate",
    "group_advantages",
    "held_out",
    "make_algorithm",
    "read_evaluation",
    "read_metrics",
    "score",
]
