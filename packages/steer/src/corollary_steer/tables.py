"""Measurements in tables of logits, without training: which estimate predicts best, and whose tail is heavy."""

import math

import torch
from scipy.stats import spearmanr
from torch import Tensor

from corollary.kernels import token_stats
from corollary.papers import Measurement
from corollary.rl import group_advantages
from corollary_steer.entropy_change import Form, entropy_change
from corollary_steer.exact import FORMS, correlation
from corollary_steer.synthetic import SyntheticBatch, TokenQuantities
from corollary_steer.weights import steer_weights
from corollary_steer.worlds import ALL, Samples, all_logits, draw_samples, random_logits, slope, stepped

TWO_FORMS: tuple[Form, Form] = ("released", "ratio")
STEP = 0.05
"""Learning rate over the number of tokens: what one sample's gradient moves a logit by, at advantage 1."""


def estimates(samples: Samples, form: Form) -> Tensor:
    """Omega of every sample, ``(n, G)``."""
    log_probs, entropy, sum_p2, sum_p2_log_p = samples.stats.required(*ALL)
    return entropy_change(
        samples.advantages,
        entropy,
        samples.log_probs_old,
        log_probs,
        form=form,
        sum_p2=sum_p2,
        sum_p2_log_p=sum_p2_log_p,
    )


def forms_in_a_softmax(m: Measurement) -> dict[str, float]:
    """C2-softmax: each form against the true first-order change of a softmax's gradient step on one drawn token."""
    generator = torch.Generator().manual_seed(m.seed)
    logits = random_logits(4000, 50, generator)
    tokens = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)
    stats = token_stats(logits[:, None], tokens, stats=ALL)
    log_probs, entropy, sum_p2, sum_p2_log_p = stats.required(*ALL)
    direction = torch.nn.functional.one_hot(tokens, 50) - torch.softmax(logits, -1)[:, None]
    truth = slope(logits, direction)[:, 0]
    pearson = {}
    for form in FORMS:
        omega = entropy_change(
            torch.ones_like(log_probs),
            entropy,
            log_probs,
            log_probs,
            form=form,
            sum_p2=sum_p2,
            sum_p2_log_p=sum_p2_log_p,
        )
        pearson[form] = correlation(omega[:, 0], truth)
    return {
        **pearson,
        "exact_minus_ratio": pearson["exact"] - pearson["ratio"],
        "ratio_minus_released": pearson["ratio"] - pearson["released"],
        "surprise": correlation(-(log_probs + entropy)[:, 0], truth),
    }


def one_step(seed: int) -> dict[str, Tensor]:
    """True and predicted entropy change of 1000 states by one GRPO step of SGD on their logits, each ``(n,)``."""
    samples = draw_samples(seed, states=1000, size=20)
    (log_probs,) = samples.stats.required("log_prob")
    advantages = samples.advantages
    covariance = -(advantages - advantages.mean()) * (log_probs - log_probs.mean())
    return {
        "truth": stepped(samples, all_logits(samples.logits), STEP),
        "covariance": STEP * covariance.sum(1),
        **{form: STEP * estimates(samples, form).sum(1) for form in FORMS},
    }


def against_the_covariance(m: Measurement) -> dict[str, float]:
    """C3: the ratio form against the covariance estimator, by correlation, rank correlation and squared error."""
    changes = one_step(m.seed)
    truth = changes.pop("truth")
    pearson = {name: correlation(value, truth) for name, value in changes.items()}
    ranks = {name: float(spearmanr(value.numpy(), truth.numpy()).statistic) for name, value in changes.items()}
    error = {name: (value - truth).square().mean().item() for name, value in changes.items()}
    return {
        "pearson_gain": pearson["ratio"] - pearson["covariance"],
        "spearman_gain": ranks["ratio"] - ranks["covariance"],
        "log_error_ratio": math.log(error["ratio"] / error["covariance"]),
        **{f"pearson_{name}": value for name, value in pearson.items()},
        **{f"error_{name}": value for name, value in error.items()},
    }


def long_tailed_batch(seed: int, *, responses: int = 256, length: int = 64, size: int = 512) -> SyntheticBatch:
    """A mini-batch of a policy with a vocabulary whose probabilities fall as a power of the rank.

    The exponent differs from state to state (uniform in [1, 4]). The trained policy has drifted a little. Each response
    has one reward, 0 or 1, normalised over groups of 8.
    """
    generator = torch.Generator().manual_seed(seed)
    count = responses * length
    exponent = 1 + 3 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    rank = torch.arange(1, size + 1, dtype=torch.float64)
    logits = -exponent * rank.log() + 0.5 * torch.randn(count, size, generator=generator, dtype=torch.float64)
    sampled = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0]
    old = token_stats(logits, sampled)
    drifted = logits + 0.05 * torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    (log_probs,) = token_stats(drifted, sampled, stats=("log_prob",)).required("log_prob")
    rewards = (torch.rand(responses, generator=generator) < 0.4).double()
    advantages = group_advantages(rewards, torch.arange(responses) // 8)
    old_log_probs, entropy = old.required("log_prob", "entropy")
    shape = (responses, length)
    tokens = TokenQuantities(
        advantages=advantages[:, None].expand(shape),
        entropy=entropy.view(shape),
        log_probs_old=old_log_probs.view(shape),
        log_probs=log_probs.view(shape),
    )
    return SyntheticBatch(tokens=tokens, mask=torch.ones(shape, dtype=torch.bool))


def tails(m: Measurement) -> dict[str, float]:
    """Tail: how heavy |Omega| is in the tail, in the released and the ratio form, and what that does to the weights."""
    batch = long_tailed_batch(m.seed)
    result: dict[str, float] = {}
    for form in TWO_FORMS:
        metrics = steer_weights(*batch.tokens, batch.mask, form=form).metrics
        result |= {
            f"{form}: max over p99": metrics["omega/max"] / metrics["omega/p99"],
            f"{form}: near one": metrics["weight/near_one"],
            f"{form}: log10 probability": math.log10(metrics["omega/argmax_prob"]),
            f"{form}: mean weight": metrics["weight/mean"],
        }
    omega = {form: entropy_change(*batch.tokens, form=form).abs().flatten().numpy() for form in TWO_FORMS}
    return {
        **result,
        "tail": result["released: max over p99"] - result["ratio: max over p99"],
        "near one": result["released: near one"] - result["ratio: near one"],
        "probability": result["ratio: log10 probability"] - result["released: log10 probability"],
        "rank correlation": float(spearmanr(omega["released"], omega["ratio"]).statistic),
    }
