"""Proactive model adaptation against concept drift in online time-series forecasting (arXiv:2412.08435)."""

from corollary_proceed.adaptation import NORMS, MergedLayers, adaptable_layers, merge, scaled_forward
from corollary_proceed.concepts import ConceptEncoder, clip_norm
from corollary_proceed.forecaster import ProceedForecaster
from corollary_proceed.generator import (
    AdaptationCoefficients,
    AdaptationGenerator,
    GeneratorGroup,
    LayerShape,
    generator_size,
)
from corollary_proceed.method import ProceedMethod
from corollary_proceed.model import Proceed
from corollary_proceed.tuning import ProceedConfig, ProceedTuning, tune

__version__ = "0.1.0"

__all__ = [
    "NORMS",
    "AdaptationCoefficients",
    "AdaptationGenerator",
    "ConceptEncoder",
    "GeneratorGroup",
    "LayerShape",
    "MergedLayers",
    "Proceed",
    "ProceedConfig",
    "ProceedForecaster",
    "ProceedMethod",
    "ProceedTuning",
    "adaptable_layers",
    "clip_norm",
    "generator_size",
    "merge",
    "scaled_forward",
    "tune",
]
