"""ADORA on top of GRPO, or of any estimator of advantages, and its control with random weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Any, ClassVar

from torch import Tensor

from corollary.rl import Algorithm, Batch, GRPOConfig, Rollouts, logs_only
from corollary_adora.rule import (
    PRESETS,
    AdoraConfig,
    Criteria,
    EmptyFailure,
    NoSuccess,
    adora_labels,
    adora_weights,
    is_correct,
)
from corollary_adora.weighting import apply_weights, normalised, permuted_over_groups

Estimator = Callable[[Rollouts], Tensor]
"""Rollouts to advantages, ``(B,)`` or ``(B, T)``, before they are weighted."""


@dataclass(frozen=True, kw_only=True)
class AdoraAlgorithmConfig(GRPOConfig):
    """GRPO's hyper-parameters, a preset of the rule, and what to change in it: None keeps the preset's value."""

    preset: str = "llm_2025"
    """A class method of `AdoraConfig`; the default is the released code for language models."""
    w_tas: float | None = None
    w_tds: float | None = None
    criteria: Criteria | None = None
    tau: float | None = None
    correct_threshold: float | None = None
    max_length: int | None = None
    """A number that no response reaches, such as the longest plus one, counts all failures."""
    empty_failure: EmptyFailure | None = None
    no_success: NoSuccess | None = None
    generation_limit: int | None = None
    normalise: bool = False
    """Divide the weights by their mean over the batch (a control: ours and not the paper's)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {PRESETS}, got {self.preset!r}")
        _ = self.rule  # an option out of range is refused here

    @property
    def rule(self) -> AdoraConfig:
        """The preset with the changes."""
        changes = {field.name: getattr(self, field.name) for field in fields(AdoraConfig)}
        preset: AdoraConfig = getattr(AdoraConfig, self.preset)()
        return replace(preset, **{name: value for name, value in changes.items() if value is not None})


class Adora(Algorithm):
    """Advantages times the weight of their prompt (arXiv:2602.10019, Eq. 4), and GRPO in everything else.

    Args:
        config: GRPO's configuration and the rule's.
        estimator: The advantages that are weighted; None for those of GRPO with the options of ``config``. It is not
            part of the configuration, so that recipes that need another one make a subclass.
    """

    Config = AdoraAlgorithmConfig
    config: AdoraAlgorithmConfig
    # The paper's weights by the one criterion that means something where all answers have one length.
    benchmark: ClassVar[Mapping[str, Any] | None] = {"preset": "llm_2026", "criteria": "difficulty"}
    metrics: ClassVar[Mapping[str, str]] = {
        "adora/tas": "Share of prompts that are temporarily advantageous.",
        "adora/weight": "Mean weight over the responses.",
        "adora/length_success": "Mean tokens of the correct responses.",
        "adora/length_failure": "Mean tokens of the wrong responses below the length limit.",
        "adora/overlong": "Share of responses at or above the length limit.",
        "adora/flips": "Share of prompts that were seen before and have changed their label since the last time.",
    }

    def __init__(self, config: AdoraAlgorithmConfig | None = None, *, estimator: Estimator | None = None) -> None:
        super().__init__(config)
        self.rule = self.config.rule
        self.estimator = estimator if estimator is not None else super().advantages
        self._labels: dict[str, bool] = {}

    def weights(self, rollouts: Rollouts) -> Tensor:
        """The weight of each response, ``(B,)``."""
        weights = adora_weights(rollouts.rewards, rollouts.lengths, rollouts.group_ids, config=self.rule)
        return normalised(weights) if self.config.normalise else weights

    def advantages(self, rollouts: Rollouts) -> Tensor:
        """The estimator's advantages times the weights."""
        return apply_weights(self.estimator(rollouts), self.weights(rollouts))

    @logs_only()
    def prepare(self, batch: Batch) -> Batch:
        """Log what the rule did."""
        return replace(batch, metrics=self._metrics(batch.rollouts))

    def _metrics(self, rollouts: Rollouts) -> dict[str, float]:
        limit = self.rule.max_length if self.rule.max_length is not None else math.inf
        lengths, correct = rollouts.lengths, is_correct(rollouts.rewards, self.rule.correct_threshold)
        advantageous = adora_labels(correct, lengths, rollouts.group_ids, config=self.rule)
        one_of_each = {group: row for row, group in enumerate(rollouts.group_ids.tolist())}.values()
        labels = {row: bool(advantageous[row]) for row in one_of_each}
        changed = [self._relabel(_prompt_key(rollouts, row), label) for row, label in labels.items()]
        return {
            "adora/tas": _mean(list(labels.values())),
            "adora/weight": self.weights(rollouts).double().mean().item(),
            "adora/length_success": _mean(lengths[correct].tolist()),
            "adora/length_failure": _mean(lengths[~correct & (lengths < limit)].tolist()),
            "adora/overlong": (lengths >= limit).double().mean().item(),
            "adora/flips": _mean([change for change in changed if change is not None]),
        }

    def _relabel(self, key: str, label: bool) -> bool | None:
        """Note a prompt's label; whether it differs from the one before, or None if there was none."""
        last = self._labels.get(key)
        self._labels[key] = label
        return None if last is None else last != label

    def state_dict(self) -> dict[str, Any]:
        """The last label of every prompt that was seen."""
        return {"labels": dict(self._labels)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._labels = dict(state["labels"])


class RandomAdora(Adora):
    """The control: ADORA's weights of the batch, dealt at random among the prompts that have a gradient."""

    benchmark: ClassVar[Mapping[str, Any] | None] = None

    def advantages(self, rollouts: Rollouts) -> Tensor:
        """The estimator's advantages: chance is at hand in `prepare`."""
        return self.estimator(rollouts)

    def prepare(self, batch: Batch) -> Batch:
        """Weight the advantages, with the weights of the groups permuted."""
        weights = permuted_over_groups(
            self.weights(batch.rollouts),
            batch.rollouts.group_ids,
            (batch.advantages != 0).any(-1),
            generator=batch.generator,
        )
        return replace(super().prepare(batch), advantages=apply_weights(batch.advantages, weights))


def _prompt_key(rollouts: Rollouts, row: int) -> str:
    tokens = rollouts.prompt_ids[row][rollouts.prompt_mask[row]].tolist()
    return sha256(repr(tokens).encode()).hexdigest()[:32]


def _mean(values: list[Any]) -> float:
    return sum(values) / len(values) if values else math.nan
