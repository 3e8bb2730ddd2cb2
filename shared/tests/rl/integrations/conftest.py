"""What the tests of the TRL engine share: a tiny policy, its tokenizer, prompts, and the two trainers on them."""

import string

import pytest
import torch

from corollary.models import SmallModel

SYMBOLS = ["<end>", *string.digits, "+", "="]
LENGTH = 5


def reward(completions, **_):
    """Every completion that starts with a small digit is right: an untrained policy gets rewards of both kinds."""
    return [float(text[:1] in "01234" if text else False) for text in completions]


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(SYMBOLS)}, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")


@pytest.fixture
def policy():
    """A function that builds the policy, the same one each time."""

    def build(dtype=torch.float64):
        torch.set_num_threads(1)
        model = SmallModel(hidden_size=32, layers=1, heads=2, intermediate_size=48).build(len(SYMBOLS), seed=0)
        with torch.no_grad():  # a policy with peaked and flat states
            model.model.embed_tokens.weight.mul_(3)
        return model.to(dtype)

    return build


@pytest.fixture
def prompts():
    """Of two lengths, hence padded, and more than a test has time for."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [f"{i}+{j}=" for i in range(7, 13) for j in range(4)]})


@pytest.fixture
def options(tmp_path):
    """Options of TRL for a run of some steps: plain gradient descent keeps differences as small as they are."""
    return {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": LENGTH,
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }


@pytest.fixture
def trainer_of(tokenizer, prompts, policy):
    """A function that makes TRL's trainer, or ours if it gets an algorithm; which keeps every loss and gradient."""
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from corollary.rl.integrations.trl import AlgorithmGRPOTrainer

    class Gradients(TrainerCallback):
        def __init__(self):
            self.steps = []

        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            self.steps.append({name: p.grad.clone() for name, p in model.named_parameters()})

    def make(args, algorithm=None, *, kind=None, model=None, data=None, **more):
        more |= {} if algorithm is None else {"algorithm": algorithm}
        kind = kind or (GRPOTrainer if algorithm is None else AlgorithmGRPOTrainer)
        seen = Gradients()
        trainer = kind(
            model=policy() if model is None else model,
            reward_funcs=more.pop("reward_funcs", reward),
            args=args,
            train_dataset=prompts if data is None else data,
            processing_class=tokenizer,
            callbacks=[seen],
            **more,
        )
        trainer.gradients, trainer.losses = seen.steps, []
        compute_loss = trainer.compute_loss

        def recorded(*args, **options):
            loss = compute_loss(*args, **options)
            trainer.losses.append(loss.item())
            return loss

        trainer.compute_loss = recorded
        return trainer

    return make


@pytest.fixture
def worst():
    """A function: the largest difference between two runs' gradients, relative to the largest gradient of the step."""

    def difference(ours, theirs):
        assert len(ours.gradients) == len(theirs.gradients) > 0
        return max(
            float(max((a[name] - b[name]).abs().max() for name in b) / max(b[name].abs().max() for name in b))
            for a, b in zip(ours.gradients, theirs.gradients, strict=True)
        )

    return difference
