"""Measurements of the exact claims: the sign proposition, gradient identities, parity with the released code's rules.

All in float64. Each compares what the package computes with something that does not use the package: a central
difference, a formula written out, or the released code's step in plain lists.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from corollary.kernels import TokenStats
from corollary.papers import Measurement
from corollary.rl import Batch, Rollouts, TrainConfig, Trainer, aggregate
from corollary.tasks import make_task
from corollary_aepo.algorithms import AEPO, AEPOConfig, mc_entropy
from corollary_aepo.drift import entropy_slope, natural_entropy_slope, reinforce_direction
from corollary_aepo.loss import aepo_loss
from corollary_aepo.mixing import implicit_alpha, mix_batch
from corollary_aepo.released_step import ReleasedController, released_step
from corollary_aepo.tabular import RemainingSum

VOCABULARIES = (2, 3, 5, 10, 20, 50)
PAIRS = 1000
"""Random (p, T) pairs of each vocabulary and side of T = 1."""
SIGN_TOLERANCE = 1e-12
"""A slope this close to 0 has no sign in float64."""
DIFFERENCE_STEP = 1e-5
SHARES = (0.9, 0.5, 0.25, 0.05)
"""Shares of correct actions in the bandits of the boundary."""
BANDIT_ACTIONS = 20
BANDITS = 4000


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy of ``softmax(logits)``, nats, straight from the definition."""
    log_p = torch.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1)


def random_policies(generator: torch.Generator, size: int, count: int = PAIRS) -> Tensor:
    """Random ``log p``, from nearly uniform to peaked, ``(count, size)`` float64."""
    scale = 0.05 + 4 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    logits = scale * torch.randn(count, size, generator=generator, dtype=torch.float64)
    return torch.log_softmax(logits, -1)


def sign_proposition(m: Measurement) -> dict[str, float]:
    """C7: the sign of the entropy change at T above, at and below 1; and where rewards take the authority away."""
    generator = torch.Generator().manual_seed(m.seed)
    wrong, neutral, slope_error = 0, 0.0, 0.0
    for size in VOCABULARIES:
        log_p = random_policies(generator, size)
        spread = torch.rand(len(log_p), 1, generator=generator, dtype=torch.float64)
        for sign, temperature in ((1, 1.05 + 4 * spread), (-1, 0.1 + 0.85 * spread)):
            direction = reinforce_direction(log_p, temperature)
            for slope in (entropy_slope(log_p, direction), natural_entropy_slope(log_p, direction)):
                wrong += int((sign * slope < -SIGN_TOLERANCE).sum())
                # A slope that vanished everywhere would be no violation, and no authority either.
                wrong += int((sign * slope > SIGN_TOLERANCE).double().mean() < 0.9)
        direction = reinforce_direction(log_p, 1.0)
        neutral = max(neutral, direction.abs().max().item(), entropy_slope(log_p, direction).abs().max().item())
        direction = reinforce_direction(log_p, 1.5)
        step = DIFFERENCE_STEP * direction
        difference = (entropy_of(log_p + step) - entropy_of(log_p - step)) / (2 * DIFFERENCE_STEP)
        slope_error = max(slope_error, (difference - entropy_slope(log_p, direction)).abs().max().item())
    values = {"wrong_signs": float(wrong), "neutral": neutral, "slope_error": slope_error}
    for share in SHARES:
        hot, one, cold = bandit_slopes(m.seed, share)
        values[f"hot_lowers_{share:g}"] = (hot < 0).double().mean().item()
        values[f"ordered_{share:g}"] = ((hot > one) & (one > cold)).double().mean().item()
        if share == min(SHARES):
            values["single_correct"] = (hot - cold).abs().max().item()
    return values


def bandit_slopes(seed: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy slopes at T = 1.2, 1 and 0.8 of random 20-action bandits with this share of correct actions."""
    generator = torch.Generator().manual_seed(seed)
    # Exponential variables, normalised, are Dirichlet(1): uniform over all policies.
    p = -torch.rand(BANDITS, BANDIT_ACTIONS, generator=generator, dtype=torch.float64).log()
    log_p = (p / p.sum(-1, keepdim=True)).log()
    correct = torch.zeros(BANDITS, BANDIT_ACTIONS, dtype=torch.bool)
    correct[:, : round(share * BANDIT_ACTIONS)] = True
    hot, one, cold = (entropy_slope(log_p, reinforce_direction(log_p, t, correct)) for t in (1.2, 1.0, 0.8))
    return hot, one, cold


def gradient_identities(m: Measurement) -> dict[str, float]:
    """C8: what the gradient of a REINFORCE sample is, what mixing amounts to, and which temperature is scored."""
    generator = torch.Generator().manual_seed(m.seed)
    return {
        "reinforce_gradient": reinforce_gradient(generator),
        "replace_mode": replace_mode(generator),
        "additive_mode": additive_mode(generator),
        **decoupled_temperatures(m.seed),
        **monte_carlo_entropy(),
    }


def random_batch(generator: torch.Generator, logits: Tensor, lengths: Tensor, *, first_group: int = 0) -> Batch:
    """Random responses in groups of 4 under a policy that sees the position only, ``logits`` ``(T, V)``."""
    length, size = logits.shape
    ids = torch.randint(size, (len(lengths), length), generator=generator)
    mask = torch.arange(length) < lengths[:, None]
    log_probs = position_log_probs(logits.detach(), ids) * mask
    rewards = (torch.rand(len(lengths), generator=generator) < 0.5).double()
    advantages = torch.randn(len(lengths), 1, generator=generator, dtype=torch.float64) * mask
    rollouts = Rollouts(
        prompt_ids=torch.zeros(len(lengths), 1, dtype=torch.int64),
        prompt_mask=torch.ones(len(lengths), 1, dtype=torch.bool),
        completion_ids=ids,
        completion_mask=mask,
        sampling_log_probs=log_probs,
        rewards=rewards,
        group_ids=first_group + torch.arange(len(lengths)) // 4,
        temperatures=torch.ones(len(lengths), dtype=torch.float64),
    )
    return Batch(rollouts=rollouts, advantages=advantages, behaviour=TokenStats(log_prob=log_probs), mask=mask)


def position_log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of tokens under one distribution a position, ``(T, V)``, ``(B, T)`` -> ``(B, T)``."""
    log_p = torch.log_softmax(logits, -1)
    return log_p[torch.arange(ids.shape[1]), ids]


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    """Derivative of a loss with respect to the logits."""
    (result,) = torch.autograd.grad(loss, logits, retain_graph=True)
    return result


def random_position_logits(generator: torch.Generator) -> Tensor:
    """Logits of 5 positions and 7 tokens that require a gradient, float64."""
    return torch.randn(5, 7, generator=generator, dtype=torch.float64).requires_grad_()


def reinforce_gradient(generator: torch.Generator) -> float:
    """(i) The clipped loss with A = 1 and old = new has the gradient of -mean log pi, which is mean (p - e_a)."""
    logits = random_position_logits(generator)
    batch = random_batch(generator, logits, torch.tensor([5, 3, 1, 4]))
    ids, mask = batch.rollouts.completion_ids, batch.mask
    log_probs = position_log_probs(logits, ids)
    loss = aepo_loss(
        log_probs, log_probs.detach(), torch.full_like(log_probs, torch.nan), mask, reinforce_mask=torch.ones(len(ids))
    )
    written_out = torch.softmax(logits.detach(), -1) - torch.nn.functional.one_hot(ids, logits.shape[1])
    expected = (written_out * mask[..., None]).sum(0) / mask.sum()
    return (gradient(loss, logits) - expected).abs().max().item()


def mixed_loss(algorithm: AEPO, batch: Batch, logits: Tensor) -> Tensor:
    """The loss of one mini-batch of all rows, as the trainer makes it."""
    stats = TokenStats(log_prob=position_log_probs(logits, batch.rollouts.completion_ids))
    return aggregate(algorithm.token_loss(batch, stats), batch.mask, algorithm.config.aggregation)


def surrogate_mean(batch: Batch, logits: Tensor) -> Tensor:
    """Token mean of -A pi / pi_old where no clip binds: GRPO's loss at the behaviour policy, written out."""
    ratio = (position_log_probs(logits, batch.rollouts.completion_ids) - batch.old_log_probs).exp()
    return -(batch.advantages * ratio * batch.mask).sum() / batch.mask.sum()


def log_prob_mean(batch: Batch, rows: Tensor, logits: Tensor) -> Tensor:
    """Mean over rows of the token mean of -log pi."""
    log_probs = position_log_probs(logits, batch.rollouts.completion_ids[rows])
    mask = batch.mask[rows]
    return (-(log_probs * mask).sum(1) / mask.sum(1)).mean()


def replace_mode(generator: torch.Generator) -> float:
    """(ii) With equal lengths, replace mode has the gradient of (1 - w) GRPO' + w REINFORCE, w = m / B."""
    logits = random_position_logits(generator)
    batch = random_batch(generator, logits, torch.full((12,), 5))
    second = random_batch(generator, logits, torch.full((8,), 5), first_group=3)
    chosen = torch.tensor([1, 2, 6])
    mixed = mix_batch(batch, second, chosen)
    w = len(chosen) / len(batch)
    rest = batch.rows(torch.arange(len(chosen), len(batch)))
    expected = (1 - w) * surrogate_mean(rest, logits) + w * log_prob_mean(second, chosen, logits)
    ours = gradient(mixed_loss(AEPO(), mixed, logits), logits)
    error = (ours - gradient(expected, logits)).abs().max().item()
    alpha = implicit_alpha(len(chosen), len(batch))
    formula = (1 - w) * (surrogate_mean(rest, logits) + alpha * log_prob_mean(second, chosen, logits))
    return max(error, (ours - gradient(formula, logits)).abs().max().item())


def additive_mode(generator: torch.Generator) -> float:
    """(ii) With any lengths, additive mode is the formula, as a batch for the trainer and as `aepo_loss`."""
    logits = random_position_logits(generator)
    batch = random_batch(generator, logits, torch.randint(1, 6, (12,), generator=generator))
    second = random_batch(generator, logits, torch.randint(1, 6, (8,), generator=generator), first_group=3)
    chosen = torch.tensor([0, 3, 4, 7])
    error = 0.0
    for alpha in (0.3, None):
        algorithm = AEPO(AEPOConfig(mode="additive", alpha=alpha))
        mixed = mix_batch(batch, second, chosen, mode="additive", alpha=alpha)
        value = implicit_alpha(len(chosen), len(batch)) if alpha is None else alpha
        formula = surrogate_mean(batch, logits) + value * log_prob_mean(second, chosen, logits)
        as_batch = mixed_loss(algorithm, mixed, logits)
        as_function = aepo_loss(
            position_log_probs(logits, mixed.rollouts.completion_ids),
            mixed.old_log_probs,
            mixed.advantages,
            mixed.mask,
            reinforce_mask=torch.arange(len(mixed)) < len(chosen),
            alpha=value,
        )
        for loss in (as_batch, as_function):
            error = max(error, (loss - formula).abs().item())
            error = max(error, (gradient(loss, logits) - gradient(formula, logits)).abs().max().item())
    return error


class Watched(AEPO):
    """AEPO that keeps the last batch it prepared, and what came out."""

    seen: Batch
    mixed: Batch

    def prepare(self, batch: Batch) -> Batch:
        """AEPO's."""
        self.seen = batch
        self.mixed = super().prepare(batch)
        return self.mixed


def decoupled_temperatures(seed: int) -> dict[str, float]:
    """(iii) The second sample is drawn at T and scored at 1, in whole groups that are not the batch's."""
    policy = RemainingSum().double()
    generator = torch.Generator().manual_seed(seed)
    policy.table.data.normal_(0, 1.5, generator=generator)
    table = policy.table.detach().clone()
    algorithm = Watched(AEPOConfig(target=1.0, select="reward", threshold=0.0))
    # 7 prompts of 3 responses: a quarter of the rows would cut the second group.
    config = TrainConfig(steps=1, prompts_per_step=7, group_size=3, mini_batches=1, learning_rate=1e-3)
    Trainer(policy, make_task("digit-sum"), algorithm, config, seed=seed).step()
    second = algorithm.seen.extra
    if second is None:
        raise RuntimeError("the trainer gave no second sample")
    rollouts = second.rollouts
    targets = 10 * rollouts.prompt_ids[:, 1] + rollouts.prompt_ids[:, 2]
    logits = table[torch.arange(6), policy.memory(targets, rollouts.completion_ids)[:, :-1]]
    errors = {}
    for name, temperature, given in (
        ("scored_at_1", 1.0, second.old_log_probs),
        ("sampled_at_t", 1.2, rollouts.sampling_log_probs),
    ):
        log_p = torch.log_softmax(logits / temperature, -1).gather(-1, rollouts.completion_ids[..., None])[..., 0]
        errors[name] = (given.double() - log_p).abs().max().item()
    sizes = rollouts.group_ids.unique(return_counts=True)[1]
    shared = torch.isin(rollouts.group_ids, algorithm.seen.rollouts.group_ids).sum()
    return {**errors, "split_groups": float((sizes != 3).sum() + (len(sizes) != 1)), "shared_groups": float(shared)}


def monte_carlo_entropy() -> dict[str, float]:
    """(iv) The Monte-Carlo entropy over a sample with exactly the policy's frequencies, and over mixed ones."""
    # At temperature 2 the odds are the square roots of 16 : 4 : 4 : 1, at 1/2 their squares: whole numbers all.
    odds = torch.tensor([16, 4, 4, 1])
    log_p = (odds.double() / odds.sum()).log()

    def estimate(*counts: Tensor) -> float:
        actions = torch.cat([torch.repeat_interleave(torch.arange(4), count) for count in counts])
        total, count = mc_entropy(log_p[actions][:, None], torch.ones(len(actions), 1, dtype=torch.bool))
        return (total / count).item()

    entropy = entropy_of(log_p).item()
    return {
        "mc_bias": abs(estimate(odds) - entropy),
        "mc_hot": estimate(odds, torch.tensor([4, 2, 2, 1])) - entropy,
        "mc_cold": estimate(odds, odds**2) - entropy,
    }


def released_rules(m: Measurement) -> dict[str, float]:
    """C10: thirty scripted steps of AEPO against the released code's rules in plain lists.

    Returns:
        Numbers of steps (of 30 times two settings) that differ in temperature, rows, advantages or order.
    """
    generator = torch.Generator().manual_seed(m.seed)
    logits = random_position_logits(generator)
    differences = {"temperature": 0, "rows": 0, "advantages": 0, "heating": 0, "cooling": 0}
    for number in (3, 60):
        algorithm = AEPO(AEPOConfig(target=0.5, reinforce_num=number, placement="front"))
        reference = ReleasedController(target=0.5, t_high=1.2, t_low=0.8)
        for step in range(30):
            batch = random_batch(generator, logits, torch.full((64,), 5))
            second = random_batch(generator, logits, torch.full((16,), 5), first_group=16)
            temperature = algorithm.extra_rollouts(step).temperature
            differences["temperature"] += temperature != reference.temperature()
            second = replace(
                second, rollouts=replace(second.rollouts, temperatures=torch.full((16,), temperature).double())
            )
            mixed = algorithm.prepare(replace(batch, extra=second))
            rows, advantages = released_step(
                batch.advantages[:, 0].tolist(), second.advantages[:, 0].tolist(), number, reference
            )
            ids = {"grpo": batch.rollouts.completion_ids, "second": second.rollouts.completion_ids}
            expected = torch.stack([ids[sample][row] for sample, row in rows])
            differences["rows"] += not (mixed.in_order and torch.equal(mixed.rollouts.completion_ids, expected))
            wanted = torch.tensor(advantages, dtype=torch.float64)[:, None].expand(-1, 5)
            differences["advantages"] += not torch.equal(mixed.advantages, wanted)
            differences["cooling" if reference.cooling() else "heating"] += 1
            entropy = 0.5 if step == 7 else torch.rand((), generator=generator).item()  # equality heats
            algorithm.observe({"aepo/entropy": entropy, "policy/entropy": math.nan})
            reference.entropy = entropy
    return {name: float(count) for name, count in differences.items()}
