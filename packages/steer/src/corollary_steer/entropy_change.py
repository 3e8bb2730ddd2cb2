r"""The entropy change of one token's update, to first order (arXiv:2510.10150, Theorem 1).

At one decoding state, with logits :math:`z`, :math:`\pi = \mathrm{softmax}(z)` and entropy
:math:`H = -\sum_i \pi_i \log \pi_i` in nats, the building blocks are (Eqs. 20 and 23)

.. math:: \frac{\partial H}{\partial z_a} = -\pi_a (\log \pi_a + H), \qquad
          \frac{\partial \log \pi_a}{\partial z_a} = 1 - \pi_a

Under the paper's Assumption 1 (every state-action pair has its own logit, and an update of the sampled token leaves the
other logits of the state alone) a policy-gradient step of size :math:`\eta` on a token with ratio :math:`r` and
advantage :math:`A` moves its logit by :math:`\eta r A (1 - \pi_a)`, and hence the entropy by
:math:`-\eta r A \pi_a (1 - \pi_a)(\log \pi_a + H)`.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from corollary.rl import at_least_float32, clip_events, importance_ratio

Form = Literal["released", "ratio", "exact"]

SMALLEST_PROBABILITY = 1e-8
"""The released code clamps probabilities to this."""


def entropy_gradient(log_probs: Tensor, entropy: Tensor) -> Tensor:
    r"""How the entropy answers to the logit of one token, :math:`\partial H / \partial z_a = -\pi_a(\log\pi_a + H)`.

    Symbols: :math:`\log\pi_a` ``log_probs``, :math:`H` ``entropy``; both in nats, of one shape, as is the result.
    """
    return -log_probs.exp() * (log_probs + entropy)


def entropy_change(
    advantages: Tensor,
    entropy: Tensor,
    log_probs_old: Tensor,
    log_probs: Tensor,
    *,
    form: Form = "released",
    sum_p2: Tensor | None = None,
    sum_p2_log_p: Tensor | None = None,
    use_clip_indicator: bool = False,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    r"""Predicted entropy change of each token's update, signed: positive where the entropy is to rise.

    With :math:`x = \pi_\theta(a|s)`, :math:`x_\text{old} = \pi_\text{old}(a|s)` and :math:`r = x / x_\text{old}`,

    =============== ================================================================================
    form            :math:`\Omega`
    =============== ================================================================================
    ``"released"``  :math:`-(A / x_\text{old})\; x (1 - x)(\log x + H)`, the bracket of Theorem 1 (Eq. 17)
                    at the sampled token, as the released code has it
    ``"ratio"``     :math:`-A\, r\; x (1 - x)(\log x + H)`: the change under Assumption 1 when this token
                    was sampled and updated
    ``"exact"``     :math:`-A\, r\,(S - N)` with :math:`S = x (H + \log x)` and
                    :math:`N = H \sum_i p_i^2 + \sum_i p_i^2 \log p_i`: the change under a gradient step of
                    the whole softmax, :math:`dz = r A (e_a - p)`
    =============== ================================================================================

    each per unit of step: the change itself is :math:`(\eta / L)\,\Omega + O(\eta^2)` for :math:`L` tokens in the mean.
    The theorem's indicator :math:`I_\text{clip}`, which is 0 where the clip stops the gradient
    (:math:`A > 0, r > 1 + \epsilon_\text{high}` or :math:`A < 0, r < 1 - \epsilon_\text{low}`), is an option.

    Symbols: :math:`A` ``advantages``, :math:`H` ``entropy``, :math:`\log x_\text{old}` ``log_probs_old``,
    :math:`\log x` ``log_probs``, :math:`\sum_i p_i^2` ``sum_p2``, :math:`\sum_i p_i^2 \log p_i` ``sum_p2_log_p``,
    :math:`\epsilon_\text{low}` ``clip_low``, :math:`\epsilon_\text{high}` ``clip_high``.

    Args:
        advantages: ``(B, T)``.
        entropy: Entropy of the next-token distribution at the *behaviour* policy, nats, ``(B, T)``. The released
            code computes it once, beside ``log_probs_old``.
        log_probs_old: Log-probability of the sampled token at the behaviour policy, nats, ``(B, T)``.
        log_probs: The same at the policy that is trained, ``(B, T)``. Gradients are cut.
        form: See above. The third needs the two sums, which `corollary.kernels.token_stats` computes in the same pass.
        sum_p2: Collision probability at the behaviour policy, ``(B, T)``, for ``"exact"``.
        sum_p2_log_p: ``(B, T)``, for ``"exact"``.
        use_clip_indicator: Multiply by :math:`I_\text{clip}`. The released code does not.
        clip_low: Lower clip range, for the indicator.
        clip_high: Upper clip range, for the indicator.

    Returns:
        :math:`\Omega`, ``(B, T)``, without gradient, float32 for inputs of 16 bits. At padding it is whatever the
        inputs give.

    Raises:
        ValueError: shapes differ, ``form`` is unknown, or a sum is missing that it needs.

    Implementation notes:
        * The released form clamps :math:`x` to [1e-8, 1 - 1e-8] and :math:`x_\text{old}` to [1e-8, 1], and takes the
          logarithm of the clamped value; the others clamp only the log-ratio, to [-20, 20], as the loss does.
        * ``"released"`` times :math:`x` is ``"ratio"``: they are no rescaling of each other. The former is largest on
          tokens that hardly ever occur.
        * :math:`x` is the trained policy's while :math:`H` and the sums are the behaviour policy's, as released. They
          drift apart over the optimiser steps on a batch.

    Example:
        >>> p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
        >>> H = -(p * p.log()).sum().expand(3)
        >>> change = entropy_change(torch.ones(3, dtype=torch.float64), H, p.log(), p.log(), form="ratio")
        >>> change.sign().tolist()  # rewarding the likeliest token sharpens, rewarding the others flattens
        [-1.0, 1.0, 1.0]
    """
    named = {
        "advantages": advantages,
        "entropy": entropy,
        "log_probs_old": log_probs_old,
        "log_probs": log_probs,
        "sum_p2": sum_p2,
        "sum_p2_log_p": sum_p2_log_p,
    }
    check_form(form)
    if form == "exact" and (sum_p2 is None or sum_p2_log_p is None):
        missing = [name for name in ("sum_p2", "sum_p2_log_p") if named[name] is None]
        raise ValueError(f"form='exact' needs sum_p2 and sum_p2_log_p, got None for {', '.join(missing)}")
    for name, value in named.items():
        if value is not None and value.shape != advantages.shape:
            raise ValueError(
                f"{name} must have the shape of advantages {tuple(advantages.shape)}, got {tuple(value.shape)}"
            )
    a, h, old, new = (at_least_float32(x.detach()) for x in (advantages, entropy, log_probs_old, log_probs))
    if form == "released":
        x = new.exp().clamp(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        x_old = old.exp().clamp(SMALLEST_PROBABILITY, 1)
        omega = a / x_old * (1 - x) * entropy_gradient(x.log(), h)
    else:
        ratio = importance_ratio(new, old)
        if sum_p2 is not None and sum_p2_log_p is not None and form == "exact":
            mean = h * at_least_float32(sum_p2.detach()) + at_least_float32(sum_p2_log_p.detach())
            omega = a * ratio * (entropy_gradient(new, h) + mean)
        else:
            omega = a * ratio * -torch.expm1(new) * entropy_gradient(new, h)
    if use_clip_indicator:
        stopped = clip_events(new, old, a, clip_low=clip_low, clip_high=clip_high, dual_clip=None)
        omega = torch.where(stopped.high | stopped.low, 0.0, omega)
    return omega


def check_form(form: str) -> None:
    """Refuse a form that `entropy_change` does not have.

    Raises:
        ValueError: it is unknown.
    """
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}")


class Quadrants(NamedTuple):
    """The four cases of the sign rule; boolean masks of one shape, disjoint.

    A token is probable where its probability is above :math:`e^{-H}`. Tokens on a boundary (no advantage, or exactly
    that probability) are in none: their update leaves the entropy alone to first order.
    """

    positive_probable: Tensor
    """A > 0 and log x + H > 0: the update lowers the entropy."""
    positive_improbable: Tensor
    """A > 0 and log x + H < 0: the update raises it."""
    negative_probable: Tensor
    """A < 0 and log x + H > 0: the update raises it."""
    negative_improbable: Tensor
    """A < 0 and log x + H < 0: the update lowers it."""


def quadrant_masks(advantages: Tensor, log_probs: Tensor, entropy: Tensor) -> Quadrants:
    r"""Which tokens raise and which lower the entropy: :math:`\mathrm{sign}(dH) = -\mathrm{sign}(A (\log x + H))`.

    Symbols: :math:`A` ``advantages``, :math:`\log x` ``log_probs``, :math:`H` ``entropy``.

    Args:
        advantages: Any shape, e.g. ``(B, T)``.
        log_probs: Of the sampled tokens, nats, the same shape.
        entropy: Of the next-token distributions, nats, the same shape.

    Raises:
        ValueError: shapes differ.
    """
    if not advantages.shape == log_probs.shape == entropy.shape:
        raise ValueError(
            "advantages, log_probs and entropy must have one shape, got "
            f"{tuple(advantages.shape)}, {tuple(log_probs.shape)} and {tuple(entropy.shape)}"
        )
    surprise = at_least_float32(log_probs.detach()) + at_least_float32(entropy.detach())
    positive, negative, probable, improbable = advantages > 0, advantages < 0, surprise > 0, surprise < 0
    return Quadrants(positive & probable, positive & improbable, negative & probable, negative & improbable)
