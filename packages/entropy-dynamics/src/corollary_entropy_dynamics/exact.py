"""Measurements of the exact claims: identities of the softmax, in float64, on random distributions.

Each compares what the package computes with something that does not use the package: a central difference of the
entropy, a sum over the whole vocabulary, or a covariance written out. C9 alone compares the masks with themselves.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from corollary.kernels import TokenStats, token_stats
from corollary.papers import Measurement
from corollary_entropy_dynamics.discriminator import (
    deviation,
    entropy_discriminator,
    predicted_entropy_change,
)
from corollary_entropy_dynamics.masks import clip_b_mask, clip_v_mask

VOCABULARIES = (2, 3, 5, 10, 20, 40)
PER_VOCABULARY = 50
"""300 random softmaxes in all."""
DIFFERENCE_STEP = 1e-5
"""Central differences in float64: truncation and rounding both stay below 1e-10."""
ALL = ("log_prob", "entropy", "sum_p2", "sum_p2_log_p")


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy of ``softmax(logits)`` over the last axis, nats, straight from the definition."""
    log_p = torch.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1)


def random_logits(seed: int) -> list[Tensor]:
    """Random logits of each vocabulary, ``(50, V)`` float64, with scales from flat to peaked."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        scale = torch.rand(PER_VOCABULARY, 1, generator=generator, dtype=torch.float64) * 3
        return torch.randn(PER_VOCABULARY, size, generator=generator, dtype=torch.float64) * scale

    return [draw(size) for size in VOCABULARIES]


def every_token(logits: Tensor) -> TokenStats:
    """Statistics with each token of the vocabulary as the sampled one, each ``(n, V)``."""
    n, size = logits.shape
    targets = torch.arange(size).expand(n, size)
    return token_stats(logits[:, None, :].expand(n, size, size), targets, stats=ALL)


def slope(logits: Tensor, directions: Tensor) -> Tensor:
    """Central difference of the entropy along each direction: ``(n, V)``, ``(n, K, V)`` -> ``(n, K)``."""
    step = DIFFERENCE_STEP * directions
    return (entropy_of(logits[:, None] + step) - entropy_of(logits[:, None] - step)) / (2 * DIFFERENCE_STEP)


def unit_vectors(logits: Tensor) -> Tensor:
    """The direction of every single logit, ``(n, V, V)``."""
    return torch.eye(logits.shape[1], dtype=logits.dtype).expand(len(logits), -1, -1)


def policy_gradients(logits: Tensor) -> Tensor:
    """``e_k - p`` for every token ``k``, ``(n, V, V)``."""
    return unit_vectors(logits) - torch.softmax(logits, -1)[:, None]


def single_logit(m: Measurement) -> dict[str, float]:
    """C1, Theorem 3.2: dH = -eps S_k + O(eps^2)."""
    error, coarse, fine = 0.0, 0.0, 0.0
    for logits in random_logits(m.seed):
        stats = every_token(logits)
        s = entropy_discriminator(*stats.required("log_prob", "entropy"))
        error = max(error, (slope(logits, unit_vectors(logits)) + s).abs().max().item())
        for eps in (1e-3, 5e-4):
            actual = entropy_of(logits[:, None] + eps * unit_vectors(logits)) - entropy_of(logits)[:, None]
            residual = (actual + eps * s).square().sum().item()
            coarse, fine = (coarse + residual, fine) if eps == 1e-3 else (coarse, fine + residual)
    return {"gradient_error": error, "order_error": abs(math.sqrt(coarse / fine) - 4)}


def discriminator_facts(m: Measurement) -> dict[str, float]:
    """C2: sign, sum and lower bound of S."""
    violations, total, below = 0, 0.0, 0.0
    for logits in random_logits(m.seed):
        stats = every_token(logits)
        s = entropy_discriminator(*stats.required("log_prob", "entropy"))
        log_p, entropy = torch.log_softmax(logits, -1), entropy_of(logits)[:, None]
        margin = log_p.exp() - (-entropy).exp()
        decided = margin.abs() > 1e-12
        violations += int((decided & (s.sign() != margin.sign())).sum())
        total = max(total, s.sum(-1).abs().max().item())
        below = max(below, (-(-(1 + entropy)).exp() - s).max().item())
    return {"sign_violations": float(violations), "sum": total, "below_bound": below}


def policy_gradient_step(m: Measurement) -> dict[str, float]:
    """C3, Theorem 3.3: dH = -alpha (S_k - N) + O(alpha^2) for a step of the logits."""
    error = 0.0
    for logits in random_logits(m.seed):
        error = max(
            error,
            (slope(logits, policy_gradients(logits)) + deviation(every_token(logits))).abs().max().item(),
        )
    steps = {alpha: finite_step(alpha, seed=m.seed) for alpha in (1e-3, 1e-2, 1e-1, 1.0)}
    rms = {alpha: relative_rms(*pair) for alpha, pair in steps.items()}
    return {
        "slope_error": error,
        "relative_rms_0.01": rms[1e-2],
        "order_error": abs(rms[1e-2] / rms[1e-3] - 10),
        "relative_rms_0.1": rms[1e-1],
        "relative_rms_1": rms[1.0],
        "sign_agreement_0.1": sign_agreement(*steps[1e-1]),
        "sign_agreement_1": sign_agreement(*steps[1.0]),
    }


def finite_step(alpha: float, *, seed: int, size: int = 30, count: int = 2000) -> tuple[Tensor, Tensor]:
    """Predicted and actual entropy change of steps ``alpha (e_k - p)``, ``k`` drawn from ``p``; each ``(count,)``."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, size, generator=generator, dtype=torch.float64) * 1.5
    p = torch.softmax(logits, -1)
    tokens = torch.multinomial(p, 1, generator=generator)[:, 0]
    stats = token_stats(logits, tokens, stats=ALL)
    predicted = predicted_entropy_change(stats, torch.ones(count, dtype=torch.float64), step_size=alpha)
    moved = logits + alpha * (torch.nn.functional.one_hot(tokens, size) - p)
    return predicted, entropy_of(moved) - entropy_of(logits)


def relative_rms(predicted: Tensor, actual: Tensor) -> float:
    """Root mean square error over the root mean square of the truth."""
    return ((predicted - actual).square().mean() / actual.square().mean()).sqrt().item()


def sign_agreement(predicted: Tensor, actual: Tensor) -> float:
    """Share of equal signs."""
    return (predicted.sign() == actual.sign()).double().mean().item()


def zero_mean(m: Measurement) -> dict[str, float]:
    """C4, Corollary 3.4: the policy's expectation of S_k - N is zero."""
    error = 0.0
    for logits in random_logits(m.seed):
        expectation = (torch.softmax(logits, -1) * deviation(every_token(logits))).sum(-1)
        error = max(error, expectation.abs().max().item())
    return {"expectation": error}


def monotone_dose(m: Measurement) -> dict[str, float]:
    """C9: on a fixed batch, a larger mu never drops more."""
    stats, advantages, mask = synthetic_batch(m.seed)
    grid = [0.25 * k for k in range(1, 41)]
    b = [clip_b_mask(stats, advantages, mask, mu=mu).metrics["frac_clipped"] for mu in grid]
    v = [clip_v_mask(stats, advantages, mask, mu=mu, max_fraction=1.0).metrics["frac_clipped"] for mu in grid]
    return {
        "increase_b": max(after - before for before, after in pairwise(b)),
        "increase_v": max(after - before for before, after in pairwise(v)),
        "span_b": b[0] - b[-1],
        "span_v": v[0] - v[-1],
    }


def synthetic_batch(
    seed: int, *, rows: int = 64, length: int = 32, size: int = 30
) -> tuple[TokenStats, Tensor, Tensor]:
    """An on-policy batch of random states, from nearly deterministic to nearly uniform, with ragged lengths."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(rows, length, 1, generator=generator, dtype=torch.float64) * 6
    logits = torch.randn(rows, length, size, generator=generator, dtype=torch.float64) * scale
    tokens = torch.multinomial(torch.softmax(logits, -1).flatten(0, 1), 1, generator=generator).view(rows, length)
    lengths = torch.randint(length // 2, length + 1, (rows,), generator=generator)
    mask = torch.arange(length) < lengths[:, None]
    advantages = torch.randn(rows, 1, generator=generator, dtype=torch.float64).expand(rows, length)
    return token_stats(logits, tokens, stats=ALL, mask=mask), advantages, mask


def covariance_law(m: Measurement) -> dict[str, float]:
    """C11: sum_k p_k A_k D_k = Cov_p(log p, p A) for advantages that p centres."""
    generator = torch.Generator().manual_seed(m.seed)
    error = 0.0
    for logits in random_logits(m.seed):
        p, log_p = torch.softmax(logits, -1), torch.log_softmax(logits, -1)
        advantages = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        advantages = advantages - (p * advantages).sum(-1, keepdim=True)
        ours = (p * advantages * deviation(every_token(logits))).sum(-1)
        product = p * advantages
        covariance = (p * log_p * product).sum(-1) - (p * log_p).sum(-1) * (p * product).sum(-1)
        error = max(error, (ours - covariance).abs().max().item())
    return {"error": error}
