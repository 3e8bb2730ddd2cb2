import math
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from corollary_steer import entropy_change, steer_weights
from corollary_steer.exact import BY_HAND, BY_HAND_EXPONENTIAL, BY_HAND_LINEAR
from corollary_steer.synthetic import TokenQuantities, synthetic_batch
from corollary_steer.weights import METRICS

ONES = torch.ones(1, 4)
# |Omega| of BY_HAND is 1, 1/2, 0, 2/5; signed, it is -1, 1/2, 0, -2/5.


def by_hand(**options):
    return steer_weights(*BY_HAND, ONES, **options).weights[0].tolist()


def test_the_hand_worked_changes():
    assert entropy_change(*BY_HAND)[0].tolist() == pytest.approx([-1.0, 0.5, 0.0, -0.4], abs=1e-12)


def test_exponential_mapping():
    assert by_hand() == pytest.approx(BY_HAND_EXPONENTIAL[0].tolist())


def test_linear_mapping_with_the_released_ends():
    assert by_hand(lambda_min=0.8, mapping="linear") == pytest.approx(BY_HAND_LINEAR[0].tolist())
    assert by_hand(lambda_min=0.8, mapping="linear", weight_max=1.0) == pytest.approx([0.8, 0.9, 1.0, 0.92])


def test_binary_mapping_is_ours():
    assert by_hand(mapping="binary") == pytest.approx([0.7, 1.0, 1.0, 1.0])  # not above half the maximum
    assert by_hand(mapping="binary", binary_threshold=0.3) == pytest.approx([0.7, 0.7, 1.0, 0.7])


def test_the_asymmetric_mode_damps_only_what_lowers_the_entropy():
    assert by_hand(mode="asymmetric") == pytest.approx([0.7, 1.0, 1.0, 0.7**0.4])
    assert by_hand(mode="asymmetric", weight_max=1.1)[1] == pytest.approx(1.1)
    assert by_hand(mode="asymmetric", weight_max=2.0)[1] == pytest.approx(0.7**-0.5)
    # The earlier release's script: linear in the signed change, from 0.9 to 1.
    linear = by_hand(mode="asymmetric", mapping="linear", lambda_min=0.9)
    assert linear == pytest.approx([0.9, 1.0, 0.9 + 0.1 / 1.5, 0.9 + 0.06 / 1.5])
    assert by_hand(mode="asymmetric", mapping="binary", binary_threshold=0.3) == pytest.approx([0.7, 1.0, 1.0, 0.7])


def test_equal_changes_get_the_middle_of_the_linear_mapping():
    same = TokenQuantities(*(value[:, :1].expand(1, 4) for value in BY_HAND))
    weights = steer_weights(*same, ONES, lambda_min=0.8, mapping="linear").weights
    assert weights[0].tolist() == pytest.approx([1.0] * 4)


def test_changes_below_the_floor_are_hardly_damped():
    tiny = BY_HAND._replace(advantages=1e-3 * BY_HAND.advantages)
    weights = steer_weights(*tiny, ONES).weights[0]
    assert weights.tolist() == pytest.approx([0.7**0.05, 0.7**0.025, 1.0, 0.7**0.02])
    without = steer_weights(*tiny, ONES, floor=0.0).weights
    torch.testing.assert_close(without, BY_HAND_EXPONENTIAL)


@pytest.mark.parametrize("floor", [0.0, 0.02])
def test_without_any_advantage_every_weight_is_one(floor):
    still = BY_HAND._replace(advantages=0 * BY_HAND.advantages)
    assert steer_weights(*still, ONES, floor=floor).weights[0].tolist() == [1.0] * 4


def test_padding_may_hold_anything():
    mask = torch.tensor([[0.0, 1.0, 1.0, 1.0]])
    broken = TokenQuantities(*(torch.cat([torch.full((1, 1), math.nan), value[:, 1:]], 1) for value in BY_HAND))
    weights, metrics = steer_weights(*broken, mask)
    assert weights[0].tolist() == pytest.approx([0.0, 0.7, 1.0, 0.7**0.8])  # the largest change is now 1/2
    assert metrics["omega/max"] == pytest.approx(0.5)
    assert metrics["omega/nonfinite"] == 0


@pytest.mark.parametrize("mapping", ["exponential", "linear", "binary"])
def test_without_a_valid_token_all_weights_are_zero(mapping):
    weights, metrics = steer_weights(*BY_HAND, torch.zeros(1, 4), mapping=mapping)
    assert weights.tolist() == [[0.0] * 4]
    assert metrics == dict.fromkeys(METRICS, 0.0)


def test_a_batch_without_tokens_is_no_error():
    nothing = torch.zeros(0, 4)
    assert steer_weights(nothing, nothing, nothing, nothing, nothing).weights.shape == (0, 4)


def test_metrics():
    metrics = steer_weights(*BY_HAND, ONES).metrics
    w = BY_HAND_EXPONENTIAL[0]
    assert set(metrics) == set(METRICS)
    assert metrics == pytest.approx(
        {
            "weight/mean": w.mean().item(),
            "weight/min": 0.7,
            "weight/max": 1.0,
            "weight/std": w.std(correction=0).item(),
            "weight/near_one": 0.25,
            "omega/max": 1.0,
            "omega/median": 0.4,
            "omega/p99": 1.0,
            "omega/argmax_prob": 0.5,
            "omega/nonfinite": 0.0,
        }
    )


def test_the_percentile_leaves_the_largest_of_a_hundred_out():
    advantages = torch.arange(1.0, 201.0, dtype=torch.float64)[None]
    half = torch.full_like(advantages, math.log(0.5))
    metrics = steer_weights(advantages, 1 - half, half, half, torch.ones(1, 200)).metrics
    assert metrics["omega/max"] / metrics["omega/p99"] == pytest.approx(200 / 198)
    assert metrics["omega/median"] == pytest.approx(100 * 0.5)


def test_tokens_that_the_clip_stops_can_be_kept_from_setting_the_maximum():
    # The first token's ratio is 2 with A > 0: no gradient, yet in the released code it is the largest change.
    assert steer_weights(*BY_HAND, ONES).metrics["omega/max"] == pytest.approx(1.0)
    weights, metrics = steer_weights(*BY_HAND, ONES, use_clip_indicator=True)
    assert metrics["omega/max"] == pytest.approx(0.5)
    # The last token's ratio is 1/4 with A > 0: the clip does not stop that.
    assert weights[0].tolist() == pytest.approx([1.0, 0.7, 1.0, 0.7**0.8])


@pytest.mark.parametrize("field", TokenQuantities._fields)
def test_what_is_not_finite_raises_or_counts_as_no_change(field):
    value = getattr(BY_HAND, field).clone()
    value[0, 0] = math.nan
    broken = BY_HAND._replace(**{field: value})
    with pytest.raises(ValueError, match=f"{field} must be finite on valid tokens, got nan"):
        steer_weights(*broken, ONES)
    weights, metrics = steer_weights(*broken, ONES, on_nonfinite="zero")
    assert weights[0].tolist() == pytest.approx([1.0, 0.7, 1.0, 0.7**0.8])
    assert metrics["omega/nonfinite"] == 0.25


def test_the_exact_form_reaches_the_weights():
    log_p = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    p = log_p.exp()
    entropy = -(p * log_p).sum().expand(1, 3)
    sums = {"sum_p2": (p**2).sum().expand(1, 3), "sum_p2_log_p": (p**2 * log_p).sum().expand(1, 3)}
    ones = torch.ones_like(p)
    weights = steer_weights(ones, entropy, log_p, log_p, ones, form="exact", **sums).weights
    s = p * (entropy + log_p)
    d = (s - (p * s).sum()).abs()
    torch.testing.assert_close(weights, 0.7 ** (d / d.max()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_min": 0.0}, r"lambda_min must be in \(0, 1\], got 0.0"),
        ({"lambda_min": 1.1}, r"lambda_min must be in \(0, 1\], got 1.1"),
        ({"lambda_min": math.nan}, r"lambda_min must be in \(0, 1\], got nan"),
        ({"mapping": "linear", "weight_max": 0.6}, "weight_max must be finite and at least lambda_min=0.7, got 0.6"),
        ({"weight_max": 1.2}, "weight_max is for the linear mapping and the asymmetric mode"),
        ({"mapping": "cosine"}, "mapping must be one of .*, got 'cosine'"),
        ({"mode": "both"}, "mode must be one of .*, got 'both'"),
        ({"on_nonfinite": "skip"}, "on_nonfinite must be one of .*, got 'skip'"),
        ({"floor": -0.1}, "floor must be finite and at least 0, got -0.1"),
        ({"binary_threshold": 1.0}, r"binary_threshold must be in \[0, 1\), got 1.0"),
        ({"form": "theorem"}, "form must be one of .*, got 'theorem'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        steer_weights(*BY_HAND, ONES, **options)


@pytest.mark.parametrize(
    ("changes", "mask", "message"),
    [
        ({"entropy": -0.1}, ONES, "entropies must be at least 0, got -0.1"),
        ({"log_probs": 0.2}, ONES, "log_probs must be at most 0, got 0.2"),
        ({"log_probs_old": 0.2}, ONES, "log_probs_old must be at most 0, got 0.2"),
        ({}, torch.ones(1, 3), r"mask must have the shape \(1, 4\), got \(1, 3\)"),
        ({}, 0.5 * ONES, "mask must hold only 0 and 1, got 0.5"),
    ],
)
def test_bad_input_is_refused(changes, mask, message):
    values = BY_HAND._replace(**{name: torch.full((1, 4), value) for name, value in changes.items()})
    with pytest.raises(ValueError, match=message):
        steer_weights(*values, mask)


def test_rounding_of_low_precision_is_no_error():
    values = BY_HAND._replace(entropy=torch.full((1, 4), -1e-5), log_probs=torch.full((1, 4), 1e-5))
    assert steer_weights(*values, ONES).weights.min() > 0


CASES = ({}, {"mapping": "linear"}, {"mode": "asymmetric"}, {"mapping": "linear", "mode": "asymmetric"})


def one_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    batch = synthetic_batch(8)
    rows = slice(0, 5) if rank == 0 else slice(5, None)
    part = [value[rows] for value in batch.tokens]
    results = [steer_weights(*part, batch.mask[rows], process_group=dist.group.WORLD, **case) for case in CASES]
    torch.save([(result.weights, result.metrics["omega/max"]) for result in results], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_together_give_the_weights_of_the_whole_mini_batch(tmp_path):
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait() for process in ranks] == [0, 0]
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    batch = synthetic_batch(8)
    for index, case in enumerate(CASES):
        whole = steer_weights(*batch.tokens, batch.mask, **case)
        assert torch.equal(torch.cat([results[0][index][0], results[1][index][0]]), whole.weights)
        assert {result[index][1] for result in results} == {whole.metrics["omega/max"]}
        alone = steer_weights(*(value[:5] for value in batch.tokens), batch.mask[:5], **case).weights
        assert not torch.equal(alone, whole.weights[:5]) or index == 1


if __name__ == "__main__":
    one_rank(int(sys.argv[1]), sys.argv[2])
