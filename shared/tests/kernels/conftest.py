"""A float64 reference and seeded problems; also sets up Triton's interpreter before any kernel is defined."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from corollary.kernels import TokenStats

# Kernels then run on CPU tensors. Triton reads it when a kernel is defined, so it is set before any test.
os.environ.setdefault("TRITON_INTERPRET", "1")

Reference = Callable[..., TokenStats]
Problem = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def no_forced_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COROLLARY_TOKEN_STATS_BACKEND", raising=False)


@pytest.fixture
def reference() -> Reference:
    def compute(logits: Tensor, targets: Tensor, temperature: float | Tensor = 1.0) -> TokenStats:
        """The textbook formulas in float64; 0 log 0 is 0."""
        tau = temperature.double().unsqueeze(-1) if isinstance(temperature, Tensor) else temperature
        scaled = logits.double() / tau
        log_p = scaled.log_softmax(-1)
        p = log_p.exp()
        finite = log_p.masked_fill(log_p.isneginf(), 0.0)
        entropy = -(p * finite).sum(-1)
        return TokenStats(
            log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1),
            entropy,
            p.square().sum(-1),
            (p.square() * finite).sum(-1),
            (p * (finite + entropy.unsqueeze(-1)).square()).sum(-1),
            scaled.logsumexp(-1),
        )

    return compute


@pytest.fixture
def problem() -> Problem:
    def make(*shape: int, scale: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(*shape, generator=generator) * scale
        return logits, torch.randint(shape[-1], shape[:-1], generator=generator)

    return make


class Allocations(TorchDispatchMode):
    """Records the bytes of every memory that an operation made while this is active: a test needs no device then."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    @property
    def largest(self) -> int:
        return max(self.sizes, default=0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.sizes.append(tensor.untyped_storage().nbytes())
        return result


@pytest.fixture
def allocations() -> type[Allocations]:
    return Allocations
