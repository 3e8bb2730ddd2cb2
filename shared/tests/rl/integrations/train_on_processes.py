"""What each process of `test_trl_processes` runs: some steps on completions that depend on the prompt alone."""

import json
import string
import sys
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from corollary.models import SmallModel
from corollary.rl import AdaptiveEntropyBonus, AdaptiveEntropyBonusConfig
from corollary.rl.integrations.trl import AlgorithmGRPOTrainer, args_for

SYMBOLS = ["<end>", *string.digits, "+", "="]


class Scripted(AlgorithmGRPOTrainer):
    """Its completions, of different lengths, follow from the prompt and the place in the group."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        completions = []
        for place, ids in enumerate(prompt_ids):
            start = sum(ids) + 5 * (place % num_generations)
            completions.append([1 + (start + 3 * t) % 12 for t in range(1 + start % 6)])
        return completions, None


def reward(completions, **_):
    return [float(len(text) % 3) + 0.25 * float(text[:1] in "0123") for text in completions]


def main(out: Path, per_device: int) -> None:
    torch.set_num_threads(1)
    words = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(SYMBOLS)}, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
    config = AdaptiveEntropyBonusConfig(target=2.4, initial=0.1, step=0.05, advantage_scale="batch", clip_high=0.01)
    algorithm = AdaptiveEntropyBonus(config)
    args = args_for(
        algorithm,
        output_dir=str(out / "trainer"),
        max_steps=6,
        per_device_train_batch_size=per_device,
        steps_per_generation=2,
        gradient_accumulation_steps=2,
        num_iterations=2,
        num_generations=4,
        max_completion_length=8,
        learning_rate=0.5,
        optim="sgd",
        max_grad_norm=0.0,
        logging_steps=1,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=6,
        gradient_checkpointing=False,
    )
    data = Dataset.from_dict({"prompt": [f"{i}+{j}=" for i in range(7, 13) for j in range(4)]})
    model = SmallModel(hidden_size=32, layers=1, heads=2, intermediate_size=48).build(len(SYMBOLS), seed=0).double()
    trainer = Scripted(model, reward, args, train_dataset=data, processing_class=tokenizer, algorithm=algorithm)
    assert (algorithm.process_group is not None) == (trainer.accelerator.num_processes > 1)
    trainer.train()
    if trainer.accelerator.is_main_process:
        torch.save({name: p.detach() for name, p in trainer.model.named_parameters()}, out / "weights.pt")
        result = {"log": trainer.state.log_history, "coefficient": algorithm.coefficient}
        (out / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
