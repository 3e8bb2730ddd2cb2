"""What makes the trainer fast changes no bit, and what may change the last ones says so."""

import copy

import pytest
import torch
from torch import nn

from corollary.models import PlainLlama, SmallModel
from corollary.rl import GRPO, Rollouts, Shortcuts, TrainConfig, Trainer, make_algorithm
from corollary.rl import trainer as trainer_module
from corollary.rollout import accepts
from corollary.tasks import Prompt, make_task

TASK = make_task("digit-sum")
COMPILES = (pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600))
"""The compiler's own warnings are not ours."""


class Ragged:
    """digit-sum with prompts of different lengths, where every small first digit counts."""

    def __getattr__(self, name):
        return getattr(TASK, name)

    def prompts(self, split):
        return [Prompt(p.tokens[: 1 + i % 4], p.answer) for i, p in enumerate(TASK.prompts(split))]

    def reward(self, prompt, completion):
        return float(completion[0] < 5)


def made(algorithm="grpo", *, dtype=torch.float32, shortcuts=None, **options):
    torch.set_num_threads(1)
    model = SmallModel(hidden_size=32, layers=1, heads=2, intermediate_size=48).build(TASK.vocab_size, seed=0)
    defaults = {"steps": 3, "prompts_per_step": 6, "group_size": 4, "mini_batches": 3, "learning_rate": 1e-2}
    config = TrainConfig(**{**defaults, **options})
    return Trainer(model.to(dtype), Ragged(), make_algorithm(algorithm), config, seed=0, shortcuts=shortcuts)


def run(trainer):
    return [trainer.step() for _ in range(3)], torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("algorithm", ["grpo", "entropy-bonus", "clip-cov"])
@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_the_plain_forward_pass_changes_no_bit_of_a_run(algorithm, micro_batch_size, monkeypatch):
    asked = []
    own = PlainLlama.logits
    monkeypatch.setattr(PlainLlama, "logits", lambda *args, **options: asked.append(1) or own(*args, **options))
    plain, weights = run(made(algorithm, micro_batch_size=micro_batch_size))
    assert asked
    monkeypatch.setattr(PlainLlama, "of", classmethod(lambda cls, model: None))
    theirs, their_weights = run(made(algorithm, micro_batch_size=micro_batch_size))
    assert plain == theirs
    assert torch.equal(weights, their_weights)


def test_a_mini_batch_that_is_not_copied_gives_the_bits_of_its_copy(monkeypatch):
    kept, weights = run(made())
    own = Trainer._micro_batches
    # A second, empty part: rows are then taken from the mini-batch, as with several micro-batches.
    monkeypatch.setattr(
        Trainer, "_micro_batches", lambda self, rows: own(self, rows) + ((rows[:0],) if torch.is_grad_enabled() else ())
    )
    monkeypatch.setattr(trainer_module, "score", without_empty(trainer_module.score))
    copied, their_weights = run(made())
    assert [m["grad/norm"] for m in kept] == [m["grad/norm"] for m in copied]
    assert torch.equal(weights, their_weights)


def without_empty(own):
    """Nothing to run for no rows: the statistics of the first row, and none of them."""

    def score(model, rollouts, **options):
        if len(rollouts):
            return own(model, rollouts, **options)
        weight = next(model.parameters())
        shape = rollouts.completion_ids.shape
        return trainer_module.TokenStats(log_prob=weight.sum() * torch.zeros(shape, dtype=weight.dtype))

    return score


ALL = {"share_prompts": True, "sampler_stats": True, "compiled": True}


@pytest.mark.parametrize(
    ("shortcuts", "algorithm"),
    [
        ({"share_prompts": True}, "grpo"),
        ({"share_prompts": True}, "entropy-bonus"),
        ({"sampler_stats": True}, "grpo"),
        ({"sampler_stats": True}, "entropy-bonus"),
        pytest.param({"compiled": True}, "grpo", marks=COMPILES),
        pytest.param(ALL, "entropy-bonus", marks=COMPILES),
    ],
)
def test_shortcuts_train_alike(shortcuts, algorithm):
    apart, weights = run(made(algorithm, dtype=torch.float64))
    short, short_weights = run(made(algorithm, dtype=torch.float64, shortcuts=Shortcuts(**shortcuts)))
    for ours, theirs in zip(short, apart, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(short_weights, weights, rtol=0, atol=1e-4)
    if set(shortcuts) != {"sampler_stats"}:  # which may well have the bits of scoring, in a model of one layer
        assert not torch.equal(short_weights, weights), "it is another order of the sums"


def test_with_the_samplers_statistics_nothing_is_scored_without_gradient(monkeypatch):
    scored = []
    own = trainer_module.score
    monkeypatch.setattr(trainer_module, "score", lambda *a, **k: scored.append(torch.is_grad_enabled()) or own(*a, **k))
    run(made(shortcuts=Shortcuts(sampler_stats=True)))
    assert scored
    assert all(scored)


def test_the_samplers_statistics_are_at_the_training_temperature():
    options = {"temperature": 1.4, "score_temperature": 0.6, "dtype": torch.float64}
    (apart, *_), _ = run(made(**options))
    (short, *_), _ = run(made(**options, shortcuts=Shortcuts(sampler_stats=True)))
    assert short == pytest.approx(apart, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shortcut", ["share_prompts", "compiled"])
def test_a_shortcut_is_refused_for_another_model(shortcut):
    model = SmallModel(hidden_size=32, layers=1, heads=2, intermediate_size=48).build(TASK.vocab_size, seed=0)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="share_prompts and compiled need a plain transformers LlamaForCausalLM"):
        Trainer(model, Ragged(), GRPO(), TrainConfig(), seed=0, shortcuts=Shortcuts(**{shortcut: True}))


def test_a_run_with_a_shortcut_does_not_go_on_without_it(tmp_path):
    trainer = made(shortcuts=Shortcuts(sampler_stats=True))
    trainer.step()
    with pytest.raises(ValueError, match="the checkpoint was made with sampler_stats True, got sampler_stats False"):
        made().load_state_dict(trainer.state_dict())


def test_a_checkpoint_from_before_there_were_shortcuts_goes_on(tmp_path):
    trainer = made()
    trainer.step()
    state = copy.deepcopy(trainer.state_dict())
    for name in ALL:
        del state["identity"][name]
    again = made()
    again.load_state_dict(state)
    assert again.step() == trainer.step()


def test_groups_with_two_rewards_are_counted():
    rewards = [0.0, 1.0, 2.0, 2.0, -0.0, 0.0, 5.0, 3.0]
    groups = [7, 7, 1, 1, 3, 3, 9, 7]
    count = len(rewards)
    rollouts = Rollouts(
        *(torch.zeros(count, 1, dtype=torch.long) for _ in range(5)),
        rewards=torch.tensor(rewards),
        group_ids=torch.tensor(groups),
        temperatures=torch.ones(count),
    )
    assert trainer_module._mixed_groups(rollouts) == 1 / 4


def test_a_forward_pass_that_was_replaced_is_asked_anew():
    model = SmallModel(hidden_size=16, layers=1, heads=2, intermediate_size=24).build(4, seed=0)
    assert accepts(model, "logits_to_keep")
    assert accepts(model, "position_ids")

    def forward(input_ids, attention_mask=None):
        raise NotImplementedError

    model.forward = forward
    assert not accepts(model, "logits_to_keep")
    assert accepts(model, "attention_mask")


def test_the_mode_of_every_module_is_evaluation_while_sampling():
    seen = []

    class Watching(nn.Dropout):
        def forward(self, x):
            seen.append(self.training)
            return super().forward(x)

    trainer = made()
    head = trainer.model.lm_head
    trainer.model.lm_head = nn.Sequential(head, Watching(0.5))
    trainer.model.lm_head.train()
    trainer._batch(trainer._next_prompts(), 1.0)
    assert seen
    assert not any(seen)
