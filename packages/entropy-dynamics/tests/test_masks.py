import math
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from corollary.kernels import TokenStats
from corollary_entropy_dynamics import clip_b_mask, clip_v_mask
from corollary_entropy_dynamics.discriminator import deviation, entropy_discriminator
from corollary_entropy_dynamics.exact import synthetic_batch
from corollary_entropy_dynamics.masks import Moments, batch_moments

# Probability 1/2 everywhere makes S = (H - log 2) / 2, so S can be chosen freely through H.
LOG_HALF = math.log(0.5)


def with_discriminator(s):
    s = torch.tensor(s, dtype=torch.float64)
    return torch.full_like(s, LOG_HALF), 2 * s - LOG_HALF


def clip_b(s, advantages, mask=None, **options):
    log_probs, entropy = with_discriminator(s)
    advantages = torch.tensor(advantages, dtype=torch.float64)
    mask = torch.ones_like(log_probs) if mask is None else torch.tensor(mask)
    return clip_b_mask(TokenStats(log_prob=log_probs, entropy=entropy), advantages, mask, **options)


S = [[0.8, 0.4, 0.0, 0.0], [0.0, 0.0, 0.4, 0.2]]


def test_a_batch_worked_out_by_hand():
    # Valid S: 0.8, 0.4, 0, 0 | 0, 0, 0.4 (the last is padding); mean 1.6 / 7, population variance 0.96 / 7 - mean^2.
    mask = [[1, 1, 1, 1], [1, 1, 1, 0]]
    mean, deviation_ = 1.6 / 7, math.sqrt(0.96 / 7 - (1.6 / 7) ** 2)
    log_probs, entropy = with_discriminator(S)
    moments = batch_moments(entropy_discriminator(log_probs, entropy), torch.tensor(mask).bool())
    assert moments == pytest.approx(Moments(7.0, mean, deviation_))
    z = -mean / deviation_  # of the four zeros
    result = clip_b(S, [[1, -1, -1, 1], [-1, 0, -1, -1]], mask, mu=-z - 0.01)
    assert result.mask.tolist() == [[True, True, False, True], [False, True, True, False]]
    assert result.metrics == pytest.approx({"frac_clipped": 2 / 7, "frac_clipped_pos": 0.0, "frac_clipped_neg": 2 / 7})
    assert clip_b(S, [[-1] * 4] * 2, mask, mu=-z + 0.01).mask.sum() == 7


def test_the_variance_is_that_of_the_population():
    # One outlier among four: z = -sqrt(3) with the population variance, -1.5 with the sample variance.
    assert clip_b([[0.0, 1.0, 1.0, 1.0]], [[-1.0] * 4], mu=1.6).mask.tolist() == [[False, True, True, True]]


def test_a_token_exactly_at_the_threshold_is_kept():
    # S in {0, 1}, half of each: mean 1/2 and deviation 1/2 exactly, so the low tokens lie at z = -1 exactly.
    s, advantages = [[0.0, 1.0, 0.0, 1.0]], [[-1.0] * 4]
    log_probs, entropy = with_discriminator(s)
    assert set(entropy_discriminator(log_probs, entropy).flatten().tolist()) == {0.0, 1.0}
    assert clip_b(s, advantages, mu=1.0).mask.all()
    assert clip_b(s, advantages, mu=1.0 - 1e-9).mask.tolist() == [[False, True, False, True]]


def test_positive_and_zero_advantages_are_never_masked():
    stats, _, mask = synthetic_batch(0)
    for advantages in (torch.zeros(mask.shape), torch.ones(mask.shape)):
        assert torch.equal(clip_b_mask(stats, advantages, mask, mu=0.1).mask, mask)
        assert torch.equal(clip_v_mask(stats, advantages, mask, mu=0.1, max_fraction=1.0).mask, mask)


def reference_clip_b(log_probs, entropy, advantages, mask, mu):
    """The rule token by token, in plain Python."""
    valid = [(b, t) for b in range(len(mask)) for t in range(len(mask[0])) if mask[b][t]]
    s = {k: math.exp(log_probs[k[0]][k[1]]) * (entropy[k[0]][k[1]] + log_probs[k[0]][k[1]]) for k in valid}
    mean = sum(s.values()) / len(s)
    sd = math.sqrt(sum((x - mean) ** 2 for x in s.values()) / len(s))
    return {k for k in valid if advantages[k[0]][k[1]] < 0 and s[k] - mean < -mu * sd}


@pytest.mark.parametrize("mu", [0.3, 0.8, 1.4])
def test_clip_b_is_the_rule_written_out(mu):
    stats, advantages, mask = synthetic_batch(1)
    result = clip_b_mask(stats, advantages, mask, mu=mu)
    expected = reference_clip_b(stats.log_prob.tolist(), stats.entropy.tolist(), advantages.tolist(), mask.tolist(), mu)
    dropped = {tuple(k) for k in (mask & ~result.mask).nonzero().tolist()}
    assert dropped == expected
    assert expected


def reference_clip_v(x, advantages, mask, mu, max_fraction, strict):
    valid = [(b, t) for b in range(len(mask)) for t in range(len(mask[0])) if mask[b][t]]
    mean = sum(x[b][t] for b, t in valid) / len(valid)
    sd = math.sqrt(sum((x[b][t] - mean) ** 2 for b, t in valid) / len(valid))
    candidates = [
        (b, t) for b, t in valid if (advantages[b][t] < 0 or (strict and advantages[b][t] == 0)) and x[b][t] > mu * sd
    ]
    if len(candidates) / len(valid) <= max_fraction:
        return set(candidates)
    count = max(int(max_fraction * len(valid)), 1)
    negative = sorted((k for k in candidates if advantages[k[0]][k[1]] < 0), key=lambda k: -x[k[0]][k[1]])
    return set(negative[:count])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("max_fraction", [1e-4, 0.01, 1.0])
@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_clip_v_is_the_rule_written_out(mu, max_fraction, strict):
    stats, advantages, mask = synthetic_batch(2)
    advantages = torch.where(torch.arange(len(advantages))[:, None] % 3 == 0, 0.0, advantages)
    result = clip_v_mask(stats, advantages, mask, mu=mu, max_fraction=max_fraction, strict_official=strict)
    expected = reference_clip_v(
        (-deviation(stats)).tolist(), advantages.tolist(), mask.tolist(), mu, max_fraction, strict
    )
    dropped = {tuple(k) for k in (mask & ~result.mask).nonzero().tolist()}
    assert dropped == expected
    assert expected


def test_the_cap_keeps_exactly_the_k_largest():
    stats, advantages, mask = synthetic_batch(3)
    n = int(mask.sum())
    result = clip_v_mask(stats, advantages, mask, mu=0.1, max_fraction=7.5 / n)
    dropped = mask & ~result.mask
    assert dropped.sum() == 7
    x = -deviation(stats)
    others = mask & ~dropped & (advantages < 0)
    assert x[dropped].min() > x[others].max()


def test_the_cap_drops_at_least_one_token():
    stats, advantages, mask = synthetic_batch(3)
    assert (mask & ~clip_v_mask(stats, advantages, mask, mu=0.1, max_fraction=1e-9).mask).sum() == 1


def test_the_log_probabilities_can_be_replaced():
    stats, advantages, mask = synthetic_batch(0)
    other = torch.where(mask, stats.log_prob * 2, stats.log_prob)
    replaced = clip_b_mask(stats, advantages, mask, mu=0.8, log_probs=other)
    assert torch.equal(replaced.mask, clip_b_mask(stats._replace(log_prob=other), advantages, mask, mu=0.8).mask)
    assert not torch.equal(replaced.mask, clip_b_mask(stats, advantages, mask, mu=0.8).mask)


def test_ties_at_the_cap_do_not_exceed_it():
    stats = TokenStats(  # D = S - N with S = 0 and N = x: entropy -log p, and sum_p2_log_p carries x
        log_prob=torch.full((1, 6), LOG_HALF),
        entropy=torch.full((1, 6), -LOG_HALF),
        sum_p2=torch.zeros(1, 6),
        sum_p2_log_p=torch.tensor([[0.25, 0.25, 0.25, 0.25, -0.5, -0.5]]),
    )
    result = clip_v_mask(stats, -torch.ones(1, 6), torch.ones(1, 6), mu=0.1, max_fraction=0.4)
    assert (~result.mask).sum() == 2
    assert (~result.mask)[0, 4:].sum() == 0


def test_tokens_with_zero_advantage_are_dropped_only_in_official_mode():
    stats, advantages, mask = synthetic_batch(4)
    advantages = torch.where(torch.arange(len(advantages))[:, None] % 2 == 0, 0.0, advantages)
    ours = clip_v_mask(stats, advantages, mask, mu=1.0, max_fraction=1.0)
    official = clip_v_mask(stats, advantages, mask, mu=1.0, max_fraction=1.0, strict_official=True)
    difference = ours.mask & ~official.mask
    assert difference.any()
    assert (advantages[difference] == 0).all()


@pytest.mark.parametrize("rule", ["clip_b", "clip_v"])
def test_the_mask_depends_on_neither_order_nor_padding(rule):
    stats, advantages, mask = synthetic_batch(5)

    def apply(stats, advantages, mask):
        if rule == "clip_b":
            return clip_b_mask(stats, advantages, mask, mu=1.0).mask
        return clip_v_mask(stats, advantages, mask, mu=1.0, max_fraction=0.02).mask

    plain = apply(stats, advantages, mask)
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(0))
    permuted = apply(TokenStats(*(x[order] if x is not None else None for x in stats)), advantages[order], mask[order])
    assert torch.equal(permuted, plain[order])

    def pad(x, value):
        return torch.nn.functional.pad(x, (0, 5), value=value)

    padded = apply(
        TokenStats(*(pad(x, math.nan) if x is not None else None for x in stats)),
        pad(advantages, math.nan),
        torch.nn.functional.pad(mask, (0, 5)),
    )
    assert torch.equal(padded[:, :-5], plain)
    assert not padded[:, -5:].any()


def test_the_mask_is_global_and_not_that_of_micro_batches():
    stats, advantages, mask = synthetic_batch(6)
    whole = clip_b_mask(stats, advantages, mask, mu=0.8).mask
    halves = torch.cat(
        [
            clip_b_mask(TokenStats(stats.log_prob[i], stats.entropy[i]), advantages[i], mask[i], mu=0.8).mask
            for i in (slice(0, 32), slice(32, 64))
        ]
    )
    assert not torch.equal(whole, halves)


def test_equal_discriminators_and_an_empty_mask_keep_everything():
    assert clip_b([[0.3] * 4], [[-1.0] * 4], mu=0.1).mask.all()
    result = clip_b([[0.3, 0.1]], [[-1.0, -1.0]], [[0, 0]])
    assert not result.mask.any()
    assert result.metrics["frac_clipped"] == 0.0
    stats, advantages, mask = synthetic_batch(0)
    assert not clip_v_mask(stats, advantages, torch.zeros_like(mask)).mask.any()


class TestOptionsOfClipB:
    S = [[1.0, 1.1, 2.0, 2.0, 2.0, 2.0, 2.9, 3.0]]
    A = [[-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0]]

    def dropped(self, **options):
        return (~clip_b(self.S, self.A, mu=1.2, **options).mask).nonzero()[:, 1].tolist()

    def test_the_default_is_the_lower_tail_of_negative_advantages(self):
        assert self.dropped() == [0]

    def test_all_advantages_and_both_tails(self):
        assert self.dropped(applies="all", upper=True) == [0, 1, 6, 7]

    def test_entropy_decreasing_outliers(self):
        assert self.dropped(applies="entropy-decreasing", upper=True) == [0, 7]

    def test_positive_advantages(self):
        assert self.dropped(applies="positive") == [1]

    def test_the_upper_tail_alone_with_its_own_threshold(self):
        assert self.dropped(applies="all", lower=False, upper=True) == [6, 7]
        assert self.dropped(applies="all", lower=False, upper=True, mu_high=1.4) == [7]


GOOD = {
    "log_probs": torch.full((2, 3), -1.0),
    "entropy": torch.full((2, 3), 1.0),
    "advantages": -torch.ones(2, 3),
    "mask": torch.ones(2, 3),
}


def changed(name, value):
    tensor = GOOD[name].clone()
    tensor[0, 1] = value
    return {name: tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entropy": torch.ones(2, 2)}, r"entropy must have the shape of advantages \(2, 3\), got \(2, 2\)"),
        ({"mask": torch.ones(2)}, r"mask must have the shape \(2, 3\), got \(2,\)"),
        (changed("mask", 0.5), "mask must hold only 0 and 1, got 0.5"),
        ({"mu": 0.0}, "mu must be larger than 0, got 0.0"),
        ({"mu": -1.0}, "mu must be larger than 0"),
        ({"mu": math.nan}, "mu must be larger than 0"),
        ({"mu_high": 0.0, "upper": True}, "mu_high must be larger than 0"),
        ({"mu_high": 2.0}, "mu_high is the threshold of the upper tail, which is off"),
        ({"applies": "entropy-decreasing"}, "needs both tails, got lower=True and upper=False"),
        ({"applies": "some"}, "applies must be one of"),
        ({"lower": False}, "at least one of lower and upper"),
        (changed("log_probs", math.nan), "log_prob must be finite on valid tokens, got nan"),
        (changed("log_probs", -math.inf), "log_prob must be finite on valid tokens, got -inf"),
        (changed("log_probs", 0.01), "log-probabilities must be at most 0, got 0.0"),
        (changed("entropy", -0.01), "entropies must be at least 0, got -0.0"),
        (changed("advantages", math.inf), "advantages must be finite on valid tokens, got inf"),
    ],
)
def test_bad_input_to_clip_b_is_refused(change, message):
    arguments = {**GOOD, **change}
    log_probs, entropy, advantages, mask = (
        arguments.pop(name) for name in ("log_probs", "entropy", "advantages", "mask")
    )
    with pytest.raises(ValueError, match=message):
        clip_b_mask(TokenStats(log_prob=log_probs, entropy=entropy), advantages, mask, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": 0.0}, "mu must be larger than 0"),
        ({"max_fraction": 0.0}, r"max_fraction must be in \(0, 1\], got 0.0"),
        ({"max_fraction": 1.5}, r"max_fraction must be in \(0, 1\]"),
    ],
)
def test_bad_options_of_clip_v_are_refused(options, message):
    stats, advantages, mask = synthetic_batch(0)
    with pytest.raises(ValueError, match=message):
        clip_v_mask(stats, advantages, mask, **options)


def test_clip_v_without_its_statistics_is_refused():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="missing sum_p2, sum_p2_log_p"):
        clip_v_mask(TokenStats(log_prob=x, entropy=x), x, x)


def test_tiny_violations_from_float32_are_tolerated():
    # log_softmax may return +1e-7 and an entropy sum -1e-7 for a deterministic token.
    stats = TokenStats(log_prob=torch.full((1, 2), 1e-7), entropy=torch.full((1, 2), -1e-7))
    clip_b_mask(stats, -torch.ones(1, 2), torch.ones(1, 2))


def one_rank(rank, folder):
    """Runs in a process of its own: the mask of this rank's part of the batch, written to ``folder``."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    stats, advantages, mask = synthetic_batch(8)
    rows = slice(0, 20) if rank == 0 else slice(20, 64)
    part = TokenStats(*(x[rows] if x is not None else None for x in stats))
    group = dist.group.WORLD
    results = [
        clip_b_mask(part, advantages[rows], mask[rows], mu=1.0, process_group=group),
        clip_v_mask(part, advantages[rows], mask[rows], mu=0.5, max_fraction=1.0, process_group=group),
        clip_v_mask(part, advantages[rows], mask[rows], mu=0.5, max_fraction=0.01, process_group=group),
    ]
    torch.save([tuple(result) for result in results], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_together_give_the_mask_of_the_whole_batch(tmp_path):
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait() for process in ranks] == [0, 0]
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    stats, advantages, mask = synthetic_batch(8)
    expected = [
        clip_b_mask(stats, advantages, mask, mu=1.0),
        clip_v_mask(stats, advantages, mask, mu=0.5, max_fraction=1.0),
        clip_v_mask(stats, advantages, mask, mu=0.5, max_fraction=0.01),
    ]
    for case, whole in enumerate(expected):
        assert torch.equal(torch.cat([results[0][case][0], results[1][case][0]]), whole.mask), case
        assert results[0][case][1] == pytest.approx(whole.metrics)
        assert whole.metrics["frac_clipped"] > 0


if __name__ == "__main__":
    one_rank(int(sys.argv[1]), sys.argv[2])
