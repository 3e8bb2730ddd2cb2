"""Sampling: completions of a causal language model."""

from corollary.rollout.sampler import Samples, accepts, left_pad, positions, sample_completions

__all__ = ["Samples", "accepts", "left_pad", "positions", "sample_completions"]
