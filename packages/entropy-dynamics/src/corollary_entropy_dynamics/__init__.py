"""On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models (arXiv:2602.03392)."""

from corollary_entropy_dynamics.algorithms import (
    ClipB,
    ClipBConfig,
    ClipV,
    ClipVConfig,
    ObservedGRPO,
    SignMask,
    SignMaskConfig,
)
from corollary_entropy_dynamics.discriminator import (
    deviation,
    entropy_discriminator,
    predicted_entropy_change,
    vocabulary_mean,
)
from corollary_entropy_dynamics.masks import ClipMask, clip_b_mask, clip_v_mask

__version__ = "0.1.0"

__all__ = [
    "ClipB",
    "ClipBConfig",
    "ClipMask",
    "ClipV",
    "ClipVConfig",
    "ObservedGRPO",
    "SignMask",
    "SignMaskConfig",
    "clip_b_mask",
    "clip_v_mask",
    "deviation",
    "entropy_discriminator",
    "predicted_entropy_change",
    "vocabulary_mean",
]
