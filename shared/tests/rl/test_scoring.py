"""Scoring through the head and through the logits: the same numbers, and the choice between them."""

import pytest
import torch

from corollary.kernels import STATISTICS
from corollary.models import SmallModel
from corollary.rl import Rollouts, scoring
from corollary.rl.scoring import score

V = 14


@pytest.fixture
def model():
    return SmallModel(hidden_size=32, layers=1, heads=2, intermediate_size=48).build(V, seed=0).eval()


@pytest.fixture
def rollouts() -> Rollouts:
    generator = torch.Generator().manual_seed(0)
    prompt_mask = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    completion_mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)
    return Rollouts(
        torch.randint(V, (3, 3), generator=generator),
        prompt_mask,
        torch.randint(V, (3, 4), generator=generator),
        completion_mask,
        torch.zeros(3, 4),
        torch.zeros(3),
        torch.arange(3),
        1.0,
    )


def spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    used: list[str] = []
    for name in ("model_token_stats", "token_stats"):
        original = getattr(scoring, name)
        monkeypatch.setattr(scoring, name, lambda *a, n=name, f=original, **k: (used.append(n), f(*a, **k))[1])
    return used


def test_head_and_logits_give_the_same_statistics_and_gradients(model, rollouts) -> None:
    results = []
    for head in ("linear", "logits"):
        stats = score(model, rollouts, temperature=0.8, stats=STATISTICS, head=head)
        total = sum((i + 1) * field.sum() for i, field in enumerate(stats[:5]))
        results.append([*stats, *torch.autograd.grad(total, list(model.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_small_models_on_a_cpu_are_scored_from_their_logits_with_the_same_bits(
    model, rollouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = spied(monkeypatch)
    by_default = score(model, rollouts)
    assert used == ["token_stats"]
    assert torch.equal(by_default.log_prob, score(model, rollouts, head="logits").log_prob)


def test_large_logits_are_never_held_by_default(model, rollouts, monkeypatch: pytest.MonkeyPatch) -> None:
    used = spied(monkeypatch)
    monkeypatch.setattr(scoring, "LARGE_LOGITS", 3 * 4 * V * 4)
    score(model, rollouts)
    monkeypatch.setattr(scoring, "LARGE_LOGITS", 3 * 4 * V * 4 + 1)
    score(model, rollouts)
    assert used == ["model_token_stats", "token_stats"]


def test_a_model_without_a_known_head_falls_back_unless_the_head_is_demanded(
    model, rollouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = spied(monkeypatch)
    monkeypatch.setattr(scoring, "LARGE_LOGITS", 0)
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    score(model, rollouts)
    assert used == ["token_stats"]
    with pytest.raises(ValueError, match=r"to be a torch\.nn\.Linear, got NoneType"):
        score(model, rollouts, head="linear")


def test_an_unknown_head_is_refused(model, rollouts) -> None:
    with pytest.raises(ValueError, match="head must be one of auto, logits, linear; got 'both'"):
        score(model, rollouts, head="both")
