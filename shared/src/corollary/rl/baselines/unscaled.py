"""Configuration of the methods whose advantages are divided by nothing."""

from dataclasses import dataclass

from corollary.rl.advantages import Scale
from corollary.rl.algorithm import GRPOConfig


@dataclass(frozen=True, kw_only=True)
class UnscaledConfig(GRPOConfig):
    """GRPO's options without a division of the advantages; to ask for one is an error."""

    advantage_scale: Scale = "none"
    """These methods divide by nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.advantage_scale != "none":
            raise ValueError(f"advantage_scale must be 'none' here, got {self.advantage_scale!r}")
