"""Rethinking Entropy Interventions in RLVR: An Entropy Change Perspective (STEER, arXiv:2510.10150)."""

from corollary_steer.algorithms import Steer, SteerConfig
from corollary_steer.entropy_change import Quadrants, entropy_change, entropy_gradient, quadrant_masks
from corollary_steer.loss import SteerLoss, SteerOutput
from corollary_steer.weights import SteerWeights, steer_weights

__version__ = "0.1.0"

__all__ = [
    "Quadrants",
    "Steer",
    "SteerConfig",
    "SteerLoss",
    "SteerOutput",
    "SteerWeights",
    "entropy_change",
    "entropy_gradient",
    "quadrant_masks",
    "steer_weights",
]
