"""Measurements of the exact claims, in float64: against central differences and closed forms."""

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.papers import Measurement
from corollary.rl import Batch, aggregate, clipped_surrogate
from corollary_steer.algorithms import Steer, SteerConfig
from corollary_steer.entropy_change import Form, entropy_change, entropy_gradient, quadrant_masks
from corollary_steer.loss import SteerLoss
from corollary_steer.synthetic import TokenQuantities, synthetic_batch
from corollary_steer.weights import steer_weights
from corollary_steer.worlds import (
    all_logits,
    draw_samples,
    every_token,
    own_logits,
    random_logits,
    slope,
    stepped,
)

VOCABULARIES = (2, 3, 5, 10, 20, 40)
PER_VOCABULARY = 50
"""300 random softmaxes in all."""
FORMS: tuple[Form, ...] = get_args(Form)


def random_states(seed: int) -> list[Tensor]:
    """Random logits of each vocabulary, ``(50, V)``."""
    generator = torch.Generator().manual_seed(seed)
    return [random_logits(PER_VOCABULARY, size, generator) for size in VOCABULARIES]


def on_policy_change(stats: TokenStats, form: Form) -> Tensor:
    """Omega of each token for advantage 1 and ratio 1."""
    log_probs, entropy, sum_p2, sum_p2_log_p = stats.required("log_prob", "entropy", "sum_p2", "sum_p2_log_p")
    ones = torch.ones_like(log_probs)
    return entropy_change(
        ones,
        entropy,
        log_probs,
        log_probs,
        form=form,
        sum_p2=sum_p2,
        sum_p2_log_p=sum_p2_log_p,
    )


def identities(m: Measurement) -> dict[str, float]:
    """C1: the building blocks, and the two worlds' first-order changes, against central differences."""
    errors = dict.fromkeys(("gradient", "assumption", "softmax", "released"), 0.0)
    for logits in random_states(m.seed):
        stats = every_token(logits)
        log_probs, entropy = stats.required("log_prob", "entropy")
        unit = torch.eye(logits.shape[1], dtype=logits.dtype).expand(len(logits), -1, -1)
        compared = {
            "gradient": (slope(logits, unit), entropy_gradient(log_probs, entropy)),
            "assumption": (slope(logits, own_logits(logits)), on_policy_change(stats, "ratio")),
            "softmax": (slope(logits, all_logits(logits)), on_policy_change(stats, "exact")),
            "released": (
                slope(logits, own_logits(logits)),
                log_probs.exp().clamp(1e-8, 1) * on_policy_change(stats, "released"),
            ),
        }
        for name, (truth, ours) in compared.items():
            errors[name] = max(errors[name], (truth - ours).abs().max().item())
    return errors


def first_order(m: Measurement) -> dict[str, float]:
    """C2: one GRPO step in the Assumption-1 world, with ratios away from 1 and some of them clipped."""
    samples = draw_samples(m.seed, states=500, size=20, drift=0.2)
    log_probs, entropy = samples.stats.required("log_prob", "entropy")
    directions = own_logits(samples.logits)
    predicted = {
        form: entropy_change(
            samples.advantages,
            entropy,
            samples.log_probs_old,
            log_probs,
            form=form,
            use_clip_indicator=True,
        ).sum(1)
        for form in ("released", "ratio")
    }
    residual = {}
    for step in (2e-3, 1e-3):
        actual = stepped(samples, directions, step)
        residual[step] = (actual - step * predicted["ratio"]).square().sum().sqrt().item()
    actual = stepped(samples, directions, 0.02)
    return {
        "order_error": abs(residual[2e-3] / residual[1e-3] - 4),
        "pearson_ratio": correlation(predicted["ratio"], actual),
        "pearson_released": correlation(predicted["released"], actual),
    }


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's."""
    return float(np.corrcoef(a.numpy(), b.numpy())[0, 1])


def quadrants(m: Measurement) -> dict[str, float]:
    """C4: signs of the true slope in the Assumption-1 world, for every token and both signs of the advantage."""
    generator = torch.Generator().manual_seed(m.seed)
    violations, estimate, agreement = 0, 0, []
    for logits in random_states(m.seed):
        stats = every_token(logits)
        log_probs, entropy = stats.required("log_prob", "entropy")
        truth = slope(logits, own_logits(logits))
        # Central differences are good to about 1e-10; below that a sign means nothing.
        decided = truth.abs() > 1e-8
        for sign in (1.0, -1.0):
            advantages = torch.full_like(log_probs, sign)
            up, down = directions_of(advantages, log_probs, entropy)
            violations += int((decided & (up != (sign * truth > 0))).sum())
            violations += int((decided & (down != (sign * truth < 0))).sum())
            for form in ("released", "ratio"):
                omega = entropy_change(advantages, entropy, log_probs, log_probs, form=form)
                estimate += int((decided & (omega.sign() != (sign * truth).sign())).sum())
        drawn = torch.multinomial(log_probs.exp(), 20, replacement=True, generator=generator)
        whole = slope(logits, all_logits(logits))
        up, _ = directions_of(torch.ones_like(log_probs), log_probs, entropy)
        agreement.append(((whole > 0) == up).gather(1, drawn).double().mean().item())
    return {
        "violations": float(violations),
        "estimate_violations": float(estimate),
        "softmax_agreement": float(np.mean(agreement)),
    }


def directions_of(advantages: Tensor, log_probs: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens whose quadrant raises the entropy, and those whose quadrant lowers it."""
    q = quadrant_masks(advantages, log_probs, entropy)
    return q.positive_improbable | q.negative_probable, q.positive_probable | q.negative_improbable


def vanishing(m: Measurement) -> dict[str, float]:
    """C5: no change on uniform distributions, nor where the token is certain."""
    uniform = [every_token(torch.zeros(1, size, dtype=torch.float64)) for size in VOCABULARIES]
    certain = []
    for size in VOCABULARIES:
        logits = torch.zeros(1, size, dtype=torch.float64)
        logits[0, 0] = 25.0
        certain.append(TokenStats(*(None if x is None else x[:, :1] for x in every_token(logits))))
    return {
        f"{name}_{form}": max(on_policy_change(stats, form).abs().max().item() for stats in cases)
        for name, cases in (("uniform", uniform), ("certain", certain))
        for form in FORMS
    }


# Four tokens worked out by hand. With log x + H = 1, f = x (1 - x): 1/4, 1/4 and 4/25; |Omega| = 1, 1/2, 0, 2/5.
BY_HAND = TokenQuantities(
    advantages=torch.tensor([[1.0, -1.0, 0.0, 2.0]], dtype=torch.float64),
    entropy=1 - torch.tensor([[0.5, 0.5, math.e, 0.2]], dtype=torch.float64).log(),
    log_probs_old=torch.tensor([[0.25, 0.5, 0.5, 0.8]], dtype=torch.float64).log(),
    log_probs=torch.tensor([[0.5, 0.5, 0.5, 0.2]], dtype=torch.float64).log(),
)
BY_HAND_EXPONENTIAL = torch.tensor([[0.7, 0.7**0.5, 1.0, 0.7**0.4]], dtype=torch.float64)
BY_HAND_LINEAR = torch.tensor([[0.8, 1.0, 1.2, 1.04]], dtype=torch.float64)


def weight_properties(m: Measurement) -> dict[str, float]:
    """C6: what Eq. 9 promises, on a batch with ragged rows, whose padding holds larger changes than its tokens."""
    batch = synthetic_batch(m.seed)
    tokens, valid, lam = batch.tokens, batch.mask, 0.7
    drifting = tokens._replace(log_probs=tokens.log_probs.clone().requires_grad_())
    result = steer_weights(*drifting, valid, lambda_min=lam).weights
    weights = result.detach()
    omega = np.abs(released_by_definition(tokens))
    w, change = weights[valid].numpy(), omega[valid.numpy()]
    order = np.argsort(change)

    def scaled(factor: float) -> np.ndarray:
        times = tokens._replace(advantages=factor * tokens.advantages)
        return steer_weights(*times, valid, lambda_min=lam).weights.numpy()

    shrink = 1e-4 / change.max()
    ones = torch.ones(1, 4)
    exponential = steer_weights(*BY_HAND, ones, lambda_min=0.7).weights
    linear = steer_weights(*BY_HAND, ones, lambda_min=0.8, mapping="linear").weights
    closed = np.where(valid.numpy(), lam ** (omega / change.max()), 0.0)
    with_floor = np.where(valid.numpy(), lam ** (shrink * omega / 0.02), 0.0)
    return {
        "below": max(0.0, lam - w.min()),
        "above": max(0.0, w.max() - 1.0),
        "argmax": abs(w[order[-1]] - lam),
        "increase": max(0.0, np.diff(w[order]).max()),
        "scaling": max(np.abs(scaled(factor) - weights.numpy()).max() for factor in (2.0, 7.3)),
        "closed_form": np.abs(weights.numpy() - closed).max(),
        "floor": np.abs(scaled(shrink) - with_floor).max(),
        "padding": weights[~valid].abs().max().item(),
        "gradient": float(result.requires_grad),
        "parity_exponential": (exponential - BY_HAND_EXPONENTIAL).abs().max().item(),
        "parity_linear": (linear - BY_HAND_LINEAR).abs().max().item(),
    }


def released_by_definition(tokens: TokenQuantities) -> np.ndarray:
    """The released expression, written out a second time, in numpy."""
    advantages, entropy, old, new = (value.numpy() for value in tokens)
    x = np.exp(new)
    return -advantages / np.exp(old) * x * (1 - x) * (np.log(x) + entropy)


def weighted_loss(m: Measurement) -> dict[str, float]:
    """C6-loss: where the weights enter the loss, whose entropy they use, and what their maximum is over."""
    batch = synthetic_batch(m.seed)
    tokens, valid, count = batch.tokens, batch.mask.numpy(), batch.mask.sum().item()
    omega = np.abs(released_by_definition(tokens))
    w = 0.7 ** (omega / max(omega[valid].max(), 0.02))
    advantages, ratio = tokens.advantages.numpy(), np.exp((tokens.log_probs - tokens.log_probs_old).numpy())
    free, held = -advantages * ratio, -advantages * np.clip(ratio, 0.8, 1.28)
    loss = np.maximum(free, held)
    loss = np.where(advantages < 0, np.minimum(loss, -10 * advantages), loss)
    flat = (held > free) | ((advantages < 0) & (ratio > 10))
    expected = np.where(valid & ~flat, w * free / count, 0.0)

    log_probs = tokens.log_probs.clone().requires_grad_()
    ours = SteerLoss()(log_probs, tokens.log_probs_old, tokens.advantages, batch.mask, tokens.entropy).loss
    (gradient,) = torch.autograd.grad(ours, log_probs)
    # A trained policy whose own entropy differs: the weights must go by the behaviour policy's.
    stats = TokenStats(log_prob=tokens.log_probs, entropy=0.5 * tokens.entropy + 0.1)
    whole, parts, released = split_losses(batch.as_batch(), stats)
    return {
        "loss": abs(ours.item() - (w * loss)[valid].sum() / count),
        "gradient": np.abs(gradient.numpy() - expected).max(),
        "old_entropy": np.abs((whole.numpy() - w * loss)[valid]).max(),
        "split": (parts - whole).abs().max().item(),
        "released_split": (released - whole).abs().max().item(),
    }


def split_losses(batch: Batch, stats: TokenStats) -> tuple[Tensor, Tensor, Tensor]:
    """Token losses of a mini-batch taken whole, split in four, and split in four with the released scope."""
    everything = torch.arange(len(batch))

    def losses(algorithm: Steer, parts: Sequence[Tensor]) -> Tensor:
        prepared = algorithm.prepare_mini_batch(batch, stats)
        taken = [
            algorithm.token_loss(
                prepared.rows(part), TokenStats(*(None if value is None else value[part] for value in stats))
            )
            for part in parts
        ]
        return torch.where(batch.mask, torch.cat(taken), 0.0)

    mini, micro = Steer(SteerConfig(scope="mini")), Steer(SteerConfig(scope="micro"))
    quarters = everything.tensor_split(4)
    return losses(mini, [everything]), losses(mini, quarters), losses(micro, quarters)


def no_damping(m: Measurement) -> dict[str, float]:
    """C12: with ``lambda_min = 1`` the loss and its gradient are the base method's, to the bit."""
    batch = synthetic_batch(m.seed)
    tokens = batch.tokens
    leaf, base_leaf = (tokens.log_probs.clone().requires_grad_() for _ in range(2))
    damped = SteerLoss(SteerConfig(lambda_min=1.0))
    loss = damped(leaf, tokens.log_probs_old, tokens.advantages, batch.mask, tokens.entropy).loss
    token_loss = clipped_surrogate(
        base_leaf, tokens.log_probs_old, tokens.advantages, clip_low=0.2, clip_high=0.28, dual_clip=10.0
    )
    base = aggregate(token_loss, batch.mask, "token-mean")
    (gradient,), (base_gradient,) = torch.autograd.grad(loss, leaf), torch.autograd.grad(base, base_leaf)
    return {
        "loss": (loss - base).abs().item(),
        "gradient": (gradient - base_gradient).abs().max().item(),
    }
