"""With TRL's own settings the engine is TRL: the same losses and gradients, step by step."""

import pytest
import torch

pytest.importorskip("trl", reason='needs the extra "trl"')

from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer

from corollary.rl import make_algorithm
from corollary.rl.integrations.trl import AlgorithmGRPOTrainer, grpo_options

# TRL 1.16 uses names that transformers 5.23 wants to be rid of.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


@pytest.fixture
def float64(monkeypatch):
    """TRL in float64: its head, rewards and standard deviations are float32 at most."""
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
    monkeypatch.setattr(grpo_trainer, "nanstd", lambda x, dim=None: x.std() if dim is None else x.std(dim))


@pytest.fixture
def equally_long():
    """Prompts without padding. TRL scores padded ones at other positions than it samples them, which for rotary
    embeddings is the same but for their rounding to float32."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [f"{i}+{j}=" for i in range(10, 16) for j in range(4)]})


def both(trainer_of, args, **more):
    theirs = trainer_of(args(), **more)
    theirs.train()
    mine = args()
    ours = trainer_of(mine, make_algorithm("grpo", **grpo_options(mine)), **more)
    ours.train()
    return ours, theirs


STEPS = {  # steps_per_generation, gradient_accumulation_steps, num_iterations
    "grpo": [(1, 1, 1), (2, 2, 3), (4, 2, 2), (2, 1, 1)],
    "dr_grpo": [(2, 2, 1), (4, 2, 2)],
    "luspo": [(4, 2, 2)],
    "dapo": [(1, 1, 2), (2, 2, 1), (2, 2, 3)],
    "bnpo": [(1, 1, 2), (2, 1, 1)],
}


@pytest.mark.parametrize(("loss_type", "steps"), [(name, steps) for name in STEPS for steps in STEPS[name]])
def test_losses_and_gradients_are_those_of_trl(float64, trainer_of, worst, options, equally_long, loss_type, steps):
    names = ("steps_per_generation", "gradient_accumulation_steps", "num_iterations")

    def args():
        more = dict(zip(names, steps, strict=True))
        return GRPOConfig(**options, **more, loss_type=loss_type, epsilon=0.01, epsilon_high=0.02, delta=1.03)

    ours, theirs = both(trainer_of, args, data=equally_long)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-12, abs=1e-14)
    assert worst(ours, theirs) < 1e-12
    if steps[0] * steps[2] > steps[1]:
        clipped = [row.get("clip_ratio/region_mean", 0.0) for row in theirs.state.log_history]
        assert max(clipped) > 0, "the ratios were to be clipped"


def test_dapo_of_trl_divides_by_the_mean_step_of_the_generation_batch(
    float64, trainer_of, options, equally_long, monkeypatch
):
    def args():
        return GRPOConfig(**options, steps_per_generation=2, gradient_accumulation_steps=1, loss_type="dapo")

    counts = []
    new = AlgorithmGRPOTrainer._new_mini_batch

    def counted(self, *rest):
        step = new(self, *rest)
        counts.append(step.token_count)
        return step

    monkeypatch.setattr(AlgorithmGRPOTrainer, "_new_mini_batch", counted)
    options |= {"max_steps": 2, "learning_rate": 0.0}  # else the second step would start from different policies
    ours, theirs = both(trainer_of, args, data=equally_long)
    mean = sum(counts) / 2
    assert counts[0] != counts[1]
    for loss, count, expected in zip(ours.losses, counts, theirs.losses, strict=True):
        assert loss * count == pytest.approx(expected * mean, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("correction", [True, False])
def test_the_kl_term_is_that_of_trl(float64, trainer_of, worst, options, policy, equally_long, tmp_path, correction):
    from transformers import AutoModelForCausalLM

    policy().save_pretrained(tmp_path / "model")

    def args():
        return GRPOConfig(**options, num_iterations=2, loss_type="grpo", beta=0.3, use_bias_correction_kl=correction)

    runs = []
    for kind in ("theirs", "ours"):
        mine = args()
        algorithm = make_algorithm("grpo", **grpo_options(mine)) if kind == "ours" else None
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64)
        trainer = trainer_of(mine, algorithm, model=model, data=equally_long)
        trainer.train()
        runs.append(trainer)
    theirs, ours = runs
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-12, abs=1e-14)
    assert worst(ours, theirs) < 1e-12
    assert max(row.get("kl", 0.0) for row in ours.state.log_history) > 0


def test_untouched_trl_agrees_to_its_float32(trainer_of, worst, options, policy):
    """TRL's own head and padded prompts, nothing patched."""

    def args():
        return GRPOConfig(**options, num_iterations=2, loss_type="grpo")

    theirs = trainer_of(args(), model=policy(torch.float32))
    theirs.train()
    mine = args()
    ours = trainer_of(mine, make_algorithm("grpo", **grpo_options(mine)), model=policy(torch.float32))
    ours.train()
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-5)
    assert worst(ours, theirs) < 1e-4


@pytest.mark.parametrize("bug", ["stale", "scale", "mask"])
def test_a_planted_bug_shows(float64, trainer_of, worst, options, equally_long, monkeypatch, bug):
    def args():
        return GRPOConfig(**options, num_iterations=2, loss_type="grpo", epsilon=0.01)

    name = {"stale": "_score_rows", "scale": "_micro_batch_loss", "mask": "_sampled"}[bug]
    right = getattr(AlgorithmGRPOTrainer, name)

    def wrong(self, *rest):
        if bug == "stale":  # behaviour statistics at another temperature
            self.temperature, kept = 1.1, self.temperature
            try:
                return right(self, *rest)
            finally:
                self.temperature = kept
        out = right(self, *rest)
        if bug == "scale":
            return out * 2
        out.mask[:, -1] = False  # the last token is forgotten
        return out

    monkeypatch.setattr(AlgorithmGRPOTrainer, name, wrong)
    ours, theirs = both(trainer_of, args, data=equally_long)
    assert worst(ours, theirs) > 1e-3
