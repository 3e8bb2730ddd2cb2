"""What verl's two hooks carry of an algorithm, and the tensors on both sides of them. Nothing here needs verl.

verl 0.9 calls an *advantage estimator* once a batch, with rewards, response mask and the prompt of each response, and a
*policy loss* once a micro-batch, with log-probabilities, advantages and the mask. `hook_support` says of an algorithm
whether that is enough; `hook_advantages` and `hook_token_loss` are the two hooks. `corollary.rl.integrations.verl`
registers them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl.algorithm import Algorithm, GRPOConfig, algorithm_names, make_algorithm, prepare_trains
from corollary.rl.batch import Batch, Rollouts
from corollary.rl.losses import LOG_RATIO_BOUND, aggregation_mode, at_least_float32, binary_mask

PREFIX = "corollary-"
"""Of every name that is registered with verl, whose own names stay what they are."""

OPTIONS = "corollary"
"""The key of verl's sections ``algorithm`` and ``actor.policy_loss`` that holds an algorithm's options."""

CLIP_KEYS = {
    "clip_ratio_low": ("clip_low", 0.2),
    "clip_ratio_high": ("clip_high", 0.2),
    "clip_ratio_c": ("dual_clip", 3),
}
"""verl's keys for the clip: the option that counts here instead, and verl's default."""


@dataclass(frozen=True)
class HookSupport:
    """What of an algorithm goes through verl's hooks."""

    advantages: bool
    """Its advantages are not those of GRPO: set ``algorithm.adv_estimator``."""
    loss: bool
    """Its token loss, or how it is aggregated, is not that of GRPO: set ``actor.policy_loss.loss_mode``."""
    missing: tuple[str, ...]
    """What it needs and neither hook gives. If there is anything, the hooks refuse it."""

    def __str__(self) -> str:
        if self.missing:
            return "needs more"
        hooks = [name for name, used in (("advantages", self.advantages), ("loss", self.loss)) if used]
        return " and ".join(hooks) or "as verl's own"


def hook_support(algorithm: Algorithm) -> HookSupport:
    """What of ``algorithm``, with the options that it was made with, goes through verl's hooks."""
    kind, config, grpo = type(algorithm), algorithm.config, GRPOConfig()

    def changed(*options: str) -> bool:
        return any(getattr(config, option) != getattr(grpo, option) for option in options)

    def overrides(hook: str) -> bool:
        return getattr(kind, hook) is not getattr(Algorithm, hook)

    missing = []
    if beyond := algorithm.update_stats - {"log_prob"}:
        missing.append(f"{_listed(beyond)} of the policy being trained: the loss hook is given log-probabilities alone")
    if beyond := algorithm.behaviour_stats - Algorithm.behaviour_stats:
        missing.append(f"{_listed(beyond)} of the behaviour policy: verl does not compute it for the hooks")
    if prepare_trains(algorithm):
        missing.append(
            "the whole batch with its log-probabilities and entropies before the updates (prepare): "
            "the advantage hook sees rewards, and the loss hook a micro-batch"
        )
    if overrides("prepare_mini_batch"):
        missing.append(
            "all tokens of an optimiser step at once, with what is known of the behaviour policy (prepare_mini_batch): "
            "the loss hook sees a micro-batch of one device"
        )
    if overrides("extra_rollouts"):
        missing.append("a second sample of some prompts (extra_rollouts)")
    if overrides("observe"):
        missing.append("the metrics of the step that ended (observe)")
    return HookSupport(
        advantages=overrides("advantages") or changed("advantage_scale", "advantage_eps", "singleton"),
        loss=overrides("token_loss") or changed("clip_low", "clip_high", "dual_clip", "aggregation"),
        missing=tuple(missing),
    )


def installed_support() -> dict[str, HookSupport]:
    """`hook_support` of every installed algorithm with its default options, by name."""
    return {name: hook_support(make_algorithm(name)) for name in algorithm_names()}


def options_of(section: Mapping[str, Any] | None, *, where: str) -> dict[str, Any]:
    """The options under the key `OPTIONS` of a section of verl's configuration.

    Args:
        section: ``algorithm`` or ``actor.policy_loss``, in any of verl's forms; None has no options.
        where: Its name, for errors.

    Raises:
        ValueError: the key holds something other than plain values by name.
    """
    given = None if section is None else section.get(OPTIONS, None)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}.{OPTIONS} must hold options by name, got {given!r}")
    for name, value in given.items():
        if not isinstance(value, bool | int | float | str | NoneType):
            raise ValueError(f"{where}.{OPTIONS}.{name} must be a plain value, got {value!r}")
    return dict(given)


def carried_algorithm(name: str, section: Mapping[str, Any] | None = None, *, where: str = "options") -> Algorithm:
    """The installed algorithm ``name`` with the options of a section, if verl's hooks carry it. Made once a process.

    Raises:
        ValueError: an option is unknown or out of range, or the algorithm needs more than the hooks give; the message
            says what.
    """
    options = options_of(section, where=where)
    try:
        algorithm = _made(name, tuple(sorted(options.items())))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}.{OPTIONS}: {error}") from error
    if missing := hook_support(algorithm).missing:
        raise ValueError(
            f"verl's hooks do not carry {name!r}{f' with {options}' if options else ''}. It needs "
            f"{'; '.join(missing)}. Corollary's docs/verl.md says what runs it"
        )
    return algorithm


@lru_cache
def _made(name: str, options: tuple[tuple[str, Any], ...]) -> Algorithm:
    return make_algorithm(name, **dict(options))


def hook_advantages(
    algorithm: Algorithm, token_level_rewards: Tensor, response_mask: Tensor, index: np.ndarray | None
) -> Tensor:
    """The advantages of a batch, from what verl hands to an advantage estimator.

    Args:
        algorithm: One that `hook_support` finds nothing missing for.
        token_level_rewards: ``(B, T)``; a response's reward is the sum of its row, as in verl's own estimators.
        response_mask: 1 for the tokens of the response, ``(B, T)``.
        index: The prompt of each response, ``(B,)``: equal entries form a group.

    Returns:
        ``(B, T)``, 0 where the mask is 0; float64 for float64 rewards, else float32.

    Raises:
        ValueError: the shapes do not fit, ``index`` is missing, or the algorithm asks for something that verl does not
            show.
    """
    mask = binary_mask(response_mask, token_level_rewards.shape)
    if index is None:
        raise ValueError("the batch must hold the prompt of each response (uid), got none")
    labels = np.asarray(index).astype(str)
    if labels.shape != mask.shape[:1]:
        raise ValueError(f"index must be (B,) = {tuple(mask.shape[:1])}, got {labels.shape}")
    groups = torch.from_numpy(np.unique(labels, return_inverse=True)[1]).to(mask.device)
    advantages = algorithm.advantages(_rollouts(mask, rewards=token_level_rewards.sum(-1), group_ids=groups))
    if advantages.ndim == 1:
        advantages = advantages[:, None].expand_as(mask)
    return advantages * mask


class HookLoss(NamedTuple):
    """The loss of each token of a micro-batch, and what to log."""

    losses: Tensor
    """``(B, T)``, 0 where the mask is 0."""
    metrics: dict[str, float]
    """Under verl's names for the clip and the divergence, and under ours."""


def hook_token_loss(
    algorithm: Algorithm, old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor
) -> HookLoss:
    """The loss of each token, from what verl hands to a policy loss.

    Args:
        algorithm: One that `hook_support` finds nothing missing for.
        old_log_prob: Log-probability of each token at the behaviour policy, ``(B, T)``, nats.
        log_prob: The same at the policy being trained; carries the gradient.
        advantages: ``(B, T)``.
        response_mask: 1 for the tokens that count, ``(B, T)``.

    Raises:
        ValueError: the shapes differ, or the algorithm asks for something that verl does not show.
    """
    mask = binary_mask(response_mask, log_prob.shape)
    batch = Batch(
        rollouts=_rollouts(mask), advantages=advantages, behaviour=TokenStats(log_prob=old_log_prob), mask=mask
    )
    losses = algorithm.token_loss(batch, TokenStats(log_prob=log_prob))
    with torch.no_grad():
        seen = TokenStats(log_prob=log_prob.detach())
        logged = {
            f"actor/{name}": (total / count.clamp(min=1)).item()
            for name, (total, count) in algorithm.update_metrics(batch, seen).items()
        }
        high, low, dual = algorithm.clip_events(batch, seen)
        shift = (at_least_float32(old_log_prob) - at_least_float32(log_prob)).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        count = mask.sum().clamp(min=1)
        verl_names = {
            "actor/pg_clipfrac": (high | low).sum() / count,
            "actor/pg_clipfrac_lower": dual.sum() / count,
            "actor/ppo_kl": torch.where(mask, shift, 0.0).sum() / count,
        }
    return HookLoss(
        torch.where(mask, losses, 0.0), {**logged, **{name: value.item() for name, value in verl_names.items()}}
    )


def check_actor(algorithm: Algorithm, actor: Mapping[str, Any], loss_agg_mode: str) -> None:
    """Refuse settings of verl's actor that say something else than the algorithm's options do.

    Raises:
        ValueError: the aggregation differs from the algorithm's; the length that ``seq-mean-token-sum-norm`` divides by
            is left to the padding; or one of `CLIP_KEYS` is set, to something else than the option that counts.
    """
    config = algorithm.config
    aggregation = aggregation_mode(config.aggregation)
    if loss_agg_mode != aggregation:
        raise ValueError(
            f"actor.loss_agg_mode must be {aggregation!r}, the aggregation of {type(algorithm).__name__}, got "
            f"{loss_agg_mode!r}; to train with that, set policy_loss.{OPTIONS}.aggregation too"
        )
    if aggregation == "seq-mean-token-sum-norm" and actor.get("loss_scale_factor", None) is None:
        raise ValueError(
            f"actor.loss_scale_factor must be the longest response allowed for aggregation {aggregation!r}, got None, "
            "with which verl divides by the length that a micro-batch happens to be padded to"
        )
    for key, (option, default) in CLIP_KEYS.items():
        given, ours = actor.get(key, None), getattr(config, option)
        if given is not None and given not in (default, ours):
            raise ValueError(
                f"actor.{key} is {given}, but the clip is that of the algorithm, {option}={ours}: "
                f"set policy_loss.{OPTIONS}.{option}"
            )


class _Unseen:
    """A field of the rollouts that verl does not hand to its hooks."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _refuse(self) -> NoReturn:
        raise ValueError(f"verl's hooks do not show {self.name}, which the algorithm asks for")

    def __getattr__(self, attribute: str) -> NoReturn:
        self._refuse()

    def __getitem__(self, rows: Any) -> NoReturn:
        self._refuse()

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        for argument in (*args, *(kwargs or {}).values()):
            if isinstance(argument, _Unseen):
                argument._refuse()
        raise ValueError("verl's hooks do not show all that the algorithm asks for")


def _rollouts(mask: Tensor, **seen: Tensor) -> Rollouts:
    fields: dict[str, Any] = {name: _Unseen(name) for name in Rollouts.__dataclass_fields__}
    return Rollouts(**{**fields, "completion_mask": mask, **seen})


def _listed(names: frozenset[str]) -> str:
    return " and ".join(sorted(names))
