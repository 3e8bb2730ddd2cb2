"""Single-token steps of a network: what the recipe writes, against steps made by hand."""

import pytest
import torch

from corollary.models import SmallModel, WarmStart
from corollary.rollout import sample_completions
from corollary.runs import Run, RunStore
from corollary.tasks import make_task
from corollary_entropy_dynamics.network import NetworkStep, read_tokens

TASK = make_task("digit-sum")
POLICY = WarmStart(
    task="digit-sum",
    model=SmallModel(hidden_size=16, layers=1, heads=2, intermediate_size=24),
    steps=5,
    batch_size=16,
    warm_up=2,
)
RECIPE = NetworkStep(task="digit-sum", warm_start=POLICY, tokens=4, learning_rate=1e-3)
SEED = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    torch.set_num_threads(1)
    store = RunStore(tmp_path_factory.mktemp("store"))
    store.execute(Run(RECIPE, SEED))
    return store


@pytest.fixture(scope="module")
def rows(store):
    return read_tokens(store.open(Run(RECIPE, SEED)))


def test_the_rows_of_a_tiny_run_are_pinned(rows):
    # If this changes, the meaning of the recipe "network-step" has changed: raise NetworkStep.version.
    assert rows["position"].tolist() == [0, 0, 1, 1]
    assert rows["predicted"].tolist() == pytest.approx([2.275132e-3, -1.502981e-3, 8.497258e-3, -3.188622e-3], rel=1e-4)
    assert rows["measured"].tolist() == pytest.approx([-1.533373e-4, -1.969810e-4, 1.307823e-4, -1.479043e-4], rel=1e-4)


def completions(model):
    """The completions that the recipe samples."""
    generator = torch.Generator().manual_seed(SEED)
    prompts = TASK.prompts("train")
    chosen = torch.randint(len(prompts), (RECIPE.tokens,), generator=generator).tolist()
    return sample_completions(
        model,
        [prompts[index].tokens for index in chosen],
        max_new_tokens=TASK.max_completion_length,
        generator=generator,
        pad_token=TASK.pad_token,
        stop_token=TASK.stop_token,
    )


def log_probs_after(model, ids):
    """Log-probabilities of the token that follows ``ids``."""
    return model(input_ids=ids[None], use_cache=False).logits[0, -1].log_softmax(-1)


def entropy(log_probs):
    return -(log_probs.exp() * log_probs).sum()


@pytest.mark.parametrize("row", range(RECIPE.tokens))
def test_a_row_is_one_sgd_step_from_the_warm_started_weights(store, rows, row):
    model = POLICY.load(store, seed=0).double().eval()
    samples = completions(model)
    position = rows["position"][row]
    assert samples.completion_mask[row, position]
    state = torch.cat([samples.prompt_ids[row], samples.completion_ids[row, :position]])
    token = samples.completion_ids[row, position]

    before = log_probs_after(model, state)
    p, h = before.detach().exp(), entropy(before.detach())
    s = p * (h + before.detach())
    gradients = torch.autograd.grad(before[token], list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.add_(gradient, alpha=RECIPE.learning_rate)
        after = log_probs_after(model, state)

    assert after[token] > before[token]
    assert rows["predicted"][row] == pytest.approx(-(s[token] - (p * s).sum()).item(), rel=1e-9)
    measured = (entropy(after) - h).item()
    assert abs(measured) > 1e-7
    assert rows["measured"][row] == pytest.approx(measured, rel=1e-6)


def test_the_recipe_needs_its_warm_start_alone():
    assert RECIPE.requires(SEED) == (Run(POLICY, 0),)
