import math

import pytest
import torch

from corollary_aepo import aepo_loss

LOG_PROBS = torch.tensor([[-1.0, -2.0], [-0.5, -9.0], [-0.7, -1.1]], dtype=torch.float64)
OLD = torch.tensor([[-1.3, -2.0], [-0.5, -9.0], [-0.2, -1.1]], dtype=torch.float64)
ADVANTAGES = torch.tensor([[0.5, 0.5], [-1.0, 0.0], [-2.0, -2.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1], [1, 0], [1, 1]])
FIRST = torch.tensor([1, 0, 0])


def loss(**change):
    arguments = {
        "log_probs": LOG_PROBS,
        "old_log_probs": OLD,
        "advantages": ADVANTAGES,
        "mask": MASK,
        "reinforce_mask": FIRST,
        **change,
    }
    return aepo_loss(**arguments)


def test_replace_mode_by_hand():
    """Ratios: exp(0.3) = 1.35, clipped to 1.2 for A = 1; 1; 1; exp(-0.5) = 0.61, clipped to 0.8 for A < 0; 1."""
    expected = (-1.2 - 1.0 + 1.0 + 2.0 * 0.8 + 2.0) / 5
    assert loss().item() == pytest.approx(expected)


def test_additive_mode_by_hand():
    grpo = (1.0 + 2.0 * 0.8 + 2.0) / 3
    assert loss(alpha=0.25).item() == pytest.approx(grpo + 0.25 * (1.0 + 2.0) / 2)


def test_a_large_ratio_of_a_bad_token_meets_the_dual_clip():
    values = loss(old_log_probs=OLD - torch.tensor([[0.0], [5.0], [0.0]]), reinforce_mask=torch.zeros(3))
    others = (-0.5 * 1.2 - 0.5 + 2.0 * 0.8 + 2.0) / 5
    assert values.item() == pytest.approx(others + 3.0 / 5)


def test_advantages_of_reinforce_rows_are_not_read():
    odd = ADVANTAGES.clone()
    odd[0] = math.nan
    assert loss(advantages=odd).item() == loss().item()


def test_only_reinforce_rows_in_additive_mode():
    assert loss(alpha=2.0, reinforce_mask=torch.ones(3)).item() == pytest.approx(2 * (1.5 + 0.5 + 0.9) / 3)


def test_no_reinforce_rows_are_grpo_in_both_modes():
    none = torch.zeros(3)
    assert loss(alpha=2.0, reinforce_mask=none).item() == pytest.approx(loss(reinforce_mask=none).item())


def test_an_empty_mask_is_zero():
    assert loss(mask=torch.zeros(3, 2)).item() == 0
    assert loss(mask=torch.zeros(3, 2), alpha=1.0).item() == 0


@pytest.mark.parametrize("alpha", [None, 0.3])
def test_the_gradient_is_that_of_central_differences(alpha):
    x = (OLD + 0.05 * torch.arange(6, dtype=torch.float64).view(3, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: loss(log_probs=y, alpha=alpha), (x,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reinforce_mask": torch.ones(2)}, r"reinforce_mask must be \(B,\) = \(3,\), got \(2,\)"),
        ({"reinforce_mask": torch.full((3,), 0.5)}, "mask must hold only 0 and 1, got 0.5"),
        ({"advantages": torch.ones(3)}, r"advantages must be \(B, T\) = \(3, 2\), got \(3,\)"),
        ({"advantages": torch.full((3, 2), math.nan)}, "advantages must not be NaN on tokens in the loss"),
        ({"mask": torch.ones(3)}, r"mask must have the shape \(3, 2\), got \(3,\)"),
        ({"alpha": -1.0}, "alpha must be finite and at least 0, got -1.0"),
        ({"clip_low": 1.5}, r"clip_low must be in \[0, 1\), got 1.5"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        loss(**change)
