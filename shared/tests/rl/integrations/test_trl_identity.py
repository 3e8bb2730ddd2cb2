"""With TRL's own settings the engine is TRL: the same losses and gradients, step by step."""

import pytest
import torch

pytest.importorskip("trl", reason='needs the extra "trl"')

from corollary.rl import make_algorithm
from corollary.rl.integrations.trl import AlgorithmGRPOTrainer, grpo_options
from trl import GRPOConfig, GRPOTrainer

# TRL 1.16 uses names that transformers 5.23 wants to be rid of.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


@pytest.fixture
def float64(monkeypatch):
    """TRL in float64: its head and its rewards are float32 at most, so that nothing could be compared exactly."""
    calculate = GRPOTrainer._calculate_rewards

    def rewards(self, *args):
        return calculate(self, *args).double()

    def log_probs(self, model, input_ids, attention_mask, logits_to_keep, *args, **_):
        out = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        logits = out.logits[:, -logits_to_keep - 1 : -1] / self.temperature
        each = logits.log_softmax(-1)
        chosen = each.gather(-1, input_ids[:, -logits_to_keep:, None]).squeeze(-1)
        return chosen, -(each.exp() * each).sum(-1), None

    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", rewards)
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", log_probs)


@pytest.fixture
def equally_long():
    """Prompts without padding. TRL scores padded ones at other positions than it samples them, which for rotary
    embeddings is the same but for their rounding to float32."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [f"{i}+{j}=" for i in range(10, 16) for j in range(4)]})


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def worst(ours, theirs):
    """The largest difference between two runs' gradients, relative to the largest gradient of the step."""
    assert len(ours) == len(theirs) > 0
    return max(
        float(max((a[name] - b[name]).abs().max() for name in b) / max(b[name].abs().max() for name in b))
        for a, b in zip(ours, theirs, strict=True)
    )


def both(trainer_of, args, **more):
    theirs = trainer_of(args(), **more)
    theirs.train()
    mine = args()
    ours = trainer_of(mine, make_algorithm("grpo", **grpo_options(mine)), **more)
    ours.train()
    return ours, theirs


EVERYWHERE = [
    {"steps_per_generation": 1, "gradient_accumulation_steps": 1, "num_iterations": 1},
    {"steps_per_generation": 2, "gradient_accumulation_steps": 2, "num_iterations": 1},
    {"steps_per_generation": 1, "gradient_accumulation_steps": 1, "num_iterations": 2},
    {"steps_per_generation": 2, "gradient_accumulation_steps": 2, "num_iterations": 3},
    {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "num_iterations": 2},
    {"steps_per_generation": 2, "gradient_accumulation_steps": 1, "num_iterations": 1},
]


def fits(loss_type, steps):
    if loss_type == "dapo":
        return steps["steps_per_generation"] == steps["gradient_accumulation_steps"]
    return loss_type != "bnpo" or steps["gradient_accumulation_steps"] == 1


@pytest.mark.parametrize(
    ("loss_type", "steps"),
    [(name, steps) for name in ("grpo", "dapo", "bnpo", "dr_grpo", "luspo") for steps in EVERYWHERE if fits(name, steps)],
    ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x.values())),
)
def test_losses_and_gradients_are_those_of_trl(float64, trainer_of, options, equally_long, loss_type, steps):
    def args():
        return GRPOConfig(**options, **steps, loss_type=loss_type, epsilon=0.01, epsilon_high=0.02, delta=1.03)

    ours, theirs = both(trainer_of, args, data=equally_long)
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-12, abs=1e-14)
    assert worst(ours.gradients, theirs.gradients) < 1e-12
    if steps["steps_per_generation"] * steps["num_iterations"] > steps["gradient_accumulation_steps"]:
        clipped = [row.get("clip_ratio/region_mean", 0.0) for row in theirs.state.log_history]
        assert max(clipped) > 0, "the ratios were to be clipped"
