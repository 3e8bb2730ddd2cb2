"""Small causal language models and their supervised warm start."""

from corollary.models.plain_llama import PlainLlama
from corollary.models.small import SmallModel
from corollary.models.start import StartingPolicy
from corollary.models.warm_start import WarmStart

__all__ = ["PlainLlama", "SmallModel", "StartingPolicy", "WarmStart"]
