import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corollary_steer import entropy_change, entropy_gradient, quadrant_masks
from corollary_steer.worlds import all_logits, entropy_of, every_token, own_logits, random_logits, slope

FORMS = ("released", "ratio", "exact")


def states(size=7, count=20, seed=0):
    logits = random_logits(count, size, torch.Generator().manual_seed(seed))
    return logits, every_token(logits)


def change(stats, advantages=None, old=None, form="ratio", **options):
    ones = torch.ones_like(stats.log_prob)
    return entropy_change(
        ones if advantages is None else advantages,
        stats.entropy,
        stats.log_prob if old is None else old,
        stats.log_prob,
        form=form,
        sum_p2=stats.sum_p2,
        sum_p2_log_p=stats.sum_p2_log_p,
        **options,
    )


def test_two_tokens_worked_out_by_hand():
    # p = (3/4, 1/4): H = log 4 - 3/4 log 3, and for the first token log p + H = 1/4 log 3.
    p = torch.tensor([[0.75, 0.25]], dtype=torch.float64)
    entropy = torch.full_like(p, math.log(4) - 0.75 * math.log(3))
    old = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    advantages = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    released = entropy_change(advantages, entropy, old, p.log())
    expected = [-2 / 0.5 * 0.1875 * 0.25 * math.log(3), 1 / 0.5 * 0.1875 * (-0.75 * math.log(3))]
    assert released[0].tolist() == pytest.approx(expected, rel=1e-12)
    ratio = entropy_change(advantages, entropy, old, p.log(), form="ratio")
    assert ratio[0].tolist() == pytest.approx([expected[0] * 0.75, expected[1] * 0.25], rel=1e-12)


def test_for_two_tokens_a_softmax_changes_twice_as_much_as_assumption_1_says():
    _, stats = states(size=2)
    torch.testing.assert_close(change(stats, form="exact"), 2 * change(stats, form="ratio"), rtol=1e-9, atol=1e-14)


def test_with_more_tokens_the_two_may_differ_in_sign():
    _, stats = states(size=20, count=200)
    exact, ratio = change(stats, form="exact"), change(stats, form="ratio")
    assert ((exact * ratio) < -1e-6).any()


@pytest.mark.parametrize("size", [2, 5, 30])
def test_the_ratio_form_is_the_slope_of_one_logit_and_the_exact_form_that_of_a_softmax(size):
    logits, stats = states(size=size)
    torch.testing.assert_close(change(stats), slope(logits, own_logits(logits)), rtol=0, atol=1e-8)
    torch.testing.assert_close(change(stats, form="exact"), slope(logits, all_logits(logits)), rtol=0, atol=1e-8)


def test_the_gradient_is_that_of_autograd():
    logits, stats = states()
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(entropy_of(leaf).sum(), leaf)
    torch.testing.assert_close(entropy_gradient(stats.log_prob, stats.entropy), gradient)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(-5, 5))
@pytest.mark.parametrize("form", FORMS)
def test_the_change_is_linear_in_the_advantage(form, seed, factor):
    _, stats = states(seed=seed)
    advantages = torch.full_like(stats.log_prob, factor)
    torch.testing.assert_close(change(stats, advantages, form=form), factor * change(stats, form=form))


def test_the_forms_but_the_released_grow_with_the_ratio():
    _, stats = states()
    doubled = stats.log_prob - math.log(2)
    for form in FORMS:
        torch.testing.assert_close(change(stats, old=doubled, form=form), 2 * change(stats, form=form))
    # The same number in all three; what differs is the power of x that goes with it.
    torch.testing.assert_close(change(stats, form="released") * stats.log_prob.exp(), change(stats, form="ratio"))


def test_the_clip_indicator_stops_what_the_clip_stops_and_nothing_else():
    _, stats = states(count=1, size=4)
    steps = torch.log(torch.tensor([0.7, 0.9, 1.2, 1.4], dtype=torch.float64))
    old = stats.log_prob - steps
    for sign, stopped in ((1.0, [False, False, False, True]), (-1.0, [True, False, False, False])):
        advantages = torch.full_like(old, sign)
        free = change(stats, advantages, old)
        clipped = change(stats, advantages, old, use_clip_indicator=True, clip_low=0.2, clip_high=0.28)
        assert (clipped == 0)[0].tolist() == stopped
        kept = ~torch.tensor([stopped])
        assert torch.equal(clipped[kept], free[kept])


def test_probabilities_are_clamped_as_in_the_released_code():
    one = torch.ones(1, 1, dtype=torch.float64)
    tiny = math.log(1e-12)
    # x = 1e-8 in place of 1e-12, x_old likewise; the logarithm is that of the clamped value.
    omega = entropy_change(one, 2 * one, tiny * one, tiny * one)
    assert omega.item() == pytest.approx(-(1 - 1e-8) * (math.log(1e-8) + 2), rel=1e-12)
    never = entropy_change(one, 2 * one, -math.inf * one, -math.inf * one)
    assert never.item() == omega.item()


def test_extreme_ratios_stay_finite():
    one = torch.ones(1, 1)
    omega = entropy_change(one, one, -200 * one, -0.5 * one, form="ratio")
    assert torch.isfinite(omega).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_precision_is_at_least_float32_and_no_gradient_flows(dtype):
    _, stats = states()
    log_probs = stats.log_prob.to(dtype).requires_grad_()
    omega = entropy_change(torch.ones_like(log_probs), stats.entropy.to(dtype), log_probs, log_probs)
    assert omega.dtype == torch.promote_types(dtype, torch.float32)
    assert not omega.requires_grad


def test_the_entropy_counts_as_given_and_not_as_the_trained_policys():
    _, stats = states()
    other = stats._replace(entropy=stats.entropy + 1)
    expected = change(stats) - stats.log_prob.exp() * (1 - stats.log_prob.exp())
    torch.testing.assert_close(change(other), expected)


def test_quadrants_are_disjoint_and_leave_out_the_boundary():
    log_probs = torch.tensor([-0.5, -0.5, -2.0, -2.0, -1.0, -0.5])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 0.0])
    q = quadrant_masks(advantages, log_probs, torch.ones(6))
    assert [mask.nonzero().flatten().tolist() for mask in q] == [[0], [2], [1], [3]]


def test_quadrants_tell_the_sign_of_the_change():
    _, stats = states(count=50)
    for sign in (1.0, -1.0):
        advantages = torch.full_like(stats.log_prob, sign)
        q = quadrant_masks(advantages, stats.log_prob, stats.entropy)
        omega = change(stats, advantages)
        assert (omega[q.positive_improbable | q.negative_probable] > 0).all()
        assert (omega[q.positive_probable | q.negative_improbable] < 0).all()


T = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((T, T, T, torch.zeros(2, 4)), {}, r"log_probs must have the shape of advantages \(2, 3\), got \(2, 4\)"),
        ((T, torch.zeros(2, 1), T, T), {}, r"entropy must have the shape of advantages \(2, 3\), got \(2, 1\)"),
        ((T, T, T, T), {"form": "theorem"}, "form must be one of .*, got 'theorem'"),
        ((T, T, T, T), {"form": "exact", "sum_p2": T}, "needs sum_p2 and sum_p2_log_p, got None for sum_p2_log_p"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        entropy_change(*arguments, **options)


def test_quadrants_refuse_different_shapes():
    with pytest.raises(ValueError, match=r"must have one shape, got \(2, 3\), \(2, 3\) and \(3,\)"):
        quadrant_masks(T, T, torch.zeros(3))
