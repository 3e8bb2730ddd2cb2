"""The theory behind the temperature: which way REINFORCE on samples at temperature T moves the entropy of one state."""

import torch
from torch import Tensor


def tempered(log_p: Tensor, temperature: float | Tensor) -> Tensor:
    r"""The distribution :math:`q = p^{1/T} / Z` that a sampler at temperature ``T`` draws from.

    Args:
        log_p: :math:`\log p`, nats, ``(..., V)``.
        temperature: :math:`T`, larger than 0; broadcasts against ``log_p``.

    Returns:
        ``q``, ``(..., V)``.

    Raises:
        ValueError: the temperature is not larger than 0.
    """
    if not bool((torch.as_tensor(temperature) > 0).all()):
        raise ValueError(f"temperature must be larger than 0, got {temperature}")
    return torch.softmax(log_p / temperature, dim=-1)


def reinforce_direction(log_p: Tensor, temperature: float | Tensor, correct: Tensor | None = None) -> Tensor:
    r"""Expected REINFORCE gradient with respect to the logits, per unit of the probability of a reward.

    With samples from :math:`q` and reward 1 on the actions of a set :math:`C`,

    .. math:: \frac{1}{P_q(C)} E_{a \sim q}[R(a)\, \nabla_z \log p(a)] = q(\cdot \mid C) - p

    which is :math:`q - p` if every action is rewarded (``correct=None``).

    Args:
        log_p: :math:`\log p`, nats, ``(..., V)``.
        temperature: :math:`T` of the sampler.
        correct: Boolean, the set :math:`C`, ``(..., V)``, not empty; None for all actions.

    Returns:
        The direction, ``(..., V)``; it sums to 0.

    Raises:
        ValueError: no action is correct, or the temperature is not larger than 0.
    """
    q = tempered(log_p, temperature)
    if correct is not None:
        if not bool(correct.any(-1).all()):
            raise ValueError("correct must hold at least one action for every state, got none")
        q = torch.where(correct, q, 0.0)
        q = q / q.sum(-1, keepdim=True)
    return q - log_p.exp()


def entropy_slope(log_p: Tensor, direction: Tensor) -> Tensor:
    r"""First-order change of the entropy when the logits move along a direction.

    .. math:: \frac{dH}{d\eta} = -\sum_i p_i (\log p_i + H(p))\, d_i

    Symbols: :math:`p` from ``log_p``, :math:`d` ``direction``, :math:`\eta` the length of the step.

    Args:
        log_p: ``(..., V)``, nats.
        direction: ``(..., V)``.

    Returns:
        The slope, nats, ``(...)``.
    """
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1, keepdim=True)
    return -(p * (log_p + entropy) * direction).sum(-1)


def natural_entropy_slope(log_p: Tensor, direction: Tensor) -> Tensor:
    r"""The same when the probabilities themselves move along it, as under the natural gradient: :math:`-\sum d \log p`.

    Args:
        log_p: ``(..., V)``, nats.
        direction: ``(..., V)``; sums to 0.
    """
    return -(direction * log_p).sum(-1)
