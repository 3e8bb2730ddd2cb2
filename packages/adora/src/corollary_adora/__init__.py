"""ADORA: Training Reasoning Models with Dynamic Advantage Estimation (arXiv:2602.10019)."""

from corollary_adora.algorithms import Adora, AdoraAlgorithmConfig, RandomAdora
from corollary_adora.parity import Parity
from corollary_adora.rule import (
    AdoraConfig,
    adora_labels,
    adora_weights,
    difficulty_advantage,
    length_advantage,
)
from corollary_adora.weighting import (
    AdvantageEstimator,
    AdvantageWeighting,
    normalised,
    permuted_over_groups,
    weighted_advantages,
)

__version__ = "0.1.0"

__all__ = [
    "Adora",
    "AdoraAlgorithmConfig",
    "AdoraConfig",
    "AdvantageEstimator",
    "AdvantageWeighting",
    "Parity",
    "RandomAdora",
    "adora_labels",
    "adora_weights",
    "difficulty_advantage",
    "length_advantage",
    "normalised",
    "permuted_over_groups",
    "weighted_advantages",
]
