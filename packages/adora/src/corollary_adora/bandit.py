r"""What the weight does to a policy, without noise: four kinds of responses, all groups enumerated.

A response is short or long and right or wrong, with probabilities :math:`p = (a, b, c, d)` of short-right, long-right,
short-wrong and long-wrong. A group of :math:`G` is a multinomial draw, so the expectation of anything that a group
decides is a finite sum over compositions. For groups of two, length attenuation with weight :math:`\lambda` gives the
mean advantages, in units of :math:`1/\sqrt 2`,

.. math:: \bar A = \bigl(\lambda (c + d),\; c + \lambda d,\; -(\lambda a + b),\; -\lambda (a + b)\bigr)

(derived here). GRPO is :math:`\lambda = 1`: then the first two are equal and so are the last two, it does not see
length. ADORA prefers long to short among the right ones by :math:`(1 - \lambda) c`, and among the wrong ones by
:math:`(1 - \lambda) b`.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from corollary.rl import group_advantages
from corollary_adora.rule import AdoraConfig, adora_weights
from corollary_adora.weighting import AdvantageWeighting, weighted_advantages

RIGHT = torch.tensor([True, True, False, False])
LENGTHS = torch.tensor([1, 2, 1, 2])
KINDS = ("short-right", "long-right", "short-wrong", "long-wrong")


class Groups(NamedTuple):
    """All compositions of a group, and what a method makes of each."""

    counts: Tensor
    """``(K, 4)``: how many responses of each kind."""
    advantages: Tensor
    """``(K, 4)``: the weighted advantage of each kind; 0 of a kind that is absent."""
    weights: Tensor
    """``(K,)``."""


def attenuation(weight: float) -> AdvantageWeighting:
    """ADORA by length advantage with this weight for the disadvantageous prompts; 1 is GRPO."""
    config = AdoraConfig(w_tds=weight, correct_threshold=0.5, max_length=None)
    return partial(adora_weights, config=config)


def enumerate_groups(size: int, weighting: AdvantageWeighting) -> Groups:
    """Every composition of a group of ``size``, with the advantages of the package's own functions."""
    counts = [k for k in product(range(size + 1), repeat=4) if sum(k) == size]
    kinds = torch.tensor([kind for k in counts for kind, n in enumerate(k) for _ in range(n)])
    group_ids = torch.arange(len(counts)).repeat_interleave(size)
    rewards, lengths = RIGHT[kinds].double(), LENGTHS[kinds]
    estimator: Callable[[Tensor, Tensor], Tensor] = partial(group_advantages, eps=0.0)
    values = weighted_advantages(rewards, lengths, group_ids, weighting=weighting, estimator=estimator)
    advantages = torch.zeros(len(counts), 4, dtype=torch.float64)
    advantages[group_ids, kinds] = values
    return Groups(torch.tensor(counts), advantages, weighting(rewards, lengths, group_ids)[::size])


def composition_probabilities(counts: Tensor, p: Tensor) -> Tensor:
    """Multinomial probability of each composition: ``(K, 4)`` and ``(N, 4)`` to ``(N, K)``."""
    size = int(counts[0].sum())
    coefficients = torch.tensor([math.factorial(size) / math.prod(map(math.factorial, k)) for k in counts.tolist()])
    return coefficients.double() * (p[:, None] ** counts).prod(-1)


def mean_advantages(groups: Groups, p: Tensor) -> Tensor:
    r"""Expected weighted advantage of a response given its kind, ``(N, 4)``, for probabilities ``(N, 4)``.

    .. math:: E[w A \mid k] = \frac{1}{p_k} \sum_n P(n)\, \frac{n_k}{G}\, w(n) A_k(n)
    """
    size = int(groups.counts[0].sum())
    share = groups.counts * groups.advantages / size
    return composition_probabilities(groups.counts, p) @ share / p


def closed_form(p: Tensor, weight: float) -> Tensor:
    """The same for groups of two by the formula at the top, ``(N, 4)``."""
    a, b, c, d = p.unbind(-1)
    values = torch.stack([weight * (c + d), c + weight * d, -(weight * a + b), -weight * (a + b)], -1)
    return values / math.sqrt(2)


def policy_gradient(advantages: Tensor, p: Tensor) -> Tensor:
    r"""Expected policy gradient of a softmax bandit in its logits, :math:`p_k (\bar A_k - \sum_j p_j \bar A_j)`."""
    return p * (advantages - (p * advantages).sum(-1, keepdim=True))


def drift(values: Tensor, gradient: Tensor, p: Tensor) -> Tensor:
    r"""Change of :math:`E[f]` per unit of a step along the gradient of the logits, ``(N,)``.

    .. math:: \mathrm{d}E[f] = \sum_k f_k\, p_k \Bigl(g_k - \sum_j p_j g_j\Bigr)
    """
    return (values * p * (gradient - (p * gradient).sum(-1, keepdim=True))).sum(-1)
