"""Sampling: completions of a causal language model."""

from corollary.rollout.sampler import Samples, accepts, different_prompts, left_pad, positions, sample_completions

__all__ = ["Samples", "accepts", "different_prompts", "left_pad", "positions", "sample_completions"]
