"""Values of the statistics: closed forms, a float64 reference, offsets, ragged vocabularies, low precision."""

import math

import pytest
import torch
from torch import Tensor

from corollary.kernels import STATISTICS, TokenStats, token_stats


def reference(logits: Tensor, targets: Tensor, temperature: float | Tensor = 1.0) -> TokenStats:
    """The textbook formulas in float64, without care for -inf."""
    scaled = logits.double() / (temperature[..., None] if isinstance(temperature, Tensor) else temperature)
    log_p = scaled.log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1)
    return TokenStats(
        log_p.gather(-1, targets[..., None]).squeeze(-1),
        entropy,
        p.square().sum(-1),
        (p.square() * log_p).sum(-1),
        (p * (log_p + entropy[..., None]).square()).sum(-1),
        scaled.logsumexp(-1),
    )


def random_problem(*shape: int, scale: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, generator=generator) * scale
    return logits, torch.randint(shape[-1], shape[:-1], generator=generator)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 50.0])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_statistics_agree_with_the_textbook_formulas_in_float64(scale: float, temperature: float) -> None:
    logits, targets = random_problem(3, 5, 40, scale=scale)
    ours = token_stats(logits.double(), targets, temperature=temperature, stats=STATISTICS)
    expected = reference(logits, targets, temperature)
    for name, value in expected._asdict().items():
        torch.testing.assert_close(getattr(ours, name), value, atol=1e-11, rtol=1e-12, msg=name)


def test_uniform_row_has_its_closed_form() -> None:
    count = 7
    stats = token_stats(torch.full((1, count), 3.0).double(), torch.tensor([2]), stats=STATISTICS)
    log_v = math.log(count)
    expected = [-log_v, log_v, 1 / count, -log_v / count, 0.0, 3.0 + log_v]
    torch.testing.assert_close(torch.stack(list(stats)).flatten(), torch.tensor(expected).double())


def test_one_hot_row_has_its_closed_form() -> None:
    logits = torch.zeros(1, 9)
    logits[0, 4] = 1000.0
    stats = token_stats(logits, torch.tensor([4]), stats=STATISTICS)
    expected = [0.0, 0.0, 1.0, 0.0, 0.0, 1000.0]
    torch.testing.assert_close(torch.stack(list(stats)).flatten(), torch.tensor(expected), atol=0, rtol=0)
