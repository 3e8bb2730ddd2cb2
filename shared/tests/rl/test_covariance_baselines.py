import math

import pytest
import torch

from corollary.rl import (
    ClipCov,
    ClipCovConfig,
    KLCov,
    KLCovConfig,
    clip_cov_choice,
    kl_cov_choice,
    kl_cov_loss,
    make_algorithm,
    masked_mean,
    token_covariance,
)
from corollary.rl.baselines import clip_cov, covariance, kl_cov


def t(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


LOG_PROBS = t([-1.0, -2.0, -3.0], [-4.0, -5.0, 99.0])
ADVANTAGES = t([2.0, 2.0, 2.0], [-3.0, -3.0, 99.0])
MASK = t([1, 1, 1], [1, 1, 0])
# Means over the five valid tokens: -3 and 0.
COVARIANCE = t([4.0, 2.0, 0.0], [3.0, 6.0, 0.0])


def check_covariance():
    torch.testing.assert_close(covariance.token_covariance(LOG_PROBS, ADVANTAGES, MASK), COVARIANCE)


def test_the_covariance_of_five_tokens_worked_out_by_hand():
    check_covariance()


def test_its_mean_is_the_covariance():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 7, 9, dtype=torch.float64, generator=generator)
    mask = torch.rand(7, 9, generator=generator) < 0.6
    expected = torch.cov(torch.stack([x[mask], y[mask]]), correction=0)[0, 1]
    torch.testing.assert_close(token_covariance(x, y, mask).sum() / mask.sum(), expected)


def test_padding_may_hold_nan_and_nothing_carries_a_gradient():
    log_probs = LOG_PROBS.clone().requires_grad_()
    advantages = ADVANTAGES.clone()
    advantages[1, 2] = math.nan
    result = token_covariance(log_probs, advantages, MASK)
    torch.testing.assert_close(result, COVARIANCE)
    assert not result.requires_grad


def test_the_means_are_those_of_all_ranks(monkeypatch):
    other = t(-30.0)
    whole = token_covariance(
        torch.cat([LOG_PROBS.flatten(), other])[None],
        torch.cat([ADVANTAGES.flatten(), t(5.0)])[None],
        torch.cat([MASK.flatten(), t(1)])[None],
    )[0, :6]
    remote = iter([t(-30.0, 1.0), t(5.0, 1.0)])  # sum and count of the other rank
    monkeypatch.setattr("torch.distributed.all_reduce", lambda total, group: total.add_(next(remote)))
    here = token_covariance(LOG_PROBS, ADVANTAGES, MASK, process_group=object())
    torch.testing.assert_close(here.flatten(), whole)


def test_the_mean_over_nothing_is_zero():
    assert masked_mean(t(math.nan), torch.zeros(1)).item() == 0.0


def never(shape):
    return torch.zeros(shape, dtype=torch.bool)


def check_clip_cov_candidates():
    # 4, 2, 3 lie in (1, 5); 6 is too large, 0 too small; the 3 is clipped by PPO. All candidates fit into the count.
    clipped = never((2, 3))
    clipped[1, 0] = True
    chosen = clip_cov.clip_cov_choice(COVARIANCE, MASK, clipped, fraction=1.0)
    assert chosen.tolist() == [[True, True, False], [False, False, False]]


def test_clip_cov_chooses_inside_the_interval_and_no_clipped_token():
    check_clip_cov_candidates()


def test_the_bounds_of_the_interval_are_excluded():
    chosen = clip_cov_choice(t([1.0, 5.0, 3.0]), t([1, 1, 1]), never((1, 3)), fraction=1.0)
    assert chosen.tolist() == [[False, False, True]]


def check_clip_cov_count():
    # 25 valid tokens of 30, 20 of them candidates: floor(0.15 * 25) = 3 are drawn, not floor(0.15 * 20 or 30).
    mask = torch.arange(30).view(3, 10) < 25
    values = torch.where(torch.arange(30).view(3, 10) < 20, 2.0, 0.0)
    generator = torch.Generator().manual_seed(0)
    chosen = clip_cov.clip_cov_choice(values, mask, never((3, 10)), fraction=0.15, generator=generator)
    assert chosen.sum() == 3
    assert bool((values[chosen] == 2).all())


def test_the_count_is_the_floor_of_the_share_of_all_valid_tokens():
    check_clip_cov_count()


def test_at_least_one_candidate_is_chosen_and_none_if_there_is_none():
    assert clip_cov_choice(t([2.0, 2.0]), t([1, 1]), never((1, 2)), fraction=2e-4).sum() == 1
    assert clip_cov_choice(t([0.0, 9.0]), t([1, 1]), never((1, 2)), fraction=1.0).sum() == 0


def test_every_candidate_is_drawn_equally_often_and_the_generator_decides():
    generator = torch.Generator().manual_seed(0)
    values, mask = torch.full((1, 5), 2.0), torch.ones(1, 5)
    drawn = sum(
        clip_cov_choice(values, mask, never((1, 5)), fraction=0.4, generator=generator).double() for _ in range(2000)
    )
    # Two of five: a mean of 800 each, standard deviation 21.9.
    assert (drawn - 800).abs().max() < 4 * 21.9
    first, second = (
        clip_cov_choice(values, mask, never((1, 5)), fraction=0.4, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(first, second)


def check_clip_cov_batch(hand_made):
    """Through the algorithm: the row that the upper clip holds back is no candidate, and the normaliser stays."""
    batch = hand_made([[-1.0, -2.0, -3.0], [-4.0, -5.0, -1.0]], advantages=ADVANTAGES.tolist(), mask=MASK.tolist())
    algorithm = ClipCov(ClipCovConfig(fraction=1.0, lower=0.5, upper=6.0))
    log_probs = LOG_PROBS.clone()
    log_probs[0, 0] += 1.0  # ratio e: clipped
    log_probs[1, 2] = -1.0
    stats = batch.behaviour._replace(log_prob=log_probs.requires_grad_())
    prepared = algorithm.prepare_mini_batch(batch, stats)
    loss = algorithm.token_loss(prepared, stats)
    # Means -2.8 and 0: the covariances are (5.6, 1.6, -0.4, 3.6, 6.6).
    assert prepared.per_token["clip_cov"].tolist() == [[False, True, False], [True, False, False]]
    assert torch.equal(prepared.mask, batch.mask)
    expected = t([-2.0 * 1.2, 0.0, -2.0], [0.0, 3.0, 0.0])
    torch.testing.assert_close(loss * MASK, expected * MASK)
    assert prepared.metrics["covariance/clipped"] == pytest.approx(2 / 5)
    assert prepared.metrics["covariance/candidates"] == pytest.approx(2 / 5)
    assert prepared.metrics["covariance/mean"] == pytest.approx((5.6 + 1.6 - 0.4 + 3.6 + 6.6) / 5)


def test_clip_cov_drops_the_loss_and_keeps_the_normaliser(hand_made):
    check_clip_cov_batch(hand_made)


def check_kl_cov_choice():
    assert kl_cov.kl_cov_choice(COVARIANCE, MASK, fraction=0.4).tolist() == [[True, False, False], [False, True, False]]


def test_kl_cov_takes_the_largest_covariances():
    check_kl_cov_choice()


def test_kl_cov_takes_one_at_least_and_no_padding():
    assert kl_cov_choice(t([-1.0, -2.0, 0.0]), t([1, 1, 0]), fraction=2e-4).tolist() == [[True, False, False]]
    assert kl_cov_choice(t([-1.0, 0.0]), t([0, 0])).tolist() == [[False, False]]


def check_kl_cov_loss():
    log_probs, old = t(-1.0, -2.0, -0.5).requires_grad_(), t(-1.5, -1.0, -1.5)
    loss = kl_cov.kl_cov_loss(log_probs, old, t(2.0, -1.0, 1.0), torch.tensor([True, True, False]), coefficient=0.7)
    ratios = [math.exp(0.5), math.exp(-1.0), math.e]
    torch.testing.assert_close(loss.detach(), t(-2 * ratios[0] + 0.35, ratios[1] + 0.7, -ratios[2]))
    # No clip: the gradient goes on at a ratio of e. The penalty's is +- the coefficient.
    loss.sum().backward()
    torch.testing.assert_close(log_probs.grad, t(-2 * ratios[0] + 0.7, ratios[1] - 0.7, -ratios[2]))


def test_kl_covs_loss_is_unclipped_and_penalises_the_chosen_tokens_both_ways():
    check_kl_cov_loss()


def test_a_rounding_error_is_no_shift():
    # Else the first mini-batch would push every chosen token up or down by chance.
    old = t(-1.0, -1.0, -1.0)
    log_probs = (old + t(0.0, 1e-7, -1e-7)).requires_grad_()
    kl_cov_loss(log_probs, old, torch.zeros(3), torch.ones(3).bool()).sum().backward()
    assert log_probs.grad.tolist() == [0.0, 0.0, 0.0]


def test_kl_cov_through_the_algorithm(hand_made):
    batch = hand_made(LOG_PROBS.clamp(max=0).tolist(), advantages=ADVANTAGES.tolist(), mask=MASK.tolist())
    algorithm = KLCov(KLCovConfig(fraction=0.4, coefficient=0.5))
    log_probs = batch.old_log_probs + 0.25
    stats = batch.behaviour._replace(log_prob=log_probs)
    prepared = algorithm.prepare_mini_batch(batch, stats)
    assert prepared.per_token["kl_cov"].tolist() == [[True, False, False], [False, True, False]]
    r = math.exp(0.25)
    expected = t([-2 * r + 0.125, -2 * r, -2 * r], [3 * r, 3 * r + 0.125, 0.0])
    torch.testing.assert_close(algorithm.token_loss(prepared, stats) * MASK, expected)
    sums = algorithm.update_metrics(prepared, stats)
    assert sums["covariance/shift"][0].item() == pytest.approx(0.5)
    assert sums["covariance/shift"][1].item() == 2
    assert sums["clip/high"][0].item() == 0, "nothing is clipped"


ALGORITHMS = [
    ClipCov(ClipCovConfig(fraction=0.1, lower=0.0, upper=50.0)),
    KLCov(KLCovConfig(fraction=0.1)),
]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)
def test_the_choice_does_not_depend_on_micro_batches(easy_trainer, algorithm):
    trained, logs = {}, {}
    for size in (None, 1, 5):
        run = easy_trainer(algorithm, micro_batch_size=size)
        logs[size] = [run.step(), run.step()]
        trained[size] = torch.cat([p.detach().flatten() for p in run.model.parameters()])
    for size in (1, 5):
        torch.testing.assert_close(trained[size], trained[None], rtol=0, atol=1e-12)
        assert logs[size] == [pytest.approx(row, nan_ok=True) for row in logs[None]]
    share = "covariance/clipped" if isinstance(algorithm, ClipCov) else "covariance/penalised"
    assert 0.03 < logs[None][0][share] <= 0.1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip-cov", {"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0.0"),
        ("clip-cov", {"lower": 5.0}, "lower must be smaller than upper, got 5.0 and 5.0"),
        ("kl-cov", {"fraction": 2.0}, r"fraction must be in \(0, 1\], got 2.0"),
        ("kl-cov", {"coefficient": -1.0}, "coefficient must be finite and at least 0, got -1.0"),
        ("kl-cov", {"clip_high": 0.28}, "KL-Cov does not clip"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm(name, **options)


def test_bad_tensors_are_refused():
    with pytest.raises(ValueError, match=r"log_probs and advantages must have one shape \(B, T\), got \(2, 3\) and "):
        token_covariance(LOG_PROBS, ADVANTAGES[:1], MASK)
    with pytest.raises(ValueError, match=r"mask must have the shape \(2, 3\), got \(1, 3\)"):
        token_covariance(LOG_PROBS, ADVANTAGES, MASK[:1])
    with pytest.raises(ValueError, match=r"clipped must have the shape \(2, 3\)"):
        clip_cov_choice(COVARIANCE, MASK, never((1, 3)))
    with pytest.raises(ValueError, match="must have one shape"):
        kl_cov_loss(LOG_PROBS, LOG_PROBS, ADVANTAGES[:1], never((2, 3)))


def test_planted_bugs_are_found(monkeypatch, hand_made):
    true_covariance, true_choice, true_count = token_covariance, clip_cov_choice, covariance.selection_count
    true_largest = kl_cov_choice

    def uncentred(log_probs, advantages, mask, **options):
        return log_probs.detach() * advantages * mask

    def mean_over_padding(log_probs, advantages, mask, **options):
        return true_covariance(log_probs, advantages, torch.ones_like(mask)) * mask

    def without_the_exclusion(values, mask, clipped, **options):
        return true_choice(values, mask, torch.zeros_like(clipped), **options)

    def of_all_entries(fraction, mask):
        return true_count(fraction, torch.ones_like(mask))

    def clipped_loss(log_probs, old, advantages, chosen, *, coefficient):
        ratio = (log_probs - old).exp().clamp(0.8, 1.2)
        return -advantages * ratio + torch.where(chosen, coefficient * (log_probs - old), 0.0)

    def smallest(values, mask, *, fraction):
        return true_largest(-values, mask, fraction=fraction)

    bugs = [
        (covariance, "token_covariance", uncentred, check_covariance),
        (covariance, "token_covariance", mean_over_padding, check_covariance),
        (clip_cov, "token_covariance", uncentred, lambda: check_clip_cov_batch(hand_made)),
        (clip_cov, "clip_cov_choice", without_the_exclusion, check_clip_cov_candidates),
        (clip_cov, "clip_cov_choice", without_the_exclusion, lambda: check_clip_cov_batch(hand_made)),
        (clip_cov, "selection_count", of_all_entries, check_clip_cov_count),
        (kl_cov, "kl_cov_choice", smallest, check_kl_cov_choice),
        (kl_cov, "kl_cov_loss", clipped_loss, check_kl_cov_loss),
    ]
    for module, name, bug, check in bugs:
        check()
        with monkeypatch.context() as patch:
            patch.setattr(module, name, bug)
            with pytest.raises(AssertionError):
                check()
