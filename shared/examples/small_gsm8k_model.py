"""A small language model of GSM8K's text, trained from scratch on a CPU: something to try `corollary train` with.

    uv run --all-packages python shared/examples/small_gsm8k_model.py --out gsm8k-small

trains a byte-level BPE tokenizer on the questions and solutions of GSM8K's training set, then a Llama of a few million
parameters on the same text, and saves both in a folder that transformers (and `corollary train rlvr --model`) loads. It
learns how a solution looks and not how to solve anything: its accuracy is close to 0.
"""

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import tyro

from corollary.data import DataUnavailable
from corollary.models import SmallModel
from corollary.tasks.questions import registered_questions
from corollary.training.choices import default_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|end|>"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How large, and for how long. The defaults take about four minutes on one core."""

    out: Path = Path("gsm8k-small")
    """Folder for model and tokenizer."""
    questions: int = 7_473
    """How many of the training questions."""
    tokens: int = 2_000
    """Of the vocabulary."""
    hidden_size: int = 192
    layers: int = 4
    batch_size: int = 16
    steps: int = 150
    learning_rate: float = 3e-3
    """The highest; it rises over a tenth of the steps and falls to 0 along a cosine."""
    seed: int = 0


def tokenizer_of(texts: list[str], size: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer of this size, which writes digits one by one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END)


def train(options: Options) -> None:
    """Train both and save them."""
    template = default_template("number", chat=False)
    rows = registered_questions("GSM8K-train")[: options.questions]
    # As the task asks: the model sees in reinforcement learning what it has read here.
    texts = [f"{template.replace('{question}', row.question)} {row.answer}" for row in rows]
    tokenizer = tokenizer_of(texts, options.tokens)
    written = [[*tokens, tokenizer.eos_token_id] for tokens in tokenizer(texts)["input_ids"]]
    shape = SmallModel(
        hidden_size=options.hidden_size,
        layers=options.layers,
        heads=options.hidden_size // 32,
        intermediate_size=8 * options.hidden_size // 3,
        max_positions=1024,
    )
    model = shape.build(len(tokenizer), seed=options.seed)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{len(texts)} texts, {sum(map(len, written)):,} tokens of {len(tokenizer)}, {size:,} parameters", flush=True)

    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, fused=True)
    rng = np.random.default_rng(options.seed)
    began = time.monotonic()
    for step in range(options.steps):
        warm, done = max(1, options.steps // 10), step / options.steps
        rate = options.learning_rate * min(1.0, (step + 1) / warm) * 0.5 * (1 + np.cos(np.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = [written[index] for index in rng.integers(len(written), size=options.batch_size)]
        width = max(map(len, batch))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch])
        labels = ids.masked_fill(mask == 0, -100)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == options.steps - 1:
            print(f"step {step + 1}: loss {loss.item():.3f} nats a token, {time.monotonic() - began:.0f} s", flush=True)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"saved in {options.out}: {', '.join(f'{k} {v}' for k, v in dataclasses.asdict(shape).items())}")


if __name__ == "__main__":
    try:
        train(tyro.cli(Options, description=__doc__))
    except DataUnavailable as error:
        sys.exit(str(error))
