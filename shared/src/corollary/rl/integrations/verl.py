"""A plugin of verl (0.9): Corollary's algorithms under verl's advantage and policy-loss hooks.

verl loads it through the entry point ``verl.plugins`` in every process that imports verl; nothing is to be done but to
install Corollary where verl runs. Every installed algorithm is then known to verl as ``corollary-<name>``::

    algorithm.adv_estimator = corollary - adora
    actor_rollout_ref.actor.policy_loss.loss_mode = corollary - dapo

One that needs more than the hooks give (`corollary.rl.integrations.verl_hooks.hook_support`) refuses with the reason
when it is called. The configuration keys are in ``docs/verl.md``.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corollary.rl.algorithm import Algorithm, algorithm_class, algorithm_names
from corollary.rl.integrations.verl_hooks import (
    PREFIX,
    carried_algorithm,
    check_actor,
    hook_advantages,
    hook_token_loss,
)

logger = logging.getLogger(__name__)

try:
    from verl.trainer.ppo.core_algos import (  # ty: ignore[import-not-found]
        agg_loss,
        register_adv_est,
        register_policy_loss,
    )
    from verl.workers.config import PolicyLossConfig  # ty: ignore[import-not-found]
except ImportError as error:
    # verl drops the errors of its plugins at level DEBUG, so this one would show as an unknown estimator, much later.
    logger.warning("Corollary's algorithms are not registered with verl: %s", error)
    raise ImportError(f'this module needs verl 0.9 (pip install "corollary[verl]"): {error}') from error


@dataclass
class CorollaryPolicyLossConfig(PolicyLossConfig):
    """verl's section ``actor.policy_loss`` with a place for the options of an algorithm.

    verl refuses keys that its dataclass does not have. With
    ``actor_rollout_ref.actor.policy_loss._target_=corollary.rl.integrations.verl.CorollaryPolicyLossConfig`` it takes
    this one instead.
    """

    corollary: dict[str, Any] = field(default_factory=dict)
    """Fields of the configuration of the algorithm that ``loss_mode`` names."""


def advantage_estimator(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The advantage hook for the installed algorithm ``name``; its options are under ``algorithm.corollary``."""

    @torch.no_grad()
    def estimator(
        token_level_rewards: Tensor,
        response_mask: Tensor,
        index: np.ndarray | None = None,
        config: Mapping[str, Any] | None = None,
        # verl adds arguments that the batch happens to have, such as reward_baselines.
        **others: Any,
    ) -> tuple[Tensor, Tensor]:
        algorithm = carried_algorithm(name, config, where="algorithm")
        advantages = hook_advantages(algorithm, token_level_rewards, response_mask, index)
        return advantages, advantages

    return estimator


def policy_loss(name: str) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """The policy-loss hook for the installed algorithm ``name``; its options are under ``policy_loss.corollary``.

    The loss is aggregated by verl's own function, whose normalisers are those of the mini-batch on all devices.
    """

    def loss(
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        algorithm = carried_algorithm(name, config.policy_loss, where="policy_loss")
        check_actor(algorithm, config, loss_agg_mode)
        losses, metrics = hook_token_loss(algorithm, old_log_prob, log_prob, advantages, response_mask)
        if rollout_is_weights is not None:
            losses = losses * rollout_is_weights
        normalisers = {**config.global_batch_info, "loss_scale_factor": config.get("loss_scale_factor", None)}
        return agg_loss(losses, response_mask, loss_agg_mode, **normalisers), metrics

    return loss


def register() -> tuple[str, ...]:
    """Make every installed algorithm known to verl; warn of those that cannot be loaded.

    Returns:
        The names under which verl knows them.
    """
    registered = []
    for name in algorithm_names():
        try:
            kind = algorithm_class(name)
            if not issubclass(kind, Algorithm):
                raise TypeError(f"the entry point must name a subclass of corollary.rl.Algorithm, got {kind!r}")
        except Exception:  # whatever a broken package raises; the others are not its concern
            logger.warning("The algorithm %r cannot be loaded and is not registered with verl", name, exc_info=True)
            continue
        register_adv_est(PREFIX + name)(advantage_estimator(name))
        register_policy_loss(PREFIX + name)(policy_loss(name))
        registered.append(PREFIX + name)
    return tuple(registered)


REGISTERED = register()
"""What this process has registered with verl."""
