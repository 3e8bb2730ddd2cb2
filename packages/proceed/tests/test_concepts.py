"""Concepts of windows and the clip of their difference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from corollary_proceed import ConceptEncoder, clip_norm


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def encoder() -> ConceptEncoder:
    torch.manual_seed(0)
    return ConceptEncoder(6, 4).double()


def test_a_concept_is_the_two_layers_of_one_variate(encoder: ConceptEncoder) -> None:
    window = draw(1, 6, 1)
    hidden = functional.gelu(encoder.first.weight @ window[0, :, 0] + encoder.first.bias)
    expected = encoder.second.weight @ hidden + encoder.second.bias
    torch.testing.assert_close(encoder(window)[0], expected)


def test_the_mean_over_variates_commutes_with_the_second_layer(encoder: ConceptEncoder) -> None:
    window = draw(3, 6, 5)
    after = encoder.second(functional.gelu(encoder.first(window.mT))).mean(1)
    torch.testing.assert_close(encoder(window), after, rtol=0, atol=1e-14)
    apart = torch.stack([encoder(window[..., [i]]) for i in range(5)]).mean(0)
    torch.testing.assert_close(encoder(window), apart, rtol=0, atol=1e-14)


def test_the_mean_is_not_taken_before_the_activation(encoder: ConceptEncoder) -> None:
    window = draw(3, 6, 5)
    linearised = encoder(window.mean(-1, keepdim=True))
    assert float((encoder(window) - linearised).detach().abs().max()) > 1e-3


def test_the_number_of_variates_may_change(encoder: ConceptEncoder) -> None:
    window = draw(2, 6, 3)
    twice = torch.cat([window, window], -1)
    torch.testing.assert_close(encoder(twice), encoder(window))


def test_the_order_of_variates_does_not_matter(encoder: ConceptEncoder) -> None:
    window = draw(2, 6, 4)
    torch.testing.assert_close(encoder(window[..., [2, 0, 3, 1]]), encoder(window))


def test_a_window_of_another_length_is_refused(encoder: ConceptEncoder) -> None:
    with pytest.raises(ValueError, match=r"must be \(batch, 6, variates\), got shape \(2, 7, 3\)"):
        encoder(draw(2, 7, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_concept_keeps_the_precision_of_the_encoder(encoder: ConceptEncoder, dtype: torch.dtype) -> None:
    expected = encoder(draw(2, 6, 3)).detach()
    found = encoder.to(dtype)(draw(2, 6, 3).to(dtype)).detach()
    assert found.dtype is dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_clip_keeps_the_precision(dtype: torch.dtype) -> None:
    clipped = clip_norm(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=dtype))
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], dtype=dtype)
    assert clipped.dtype is dtype
    torch.testing.assert_close(clipped, expected, rtol=0, atol=torch.finfo(dtype).eps)


def test_the_clip_is_per_sample() -> None:
    drifts = draw(4, 5) * torch.tensor([[0.01], [10.0], [0.1], [100.0]], dtype=torch.float64)
    together = clip_norm(drifts)
    for sample in range(4):
        torch.testing.assert_close(together[sample], clip_norm(drifts[sample]))


def test_gradients_of_the_clip_inside_on_and_outside_the_ball() -> None:
    inside = (0.1 * draw(3, 4)).requires_grad_()
    outside = (10 * draw(3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(clip_norm, inside)
    assert torch.autograd.gradcheck(clip_norm, outside)
    (radial,) = torch.autograd.grad((clip_norm(outside) * outside.detach()).sum(), outside)
    assert float(radial.abs().max()) < 1e-12  # outside, moving along the drift changes nothing


values = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(values, min_size=1, max_size=8))
def test_clipped_drifts_lie_in_the_ball_and_keep_their_direction(entries: list[float]) -> None:
    drift = torch.tensor([entries], dtype=torch.float64)
    clipped = clip_norm(drift)
    norm = float(torch.linalg.vector_norm(drift))
    assert float(torch.linalg.vector_norm(clipped)) <= 1 + 1e-12
    torch.testing.assert_close(clipped * max(norm, 1.0), drift, rtol=1e-12, atol=1e-300)


@given(st.lists(values, min_size=1, max_size=8))
def test_a_clipped_drift_is_not_clipped_again(entries: list[float]) -> None:
    once = clip_norm(torch.tensor([entries], dtype=torch.float64))
    torch.testing.assert_close(clip_norm(once), once, rtol=1e-12, atol=1e-300)
