"""AEPO on top of GRPO: correct responses of a second sample, at the controller's temperature, are reinforced."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl import Algorithm, Batch, GRPOConfig, RolloutRequest, aggregation_mode
from corollary_aepo.controller import EntropyController, check_controller_options
from corollary_aepo.mixing import REINFORCE, WEIGHT, Mode, Placement, check_mixing_options, mix_batch
from corollary_aepo.selection import Select, check_selection_options, select_reinforce

EntropySignal = Literal["mc_mixed", "analytic_on_policy"]


@dataclass(frozen=True, kw_only=True)
class AEPOConfig(GRPOConfig):
    """Hyper-parameters of AEPO, with the defaults of the released script. Clip ranges and the rest are GRPO's."""

    target: float = 0.5
    """Target entropy, nats a token (``entropy_base``; 0.75 in the best reported setting)."""
    t_high: float = 1.2
    """Temperature of the second sample while the entropy is at most the target."""
    t_low: float = 0.8
    """Temperature above the target."""
    reinforce_fraction: float = 60 / 2560
    """The most REINFORCE samples, as a share of the batch's responses, rounded down (``reinforce_sample_num``: 60)."""
    reinforce_num: int | None = None
    """The same as a count; overrides the share."""
    extra_fraction: float = 0.25
    """Share of the prompts that are sampled again: the first quarter since 2025-11-24, all of them before."""
    select: Select = "advantage"
    """Which of the second sample are candidates: the released code's rule, or the formula's ``"reward"``."""
    threshold: float = 0.05
    """A candidate's advantage (or reward) is above this."""
    halve_when_cooling: bool = True
    """Half as many while cooling: the released code since 2025-11-08."""
    mode: Mode = "replace"
    """The released code replaces GRPO's responses; the formula adds a term."""
    alpha: float | None = None
    """Weight of that term in additive mode; None for what replace mode amounts to."""
    placement: Placement = "shuffled"
    """``"front"`` leaves all REINFORCE samples in the first mini-batch, as the released code does."""
    entropy_signal: EntropySignal = "mc_mixed"
    """What the controller reads. The released code: the mean of -log pi of the sampled tokens, on the mixed batch,
    while the policy is updated on it. ``"analytic_on_policy"``: the entropy over GRPO's own responses, before."""
    vocab_size: int | None = None
    """If given, a target above its logarithm warns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_controller_options(self.target, self.t_high, self.t_low)
        check_selection_options(self.select, self.threshold)
        check_mixing_options(self.mode, self.placement, self.alpha)
        if not 0 <= self.reinforce_fraction <= 1:
            raise ValueError(f"reinforce_fraction must be in [0, 1], got {self.reinforce_fraction}")
        if self.reinforce_num is not None and self.reinforce_num < 0:
            raise ValueError(f"reinforce_num must be at least 0, or None, got {self.reinforce_num}")
        if not 0 < self.extra_fraction <= 1:
            raise ValueError(f"extra_fraction must be in (0, 1], got {self.extra_fraction}")
        if self.entropy_signal not in get_args(EntropySignal):
            raise ValueError(f"entropy_signal must be one of {get_args(EntropySignal)}, got {self.entropy_signal!r}")
        if self.mode == "additive" and aggregation_mode(self.aggregation) != "token-mean":
            raise ValueError(f"mode='additive' is worked out for aggregation token-mean, got {self.aggregation!r}")


class AEPO(Algorithm):
    """Arbitrary Entropy Policy Optimization (arXiv:2510.08141).

    Scoring stays at the training temperature, 1, whatever the second sample's: there is no importance correction, since
    the pull towards the sampler's temperature is the point.
    """

    Config = AEPOConfig
    config: AEPOConfig
    # The middle target and the share of the claims: the authors' share is 6 of the 256 responses of such a batch, and
    # their target lies far below the entropies that a small policy passes through.
    benchmark: ClassVar[Mapping[str, Any] | None] = {"target": 1.0, "reinforce_fraction": 0.25, "select": "reward"}
    metrics: ClassVar[Mapping[str, str]] = {
        "aepo/entropy": "Mean of -log pi of the tokens trained on, during the updates, in nats: the released code's "
        "estimate of the entropy, biased by the tokens of the second sample.",
        "aepo/temperature": "Temperature of the second sample.",
        "aepo/num_reinforce": "Responses of the second sample that were trained on.",
        "aepo/candidates": "Responses of the second sample that could have been.",
        "aepo/hot_accuracy": "Mean reward of the second sample.",
    }

    def __init__(self, config: GRPOConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.controller = EntropyController(c.target, c.t_high, c.t_low, vocab_size=c.vocab_size)

    def extra_rollouts(self, step: int) -> RolloutRequest:
        """The first quarter of the prompts, in whole groups, at the controller's temperature."""
        return RolloutRequest(self.controller.temperature(), fraction=self.config.extra_fraction)

    def max_reinforce(self, responses: int) -> int:
        """The most REINFORCE samples in a batch of so many responses."""
        c = self.config
        most = int(c.reinforce_fraction * responses + 1e-9) if c.reinforce_num is None else c.reinforce_num
        if most > responses:
            raise ValueError(f"reinforce_num must be at most the batch's {responses} responses, got {most}")
        return most

    def select(self, second: Batch, most: int) -> Tensor:
        """Rows of the second sample to train on."""
        c = self.config
        return select_reinforce(
            second.advantages,
            second.mask,
            most,
            rewards=second.rollouts.rewards,
            select=c.select,
            threshold=c.threshold,
            entropy=self.controller.entropy,
            target=self.controller.target,
            halve_when_cooling=c.halve_when_cooling,
        )

    def prepare(self, batch: Batch) -> Batch:
        """Choose REINFORCE samples from ``batch.extra`` and mix them in."""
        c, second = self.config, batch.extra
        if second is None:
            raise ValueError("AEPO needs the second sample of extra_rollouts as batch.extra, got None")
        chosen = self.select(second, self.max_reinforce(len(batch)))
        mixed = mix_batch(batch, second, chosen, mode=c.mode, placement=c.placement, alpha=c.alpha)
        values = second.rollouts.rewards if c.select == "reward" else second.advantages[:, 0]
        metrics = {
            "aepo/temperature": second.rollouts.temperatures[0].item(),
            "aepo/num_reinforce": float(len(chosen)),
            "aepo/candidates": float((values > c.threshold).sum()),
            "aepo/hot_accuracy": second.rollouts.rewards.double().mean().item(),
        }
        return replace(mixed, metrics={**mixed.metrics, **metrics})

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """GRPO's loss; in additive mode the formula's -log pi on the REINFORCE samples, and the weights of the two."""
        loss = super().token_loss(batch, stats)
        if self.config.mode == "replace":
            return loss
        (log_probs,) = stats.required("log_prob")
        return torch.where(batch.per_token[REINFORCE], -log_probs, loss) * batch.per_token[WEIGHT]

    def update_metrics(self, batch: Batch, stats: TokenStats) -> dict[str, tuple[Tensor, Tensor]]:
        """GRPO's clip fractions, and the Monte-Carlo entropy of what is trained on."""
        (log_probs,) = stats.required("log_prob")
        return {**super().update_metrics(batch, stats), "aepo/entropy": mc_entropy(log_probs, batch.mask)}

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Hand the entropy of the step that just ended to the controller, which uses it in the next one."""
        name = "aepo/entropy" if self.config.entropy_signal == "mc_mixed" else "policy/entropy"
        self.controller.update(metrics[name])

    def state_dict(self) -> dict[str, Any]:
        """The controller's last measurement."""
        return {"controller": self.controller.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.controller.load_state_dict(state["controller"])


def mc_entropy(log_probs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    r"""The Monte-Carlo entropy of sampled tokens, :math:`-\frac1N \sum \log \pi(o_t)`, as (sum, count).

    Unbiased for the analytic entropy where the tokens were sampled from the policy itself.

    Args:
        log_probs: Log-probability of each token, nats, ``(B, T)``.
        mask: Boolean, the tokens that count, ``(B, T)``.
    """
    return -torch.where(mask, log_probs, 0.0).sum(), mask.sum()
