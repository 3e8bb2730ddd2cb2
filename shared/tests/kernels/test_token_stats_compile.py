"""The compiled backend: one small problem, since compilation takes seconds."""

import shutil

import pytest
import torch

from corollary.kernels import STATISTICS, linear_token_stats, token_stats

pytestmark = [
    pytest.mark.skipif(
        not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")), reason="no C++ compiler"
    ),
    pytest.mark.timeout(900),
    # The compiler's own imports and caches warn; none of it is ours.
    pytest.mark.filterwarnings("ignore"),
]


def test_compiled_statistics_and_gradients_agree_with_the_torch_backend(problem) -> None:
    logits, targets = problem(6, 37)
    logits[0, 3:9] = -torch.inf
    targets[0] = 4
    logits[5] = torch.nan
    targets[5] = -100
    mask = torch.tensor([1, 1, 0, 1, 1, 0])
    temperature = torch.linspace(0.5, 2, 6)
    results = []
    for backend in ("torch", "compile"):
        z = logits.clone().requires_grad_()
        stats = token_stats(z, targets, stats=STATISTICS, backend=backend, mask=mask, temperature=temperature)
        total = sum((i + 1) * field[1:].sum() for i, field in enumerate(stats[:5]))
        results.append([*stats, torch.autograd.grad(total, z)[0]])
        with pytest.raises(ValueError, match=r"NaN logits on a valid token: row \(5,\)"):
            token_stats(
                logits.requires_grad_(),
                targets.clamp(min=0),
                stats=STATISTICS,
                backend=backend,
                temperature=temperature,
            )
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=5e-6, rtol=1e-5)


def test_the_head_works_with_compiled_statistics(problem) -> None:
    hidden, targets = problem(5, 4)
    weight, _ = problem(37, 4, seed=1)
    results = []
    for backend in ("torch", "compile"):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
        # Chunks of four rows and of one, the gradient in place of the logits.
        stats = linear_token_stats(*leaves, targets, stats=STATISTICS, backend=backend, chunk_bytes=4 * 37 * 4)
        total = sum((i + 1) * field.sum() for i, field in enumerate(stats[:5]))
        results.append([*stats, *torch.autograd.grad(total, leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
