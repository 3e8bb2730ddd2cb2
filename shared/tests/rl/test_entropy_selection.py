"""The two baselines that look at the entropy of a token: 80/20 and the entropy-based advantage."""

import math

import pytest
import torch

from corollary.kernels import TokenStats
from corollary.rl import (
    GRPO,
    EntropyAdvantage,
    EntropyAdvantageConfig,
    ForkingTokens,
    ForkingTokensConfig,
    entropy_advantages,
    make_algorithm,
)
from corollary.rl.baselines import entropy_advantage, forking_tokens

ENTROPY = [[0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.7, 0.8, 0.9, 1.0, 9.0]]
MASK = [[1] * 6, [1, 1, 1, 1, 1, 0]]


def t(values):
    return torch.tensor(values, dtype=torch.float64)


def check_quantile():
    # Eleven valid entropies 0.0, 0.1, ..., 1.0: the 0.8 quantile is exactly 0.8, and >= keeps it.
    found = forking_tokens.high_entropy_tokens(t(ENTROPY), t(MASK), fraction=0.2)
    assert found.threshold == pytest.approx(0.8)
    assert found.tokens.tolist() == [[False] * 6, [False, False, True, True, True, False]]


def test_the_quantile_of_eleven_tokens_worked_out_by_hand():
    check_quantile()


@pytest.mark.parametrize("fraction", [0.05, 0.2, 1 / 3, 0.9, 1.0])
def test_the_quantile_is_that_of_torch(fraction):
    generator = torch.Generator().manual_seed(0)
    entropy = torch.rand(9, 7, dtype=torch.float64, generator=generator)
    mask = torch.rand(9, 7, generator=generator) < 0.7
    found = forking_tokens.high_entropy_tokens(entropy, mask, fraction=fraction)
    expected = torch.quantile(entropy[mask], 1 - fraction)
    assert found.threshold == pytest.approx(expected.item(), abs=1e-15)
    assert found.tokens.sum() / mask.sum() == pytest.approx(fraction, abs=1 / mask.sum().item())


def test_one_token_and_none():
    assert forking_tokens.high_entropy_tokens(t([[0.3]]), t([[1]])).tokens.tolist() == [[True]]
    nothing = forking_tokens.high_entropy_tokens(t([[0.3]]), t([[0]]))
    assert nothing.tokens.tolist() == [[False]]
    assert math.isnan(nothing.threshold)


def check_forking_loss(hand_made):
    """Only the three uncertain tokens have a loss; the normaliser stays eleven tokens."""
    algorithm = ForkingTokens(ForkingTokensConfig(fraction=0.2))
    batch = hand_made([[-1.0] * 6] * 2, advantages=[[2.0] * 6, [-3.0] * 6], mask=MASK, entropy=ENTROPY)
    prepared = algorithm.prepare(batch)
    loss = algorithm.token_loss(prepared, batch.behaviour) * t(MASK)
    assert loss.tolist() == [[0.0] * 6, [0.0, 0.0, 3.0, 3.0, 3.0, 0.0]]
    assert torch.equal(prepared.mask, batch.mask)
    assert prepared.metrics["forking/kept"] == pytest.approx(3 / 11)
    assert prepared.metrics["forking/threshold"] == pytest.approx(0.8)


def test_the_other_tokens_have_no_loss_and_stay_in_the_normaliser(hand_made):
    check_forking_loss(hand_made)


def check_entropy_advantages():
    advantages, entropy = t([[1.0, 1.0, -1.0, -1.0, 0.0]]), t([[0.5, 9.0, 0.5, 9.0, 9.0]])
    shaped = entropy_advantage.entropy_advantages(advantages, entropy, weight=0.4, kappa=2.0)
    torch.testing.assert_close(shaped, t([[1.2, 1.5, -0.8, -0.5, 0.0]]))


def test_the_bonus_is_bounded_by_the_advantage_and_never_changes_its_sign():
    check_entropy_advantages()


def check_entropy_advantage_loss(hand_made):
    """The loss is GRPO's with A' = (1.2, -0.8), and no gradient goes through the entropy."""
    batch = hand_made([[-1.0, -1.0]], advantages=[[1.0, -1.0]])
    entropy = t([[0.5, 0.5]]).requires_grad_()
    stats = TokenStats(log_prob=t([[-0.9, -1.1]]).requires_grad_(), entropy=entropy)
    loss = EntropyAdvantage().token_loss(batch, stats)
    torch.testing.assert_close(loss.detach(), t([[-1.2 * math.exp(0.1), 0.8 * math.exp(-0.1)]]))
    loss.sum().backward()
    assert entropy.grad is None
    sums = EntropyAdvantage().update_metrics(batch, stats)["entropy_advantage/bonus"]
    assert (sums[0] / sums[1]).item() == pytest.approx(0.2)


def test_the_entropy_shapes_the_advantage_and_gets_no_gradient(hand_made):
    check_entropy_advantage_loss(hand_made)


@pytest.mark.parametrize(
    "algorithm",
    [ForkingTokens(ForkingTokensConfig(fraction=0.3)), EntropyAdvantage(EntropyAdvantageConfig(weight=0.1))],
    ids=lambda a: type(a).__name__,
)
def test_they_differ_from_grpo_and_micro_batches_do_not_matter(easy_trainer, algorithm):
    trained = []
    for size in (None, 1, 5):
        run = easy_trainer(algorithm, micro_batch_size=size)
        run.train()
        trained.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    torch.testing.assert_close(trained[1], trained[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(trained[2], trained[0], rtol=0, atol=1e-12)
    plain = easy_trainer(GRPO())
    plain.train()
    assert (torch.cat([p.detach().flatten() for p in plain.model.parameters()]) - trained[0]).abs().max() > 1e-4


def test_all_tokens_are_grpo_to_the_bit(easy_trainer):
    runs = [easy_trainer(a) for a in (ForkingTokens(ForkingTokensConfig(fraction=1.0)), GRPO())]
    for run in runs:
        run.step()
    assert all(torch.equal(a, b) for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("forking-tokens", {"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0.0"),
        ("entropy-advantage", {"weight": 0.0}, "weight must be finite and larger than 0, got 0.0"),
        ("entropy-advantage", {"kappa": 1.0}, "kappa must be larger than 1, got 1.0"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm(name, **options)


def test_bad_tensors_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(B, T\), got \(1, 2\) and \(1, 1\)"):
        entropy_advantages(t([[1.0, 1.0]]), t([[1.0]]))
    with pytest.raises(ValueError, match=r"mask must have the shape \(1, 1\)"):
        forking_tokens.high_entropy_tokens(t([[1.0]]), t([[1, 1]]))


def test_planted_bugs_are_found(monkeypatch, hand_made):
    true_tokens, true_advantages = forking_tokens.high_entropy_tokens, entropy_advantages

    def over_padding(entropy, mask, *, fraction):
        found = true_tokens(entropy, torch.ones_like(entropy), fraction=fraction)
        return found._replace(tokens=found.tokens & (mask > 0))

    def certain_ones(entropy, mask, *, fraction):
        return true_tokens(-entropy, mask, fraction=fraction)

    def unbounded(advantages, entropy, *, weight, kappa):
        return advantages + weight * entropy.detach()

    def outwards(advantages, entropy, *, weight, kappa):
        return advantages.sign() * true_advantages(advantages.abs(), entropy, weight=weight, kappa=kappa)

    def with_gradient(advantages, entropy, *, weight, kappa):
        return advantages + torch.minimum(weight * entropy, advantages.abs() / kappa)

    bugs = [
        *(
            (forking_tokens, "high_entropy_tokens", bug, lambda _: check_quantile())
            for bug in (over_padding, certain_ones)
        ),
        *((forking_tokens, "high_entropy_tokens", bug, check_forking_loss) for bug in (over_padding, certain_ones)),
        *(
            (entropy_advantage, "entropy_advantages", bug, lambda _: check_entropy_advantages())
            for bug in (unbounded, outwards)
        ),
        (entropy_advantage, "entropy_advantages", outwards, check_entropy_advantage_loss),
        (entropy_advantage, "entropy_advantages", with_gradient, check_entropy_advantage_loss),
    ]
    for module, name, bug, check in bugs:
        check(hand_made)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, bug)
            with pytest.raises(AssertionError):
                check(hand_made)
