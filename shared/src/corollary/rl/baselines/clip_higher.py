"""Clip-higher: an upper clip range that is wider than the lower (DAPO, arXiv:2503.14476, section 3.1).

A token of probability 0.01 may grow to 0.012 under a symmetric range of 0.2, one of 0.9 to 1: the upper clip holds back
rare tokens above all. A wider upper range leaves them room and slows the fall of the entropy.
"""

from dataclasses import dataclass

from corollary.rl.algorithm import Algorithm, GRPOConfig


@dataclass(frozen=True, kw_only=True)
class ClipHigherConfig(GRPOConfig):
    """DAPO's clip range (arXiv:2503.14476, section 3.1)."""

    clip_high: float = 0.28


class ClipHigher(Algorithm):
    """GRPO with DAPO's clip-higher: the upper clip range is wider than the lower."""

    Config = ClipHigherConfig
