import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from corollary.models import SmallModel, WarmStart, warm_start
from corollary.runs import Run, RunStore
from corollary.tasks import Demonstrations, make_task


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_default_model_has_the_size_of_the_specification():
    assert sum(p.numel() for p in SmallModel().build(14, seed=0).parameters()) == 100_032


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = weights(SmallModel().build(14, seed=3))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(weights(SmallModel().build(14, seed=3)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(weights(SmallModel().build(14, seed=4)), first)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return RunStore(tmp_path_factory.mktemp("store"))


RECIPE = WarmStart(task="digit-sum", model=SmallModel(hidden_size=32, layers=1, heads=2), steps=40, batch_size=64)


def test_a_warm_start_learns_and_is_loaded_as_it_was_saved(store):
    run = Run(RECIPE, 0)
    store.execute(run)
    losses = json.loads((store.open(run) / "losses.json").read_text())
    # log 14 = 2.64 is where it starts, log 10 = 2.30 is knowing that only digits come.
    assert sum(losses[-5:]) / 5 < 2.45
    first, second = RECIPE.load(store, seed=0), RECIPE.load(store, seed=0)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(RECIPE.model.build(make_task("digit-sum").vocab_size, seed=0)))


def test_the_losses_and_weights_of_a_tiny_warm_start_are_pinned(store):
    # If this changes, the meaning of the recipe "warm-start" has changed: raise WarmStart.version.
    torch.set_num_threads(1)
    recipe = replace(RECIPE, steps=6, batch_size=16, warm_up=2)
    run = Run(recipe, 0)
    store.execute(run)
    losses = json.loads((store.open(run) / "losses.json").read_text())
    assert losses == pytest.approx([2.604072, 2.595901, 2.550769, 2.522588, 2.519896, 2.483533], rel=1e-4)
    trained = weights(recipe.load(store, seed=0)).double()
    assert trained.norm().item() == pytest.approx(10.284231, rel=1e-4)
    assert trained.abs().sum().item() == pytest.approx(449.295768, rel=1e-4)


def test_the_same_recipe_is_trained_once(store, monkeypatch):
    store.execute(Run(RECIPE, 0))
    monkeypatch.setattr(WarmStart, "execute", lambda *_: pytest.fail("trained again"))
    store.execute(Run(WarmStart(**vars(RECIPE)), 0))


def test_another_recipe_has_another_key():
    assert Run(RECIPE, 0).key != Run(WarmStart(**{**vars(RECIPE), "steps": 41}), 0).key


class Padded:
    """digit-sum, with two columns of padding behind every demonstration."""

    def __init__(self, task, filler):
        self.task, self.filler = task, filler

    def __getattr__(self, name):
        return getattr(self.task, name)

    def demonstrations(self, count, rng, **options):
        tokens, learned = self.task.demonstrations(count, rng, **options)
        padding = np.full((count, 2), self.filler)
        return Demonstrations(np.hstack([tokens, padding]), np.hstack([learned, padding < 0]))


def test_only_completion_tokens_are_learned(monkeypatch, tmp_path):
    recipe, found = replace(RECIPE, steps=2, batch_size=8), []
    for filler in (3, 9):
        monkeypatch.setattr(warm_start, "make_task", lambda name, f=filler: Padded(make_task(name), f))
        store = RunStore(tmp_path / str(filler))
        store.execute(Run(recipe, 0))
        found.append(weights(recipe.load(store, seed=0)))
    assert torch.equal(*found)
