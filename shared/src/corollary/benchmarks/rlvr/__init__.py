"""Reinforcement learning with verifiable rewards: every installed method, always beside GRPO and the warm start."""

from corollary.benchmarks.rlvr.suite import SUITE, RLVRSuite

__all__ = ["SUITE", "RLVRSuite"]
