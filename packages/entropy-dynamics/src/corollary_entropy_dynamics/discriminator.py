r"""The entropy discriminator: how one token's update moves the entropy of its state (arXiv:2602.03392, section 3).

At one decoding state, with logits :math:`z` (already divided by the temperature), :math:`p = \mathrm{softmax}(z)` and
entropy :math:`H = -\sum_i p_i \log p_i` in nats, let token :math:`k` be sampled.

* Theorem 3.2: a change :math:`\epsilon` of the logit :math:`z_k` alone changes the entropy by
  :math:`-\epsilon S_k + O(\epsilon^2)`, with the discriminator :math:`S_i = p_i (H + \log p_i)`.
* Theorem 3.3: the gradient step :math:`dz = \alpha (e_k - p)` of a policy-gradient update changes it by
  :math:`-\alpha (S_k - N) + O(\alpha^2)`, with :math:`N = \sum_i p_i S_i = H \sum_i p_i^2 + \sum_i p_i^2 \log p_i`
  and effective step :math:`\alpha = \eta\, r A`.

All of it follows from the four statistics that `corollary.kernels.token_stats` computes in one pass.
"""

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.rl import at_least_float32

LOG_PROB_TOLERANCE = 1e-4
"""How far above 0 a log-probability, or below 0 an entropy, may lie before it counts as an error (nats)."""


def entropy_discriminator(log_probs: Tensor, entropy: Tensor) -> Tensor:
    r"""The discriminator of the sampled tokens, :math:`S_k = p_k (H + \log p_k)` (Theorem 3.2).

    ``S`` is positive for a token more probable than :math:`e^{-H}`: making it more probable still lowers the entropy.
    It is bounded below by :math:`-e^{-(1 + H)}`.

    Args:
        log_probs: :math:`\log p_k`, nats, any shape, e.g. ``(B, T)``.
        entropy: :math:`H`, nats, the same shape.

    Returns:
        ``S``, the same shape, no gradient; float32 for inputs of 16 bits. Near p = 1 it is a difference of small
        numbers, so inputs that were computed in 16 bits have lost it already.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> import math, torch
        >>> p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
        >>> entropy = -(p * p.log()).sum()
        >>> s = entropy_discriminator(p.log(), entropy.expand(3))
        >>> bool(abs(s.sum()) < 1e-15), bool(s[0] > 0), bool(s[1] < 0)
        (True, True, True)
    """
    if log_probs.shape != entropy.shape:
        raise ValueError(
            f"log_probs and entropy must have one shape, got {tuple(log_probs.shape)} and {tuple(entropy.shape)}"
        )
    log_probs, entropy = at_least_float32(log_probs.detach()), at_least_float32(entropy.detach())
    return log_probs.exp() * (entropy + log_probs)


def vocabulary_mean(stats: TokenStats) -> Tensor:
    r"""The policy's own mean of the discriminator, :math:`N = E_{i \sim p}[S_i] = H P_2 + T_2`.

    Symbols: :math:`H` ``stats.entropy``, :math:`P_2 = \sum_i p_i^2` ``stats.sum_p2``,
    :math:`T_2 = \sum_i p_i^2 \log p_i` ``stats.sum_p2_log_p``.

    Raises:
        ValueError: one of the three statistics was not computed.
    """
    entropy, sum_p2, sum_p2_log_p = stats.required("entropy", "sum_p2", "sum_p2_log_p")
    return (entropy * sum_p2 + sum_p2_log_p).detach()


def deviation(stats: TokenStats) -> Tensor:
    r"""The discriminator's deviation from its mean over the vocabulary, :math:`D = S_k - N` (Theorem 3.3).

    Its expectation over :math:`k \sim p` is zero at every state (Corollary 3.4), hence over an on-policy batch
    (Corollary 3.5) - if the statistics are those of the distribution that was sampled from: same temperature, no
    nucleus cut.

    Raises:
        ValueError: a statistic that it needs was not computed.
    """
    log_probs, entropy = stats.required("log_prob", "entropy")
    return entropy_discriminator(log_probs, entropy) - vocabulary_mean(stats)


def predicted_entropy_change(
    stats: TokenStats, advantages: Tensor, *, step_size: float = 1.0, ratio: Tensor | float = 1.0
) -> Tensor:
    r"""First-order change of the entropy at each token's state when the policy steps on that token (Theorem 3.3).

    .. math:: dH = -\alpha\,(S_k - N), \qquad \alpha = \eta\, r\, A

    Symbols: :math:`\eta` ``step_size``, :math:`r` ``ratio``, :math:`A` ``advantages``.

    Args:
        stats: ``log_prob``, ``entropy``, ``sum_p2`` and ``sum_p2_log_p`` at the policy that is stepped, ``(B, T)``.
        advantages: ``(B, T)``.
        step_size: The step that the *logits* take. With shared weights or Adam it is not the learning rate, and only
            sign and relative size of the prediction mean something.
        ratio: Importance ratio, ``(B, T)`` or a number.

    Returns:
        Nats, ``(B, T)``.

    Raises:
        ValueError: shapes differ or a statistic is missing.
    """
    change = deviation(stats)
    if advantages.shape != change.shape or (torch.is_tensor(ratio) and ratio.shape != change.shape):
        got = [tuple(advantages.shape)] + ([tuple(ratio.shape)] if torch.is_tensor(ratio) else [])
        raise ValueError(f"advantages and ratio must have the shape of the statistics {tuple(change.shape)}, got {got}")
    return -step_size * ratio * advantages * change
