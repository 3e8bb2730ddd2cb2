"""Measurements of the exact claims: enumeration against closed forms, brute force and cases worked out by hand."""

import math
import warnings
from functools import partial
from itertools import product

import torch
from torch import Tensor

from corollary.papers import Measurement
from corollary.rl import GRPO, GRPOConfig, group_advantages
from corollary_adora import code_cases
from corollary_adora.algorithms import Adora, AdoraAlgorithmConfig
from corollary_adora.bandit import (
    LENGTHS,
    RIGHT,
    attenuation,
    closed_form,
    composition_probabilities,
    drift,
    enumerate_groups,
    mean_advantages,
    policy_gradient,
)
from corollary_adora.label_noise import difficulty_flip, four_kinds, lengths_without_signal, simulated_flip
from corollary_adora.rule import AdoraConfig, adora_weights
from corollary_adora.weighting import weighted_advantages

INSTANCE = torch.tensor([[0.3, 0.1, 0.4, 0.2]], dtype=torch.float64)
"""Where the figures of the README come from."""
WEIGHTS = (0.0, 0.1, 0.5)
SIZES = (2, 3, 4, 5)
GRID = 500
PAIRS = 10_000
"""Pairs of groups behind each simulated probability: a standard error of at most 0.005."""
SUCCESS = (0.25, 0.5, 0.75)
GROUP_SIZES = (4, 8, 16)


def random_policies(seed: int, count: int = GRID) -> Tensor:
    """Uniform points of the simplex of the four kinds, ``(count, 4)``."""
    exponential = -torch.rand(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log()
    return exponential / exponential.sum(-1, keepdim=True)


def brute_force(p: list[float], size: int, weight: float) -> list[float]:
    """Mean weighted advantage of each kind by a sum over all ordered groups, in plain Python and by the definitions."""
    total = [0.0] * 4
    for kinds in product(range(4), repeat=size):
        right = [kind < 2 for kind in kinds]
        if len(set(right)) == 1:
            continue
        mean = sum(right) / size
        deviation = math.sqrt(sum((r - mean) ** 2 for r in right) / (size - 1))
        longest = max(kind % 2 for kind in kinds if kind < 2)
        failures = [kind % 2 for kind in kinds if kind >= 2]
        w = 1.0 if longest > sum(failures) / len(failures) else weight
        # The first response is the one whose kind is given.
        others = math.prod(p[kind] for kind in kinds[1:])
        total[kinds[0]] += others * w * (right[0] - mean) / deviation
    return total


def enumeration(m: Measurement) -> dict[str, float]:
    """C5: closed form, enumeration, and what the weight does to lengths."""
    p = random_policies(m.seed)
    pairs, brute = 0.0, 0.0
    advantage_gap, covariance_gap, softmax_down = math.inf, math.inf, []
    for size in SIZES:
        grpo = mean_advantages(enumerate_groups(size, attenuation(1.0)), p)
        for weight in WEIGHTS:
            ours = mean_advantages(enumerate_groups(size, attenuation(weight)), p)
            if size == 2:
                pairs = max(pairs, (ours - closed_form(p, weight)).abs().max().item())
            else:
                for row in range(3):
                    expected = torch.tensor(brute_force(p[row].tolist(), size, weight), dtype=torch.float64)
                    brute = max(brute, (ours[row] - expected).abs().max().item())
            more = ours - grpo
            # Long against short among the right ones, and among the wrong ones.
            preference = torch.stack([more[:, 1] - more[:, 0], more[:, 3] - more[:, 2]])
            advantage_gap = min(advantage_gap, preference.min().item())
            centred = LENGTHS - (p * LENGTHS).sum(-1, keepdim=True)
            covariance_gap = min(covariance_gap, (p * centred * more).sum(-1).min().item())
            softmax_down.append(drift(LENGTHS, policy_gradient(more, p), p) < 0)
    return {
        "pairs": pairs,
        "brute": brute,
        "preference": advantage_gap,
        "covariance": covariance_gap,
        "softmax_down": torch.cat(softmax_down).double().mean().item(),
    }


def not_a_factor(m: Measurement) -> dict[str, float]:
    """C5, bias: a constant weight scales GRPO, and ADORA's weight does not even keep the sign of its drift."""
    rewards = torch.randn(64, generator=torch.Generator().manual_seed(m.seed), dtype=torch.float64)
    lengths, group_ids = torch.arange(1, 65), torch.arange(64) % 8
    constant = partial(adora_weights, config=AdoraConfig(w_tas=0.3, w_tds=0.3, correct_threshold=0.0))
    scaled = weighted_advantages(rewards, lengths, group_ids, weighting=constant)
    difference = scaled - 0.3 * group_advantages(rewards, group_ids)

    groups = enumerate_groups(5, attenuation(0.1))
    plain = mean_advantages(enumerate_groups(5, attenuation(1.0)), INSTANCE)
    gradient = policy_gradient(mean_advantages(groups, INSTANCE), INSTANCE)
    product_of_means = (composition_probabilities(groups.counts, INSTANCE) @ groups.weights)[:, None] * (
        policy_gradient(plain, INSTANCE)
    )
    return {
        "constant": difference.abs().max().item(),
        "gap": ((gradient - product_of_means).norm() / product_of_means.norm()).item(),
        "drift_of_product": drift(LENGTHS, product_of_means, INSTANCE).item(),
        "drift": drift(LENGTHS, gradient, INSTANCE).item(),
        "accuracy_of_product": drift(RIGHT, product_of_means, INSTANCE).item(),
        "accuracy": drift(RIGHT, gradient, INSTANCE).item(),
    }


def label_noise(m: Measurement) -> dict[str, float]:
    """C8: probability that a label flips, by formula (DA) and by simulation (LA)."""
    generator = torch.Generator().manual_seed(m.seed)
    da, la = AdoraConfig(criteria="difficulty", max_length=None), AdoraConfig(max_length=None)
    values, z_difficulty, z_length = {}, 0.0, 0.0
    for success, size in product(SUCCESS, GROUP_SIZES):
        sampler = lengths_without_signal(success)
        exact = difficulty_flip(success, size)
        drawn = simulated_flip(sampler, size, config=da, pairs=PAIRS, generator=generator)
        z_difficulty = max(z_difficulty, _z(drawn, exact))
        values[f"da {success} {size}"] = exact
        values[f"la {success} {size}"] = simulated_flip(sampler, size, config=la, pairs=PAIRS, generator=generator)
    for size in SIZES:
        groups = enumerate_groups(size, attenuation(0.0))
        q = (composition_probabilities(groups.counts, INSTANCE) @ groups.weights).item()
        sampler = four_kinds(INSTANCE[0], RIGHT, LENGTHS)
        drawn = simulated_flip(sampler, size, config=la, pairs=PAIRS, generator=generator)
        z_length = max(z_length, _z(drawn, 2 * q * (1 - q)))
    return {"z_difficulty": z_difficulty, "z_length": z_length, **values}


def _z(share: float, probability: float) -> float:
    return abs(share - probability) / math.sqrt(probability * (1 - probability) / PAIRS)


def published_cases(m: Measurement) -> dict[str, float]:
    """C9: our weights, and the advantages of the algorithm on padded rollouts, against cases worked out by hand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # groups of one are among the cases
        wrong = {}
        for preset, cases in (("llm_2025", code_cases.LLM), ("vl", code_cases.VL)):
            batch = code_cases.flat(cases)
            weights = adora_weights(batch.scores, batch.lengths, batch.group_ids, config=getattr(AdoraConfig, preset)())
            rollouts = code_cases.rollouts(batch)
            advantages = Adora(AdoraAlgorithmConfig(preset=preset)).advantages(rollouts)
            expected = GRPO(GRPOConfig()).advantages(rollouts) * batch.weights
            wrong[f"{preset}: weights"] = float((weights != batch.weights).sum())
            wrong[f"{preset}: advantages"] = float((advantages != expected).sum())
        one = code_cases.rollouts(code_cases.flat([code_cases.HAND]))
        ours = Adora(AdoraAlgorithmConfig(advantage_eps=0.0)).advantages(one)
    by_hand = torch.tensor(code_cases.HAND_ADVANTAGES, dtype=torch.float64)
    return {**wrong, "by_hand": (ours.sort().values - by_hand.sort().values).abs().max().item()}
