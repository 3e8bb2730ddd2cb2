"""The drop-in forms against the textbook formulas, and against TRL and verl where those are installed."""

import importlib
import inspect

import pytest
import torch
from torch import Tensor

from corollary.kernels import adapters


def chosen_log_softmax(logits: Tensor, index: Tensor, temperature: float = 1.0) -> Tensor:
    log_p = (logits / temperature).log_softmax(-1)
    return log_p.gather(-1, index) if index.ndim == logits.ndim else log_p.gather(-1, index[..., None])[..., 0]


def entropy(logits: Tensor) -> Tensor:
    return torch.special.entr(logits.softmax(-1)).sum(-1)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chosen_log_probabilities_and_their_gradient(several: bool, temperature: float, problem) -> None:
    logits, index = problem(2, 3, 20)
    logits = logits.double().requires_grad_()
    if several:
        index = torch.stack([index, (index + 3) % 20, logits.argmax(-1), index], -1)
    weights = torch.randn(index.shape, generator=torch.Generator().manual_seed(0)).double()
    ours = adapters.selective_log_softmax(logits, index, temperature)
    expected = chosen_log_softmax(logits, index, temperature)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), logits), torch.autograd.grad((expected * weights).sum(), logits)
    )


@pytest.mark.parametrize("several", [False, True])
def test_masked_rows_are_zero_and_may_hold_anything(several: bool, problem) -> None:
    logits, index = problem(2, 3, 20)
    keep = torch.tensor([[1, 0, 1], [1, 1, 0]])
    expected = chosen_log_softmax(logits, index)
    logits[keep == 0] = torch.nan
    index = index.masked_fill(keep == 0, -100)
    row_mask = keep
    if several:
        index, row_mask = index[..., None].expand(2, 3, 2), torch.stack([keep, torch.ones_like(keep)], -1)
        expected = expected[..., None].expand(2, 3, 2)
    logits.requires_grad_()
    ours = adapters.selective_log_softmax(logits, index, row_mask=row_mask)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    torch.testing.assert_close(ours[keep == 1], expected[keep == 1])
    assert (ours[keep == 0] == 0).all()
    assert (gradient[keep == 0] == 0).all()
    assert gradient[keep == 1].abs().max() > 0


def test_wrong_shapes_are_refused(problem) -> None:
    logits, index = problem(2, 3, 20)
    with pytest.raises(ValueError, match=r"index must be \(2, 3\) or \(2, 3, K\), got \(2, 2\)"):
        adapters.selective_log_softmax(logits, index[:, :2])
    with pytest.raises(ValueError, match=r"shape of index, \(2, 3\), got \(2, 1\)"):
        adapters.selective_log_softmax(logits, index, row_mask=torch.ones(2, 1))


def test_entropy_and_its_gradient(problem) -> None:
    logits, _ = problem(2, 3, 20)
    logits = logits.double().requires_grad_()
    ours, expected = adapters.entropy_from_logits(logits, 2), entropy(logits)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), logits), torch.autograd.grad(expected.square().sum(), logits)
    )


def test_low_precision_is_summed_in_float32_and_impossible_tokens_add_nothing(problem) -> None:
    logits, _ = problem(4, 5000)
    logits[0, 5:] = -torch.inf
    low = logits.bfloat16()
    ours = adapters.entropy_from_logits(low)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), entropy(low.double()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("layout", ["plain", "leaf", "slice"])
def test_log_probabilities_of_labels(inplace: bool, layout: str, problem) -> None:
    values, labels = problem(2, 4, 9)
    values = values.double().requires_grad_()
    logits = values if layout == "leaf" else values * 2
    if layout == "slice":
        logits, labels = logits[:, :-1], labels[:, :-1]
    expected = chosen_log_softmax(logits, labels)
    (wanted,) = torch.autograd.grad(expected.sum(), values, retain_graph=True)
    before = logits.detach().clone()
    ours = adapters.logprobs_from_logits(logits, labels, inplace_backward=inplace)
    torch.testing.assert_close(ours, expected)
    (gradient,) = torch.autograd.grad(ours.sum(), values)
    torch.testing.assert_close(gradient, wanted)
    assert torch.equal(logits.detach(), before) == (not inplace or layout != "plain")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("trl.trainer.utils", "selective_log_softmax"),
        ("trl.trainer.utils", "entropy_from_logits"),
        ("verl.utils.torch_functional", "logprobs_from_logits"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_original_has_the_same_arguments_and_results(module: str, name: str, problem) -> None:
    pytest.importorskip(module.partition(".")[0])
    original, ours = getattr(importlib.import_module(module), name), getattr(adapters, name)
    of_original, of_ours = (inspect.signature(function).parameters.values() for function in (original, ours))
    assert [(p.name, p.default) for p in of_original] == [(p.name, p.default) for p in of_ours]
    logits, index = problem(2, 3, 50)
    arguments = (logits,) if name == "entropy_from_logits" else (logits, index)
    torch.testing.assert_close(ours(*arguments), original(*arguments), atol=1e-5, rtol=1e-5)
