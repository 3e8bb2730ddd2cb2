import math

import pytest
import torch

from corollary.kernels import token_stats
from corollary.rl import (
    GRPO,
    AdaptiveEntropyBonus,
    AdaptiveEntropyBonusConfig,
    EntropyBonus,
    EntropyBonusConfig,
    aggregate,
    entropy_estimate,
    make_algorithm,
    next_coefficient,
)
from corollary.rl.baselines import adaptive_entropy_bonus, entropy_bonus

TOKENS = torch.tensor([[0, 3, 2], [4, 1, 0]])
MASK = [[1, 1, 1], [1, 1, 0]]


def logits():
    return 2 * torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def loss_of(algorithm, hand_made, z):
    """The mini-batch's loss as a function of the logits."""
    old = torch.log_softmax(logits() * 0.9, -1).gather(-1, TOKENS[..., None]).squeeze(-1)
    batch = hand_made(old.tolist(), advantages=[[1.0] * 3, [-2.0] * 3], mask=MASK)
    stats = token_stats(z, TOKENS, stats=("log_prob", "entropy"), mask=batch.mask)
    return aggregate(algorithm.token_loss(batch, stats), batch.mask)


def reference_bonus(z, coefficient):
    """The coefficient times the mean entropy of the five valid tokens, written out."""
    p = z.softmax(-1)
    entropies = -(p * p.log()).sum(-1)
    return coefficient * (entropies * torch.tensor(MASK)).sum() / 5


def check_gradient(hand_made):
    z, eps = logits().requires_grad_(), 1e-6
    loss = loss_of(EntropyBonus(EntropyBonusConfig(coefficient=0.3)), hand_made, z)
    (gradient,) = torch.autograd.grad(loss, z)
    expected = torch.zeros_like(z)
    with torch.no_grad():
        for i in range(z.numel()):
            step = torch.zeros(z.numel(), dtype=z.dtype)
            step[i] = eps
            up, down = (
                loss_of(GRPO(), hand_made, z + sign * step.view(z.shape))
                - reference_bonus(z + sign * step.view(z.shape), 0.3)
                for sign in (1, -1)
            )
            expected.view(-1)[i] = (up - down) / (2 * eps)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_the_bonus_is_that_of_finite_differences(hand_made):
    check_gradient(hand_made)


def check_closed_form(hand_made):
    # dH/dz_j = -p_j (log p_j + H): what the bonus adds to GRPO's gradient, 1/5 of it a valid token.
    z = logits().requires_grad_()
    with_bonus, without = (
        torch.autograd.grad(loss_of(algorithm, hand_made, z), z)[0]
        for algorithm in (EntropyBonus(EntropyBonusConfig(coefficient=0.3)), GRPO())
    )
    p = z.detach().softmax(-1)
    entropy = -(p * p.log()).sum(-1, keepdim=True)
    added = 0.3 / 5 * p * (p.log() + entropy) * torch.tensor(MASK)[..., None]
    torch.testing.assert_close(with_bonus - without, added, rtol=1e-9, atol=1e-12)


def test_the_bonus_adds_the_entropys_gradient(hand_made):
    check_closed_form(hand_made)


def test_on_policy_the_sampled_estimate_has_no_gradient_on_average():
    # E_k[grad(-log p_k)] = 0, whereas the entropy's gradient is not: a bonus on it would be noise.
    z = logits()[0, 0].requires_grad_()
    p = z.detach().softmax(-1)
    mean = torch.zeros(5, dtype=torch.float64)
    for k in range(5):
        stats = token_stats(z[None], torch.tensor([k]), stats=("log_prob", "entropy"))
        (gradient,) = torch.autograd.grad(entropy_estimate(stats, "sampled").sum(), z, retain_graph=True)
        mean += p[k] * gradient
    assert mean.abs().max() < 1e-12
    (analytic,) = torch.autograd.grad(entropy_estimate(stats).sum(), z)
    assert analytic.abs().max() > 1e-2


def test_a_coefficient_of_zero_is_grpo_to_the_bit(easy_trainer):
    runs = [easy_trainer(a) for a in (EntropyBonus(EntropyBonusConfig(coefficient=0.0)), GRPO())]
    for run in runs:
        run.step()
    assert all(torch.equal(a, b) for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True))


def test_the_bonus_raises_the_entropy(easy_trainer):
    means = []
    for coefficient in (0.0, 1.0):
        run = easy_trainer(EntropyBonus(EntropyBonusConfig(coefficient=coefficient)))
        means.append([run.step() for _ in range(5)][-1]["policy/entropy"])
    assert means[1] > means[0] + 0.05


def check_controller():
    move = {"step": 0.25, "minimum": 0.0, "maximum": 0.5}
    assert adaptive_entropy_bonus.next_coefficient(0.25, 0.1, 0.2, **move) == 0.5
    assert adaptive_entropy_bonus.next_coefficient(0.25, 0.3, 0.2, **move) == 0.0
    assert adaptive_entropy_bonus.next_coefficient(0.25, 0.2, 0.2, **move) == 0.25
    assert adaptive_entropy_bonus.next_coefficient(0.5, 0.1, 0.2, **move) == 0.5
    assert adaptive_entropy_bonus.next_coefficient(0.0, 0.3, 0.2, **move) == 0.0


def test_the_coefficient_goes_up_below_the_target_and_down_above_within_its_bounds():
    check_controller()


def check_gate(hand_made):
    """Three batches, with mean entropies over the valid tokens below, at and above the target of 0.2."""
    algorithm = AdaptiveEntropyBonus(AdaptiveEntropyBonusConfig(initial=0.5, step=0.25))
    seen = []
    for entropy in (0.1, 0.2, 0.3):
        batch = hand_made([[-1.0, -1.0]], advantages=[[0.0, 0.0]], mask=[[1, 0]], entropy=[[entropy, 9.0]])
        prepared = algorithm.prepare(batch)
        loss = algorithm.token_loss(prepared, batch.behaviour)
        seen.append((prepared.metrics["entropy_bonus/coefficient"], -loss[0, 0].item() / entropy))
        assert seen[-1][0] == pytest.approx(seen[-1][1])
    assert [applied for applied, _ in seen] == [0.5, 0.75, 0.0]
    assert algorithm.coefficient == 0.5


def test_the_bonus_is_off_above_the_target(hand_made):
    check_gate(hand_made)


def test_the_coefficient_is_part_of_the_checkpoint(easy_trainer, tmp_path):
    def algorithm():
        return AdaptiveEntropyBonus(AdaptiveEntropyBonusConfig(target=2.63, initial=0.05, step=0.05))

    whole = easy_trainer(algorithm(), steps=4)
    whole.train()
    easy_trainer(algorithm(), steps=2, directory=tmp_path).train()
    resumed = easy_trainer(algorithm(), steps=4, directory=tmp_path)
    resumed.train()
    assert resumed.algorithm.coefficient == whole.algorithm.coefficient > 0.05
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"the state must hold 'coefficient' alone, got \['beta'\]"):
        algorithm().load_state_dict({"beta": 1.0})


def test_all_ranks_see_the_entropy_of_all(hand_made, monkeypatch):
    algorithm = AdaptiveEntropyBonus(AdaptiveEntropyBonusConfig(initial=0.5))
    algorithm.process_group = object()
    monkeypatch.setattr("torch.distributed.all_reduce", lambda total, group: total.add_(torch.tensor([8.0, 2.0])))
    batch = hand_made([[-1.0]], advantages=[[0.0]], entropy=[[0.1]])
    assert algorithm.prepare(batch).metrics["entropy_bonus/coefficient"] == 0.0


@pytest.mark.parametrize("estimator", ["analytic", "sampled"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_micro_batches_do_not_matter(easy_trainer, estimator, adaptive):
    def algorithm():
        if adaptive:
            return AdaptiveEntropyBonus(AdaptiveEntropyBonusConfig(target=2.63, initial=0.1))
        return EntropyBonus(EntropyBonusConfig(coefficient=0.1, estimator=estimator))

    trained = []
    for size in (None, 1, 5):
        run = easy_trainer(algorithm(), micro_batch_size=size)
        run.train()
        trained.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    torch.testing.assert_close(trained[1], trained[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(trained[2], trained[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("entropy-bonus", {"coefficient": math.inf}, "coefficient must be finite, got inf"),
        ("entropy-bonus", {"estimator": "mc"}, "estimator must be one of .*, got 'mc'"),
        ("entropy-bonus-adaptive", {"target": -0.1}, "target must be finite and at least 0, got -0.1"),
        ("entropy-bonus-adaptive", {"step": 0.0}, "step must be finite and larger than 0, got 0.0"),
        ("entropy-bonus-adaptive", {"initial": 2.0}, "minimum <= initial <= maximum must hold, got 0.0, 2.0 and 1.0"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm(name, **options)


def test_planted_bugs_are_found(monkeypatch, hand_made):
    true = next_coefficient

    def sampled(stats, estimator="analytic"):
        return -stats.log_prob

    def without_gradient(stats, estimator="analytic"):
        return stats.entropy.detach()

    def penalty(stats, estimator="analytic"):
        return -stats.entropy

    def wrong_way(coefficient, entropy, target, **options):
        return true(coefficient, target, entropy, **options)

    def unbounded(coefficient, entropy, target, *, step, minimum, maximum):
        return coefficient + step * ((entropy < target) - (entropy > target))

    def whole_batch_mean(values, mask, **options):
        return values.mean()

    bugs = [
        *((entropy_bonus, "entropy_estimate", bug, check_gradient) for bug in (sampled, without_gradient, penalty)),
        *((entropy_bonus, "entropy_estimate", bug, check_closed_form) for bug in (sampled, without_gradient, penalty)),
        (adaptive_entropy_bonus, "next_coefficient", wrong_way, lambda _: check_controller()),
        (adaptive_entropy_bonus, "next_coefficient", unbounded, lambda _: check_controller()),
        (adaptive_entropy_bonus, "next_coefficient", wrong_way, check_gate),
        (adaptive_entropy_bonus, "masked_mean", whole_batch_mean, check_gate),
    ]
    for module, name, bug, check in bugs:
        check(hand_made)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, bug)
            with pytest.raises((AssertionError, AttributeError)):
                check(hand_made)
