# ruff: noqa: E402 (what stands in the README brings its imports along)
"""STEER in TRL: token losses weighted by how little they are predicted to change the entropy.

A tiny policy with random weights on prompts such as "4+7=": it learns to begin with a small digit.
"""

import string

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from corollary.models import SmallModel

symbols = ["<end>", *string.digits, "+", "="]
words = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}, unk_token="<end>"))
words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
# A real run has model = "Qwen/Qwen2.5-1.5B-Instruct", data = load_dataset(...) with a column "prompt", no tokenizer.
model = SmallModel().build(len(symbols), seed=0)
data = Dataset.from_dict({"prompt": [f"{i}+{j}=" for i in range(10) for j in range(10)]})


def reward(completions, **_):
    """1 for an answer that begins with 0 to 4."""
    return [float(text[:1] in ("0", "1", "2", "3", "4")) for text in completions]


from corollary.rl import make_algorithm
from corollary.rl.integrations.trl import AlgorithmGRPOTrainer, args_for

algorithm = make_algorithm("steer", lambda_min=0.7)
size = {"num_generations": 8, "max_completion_length": 8, "steps_per_generation": 4, "gradient_accumulation_steps": 2}
run = {"max_steps": 8, "logging_steps": 2, "learning_rate": 1e-3, "bf16": False, "save_strategy": "no"}
args = args_for(algorithm, output_dir="out", **size, **run)
trainer = AlgorithmGRPOTrainer(model, reward, args, train_dataset=data, processing_class=tokenizer, algorithm=algorithm)
trainer.train()
