"""AEPO with one part taken out (C9): what is left of the control without it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from corollary.rl import Batch, RolloutRequest
from corollary_aepo.algorithms import AEPO, AEPOConfig
from corollary_aepo.mixing import REINFORCE

Without = Literal["temperature", "selection", "reinforce"]


@dataclass(frozen=True, kw_only=True)
class AblatedAEPOConfig(AEPOConfig):
    """Hyper-parameters of AEPO, and which part is missing."""

    without: Without = "temperature"
    """``"temperature"``: the second sample is drawn at temperature 1. ``"selection"``: all of it are candidates, right
    or wrong. ``"reinforce"``: its responses keep their group advantages in place of 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.without not in get_args(Without):
            raise ValueError(f"without must be one of {get_args(Without)}, got {self.without!r}")


class AblatedAEPO(AEPO):
    """AEPO without one of its parts."""

    Config = AblatedAEPOConfig
    config: AblatedAEPOConfig  # ty: ignore[incompatible-mutable-override]
    benchmark: ClassVar[Mapping[str, Any] | None] = None

    def extra_rollouts(self, step: int) -> RolloutRequest:
        """AEPO's request, at temperature 1 if that is what is ablated."""
        request = super().extra_rollouts(step)
        return replace(request, temperature=1.0) if self.config.without == "temperature" else request

    def select(self, second: Batch, most: int) -> Tensor:
        """AEPO's choice, among all responses if the selection is ablated: as if each of them were right."""
        if self.config.without != "selection":
            return super().select(second, most)
        ones = torch.ones_like(second.rollouts.rewards)
        right = replace(
            second, advantages=ones[:, None].expand_as(second.mask), rollouts=replace(second.rollouts, rewards=ones)
        )
        return super().select(right, most)

    def prepare(self, batch: Batch) -> Batch:
        """AEPO's mixture, with the group advantages of the second sample if the REINFORCE term is ablated."""
        mixed = super().prepare(batch)
        if self.config.without != "reinforce" or batch.extra is None:
            return mixed
        chosen = self.select(batch.extra, self.max_reinforce(len(batch)))
        if len(chosen) == 0:
            return mixed
        advantages = mixed.advantages.clone()
        own = batch.extra.advantages[chosen]
        advantages[: len(chosen), : own.shape[1]] = own
        return replace(mixed, advantages=torch.where(mixed.per_token[REINFORCE], advantages, mixed.advantages))
