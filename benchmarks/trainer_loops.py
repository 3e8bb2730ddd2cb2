"""The three trainers that `trainer.py` times: ours, TRL's, and a loop with nothing around it; each does the same work.

Prompts are token ids of one length and completions have a fixed length (no token ends one), so all three sample, score
and train on the same number of tokens. Each takes the same optimiser steps: GRPO's loss as a mean over sequences,
ratios clipped to 1 +- 0.2, gradients clipped to norm 1, fused AdamW at a constant rate, 32-bit weights.
"""

import importlib
import importlib.util
import io
import itertools
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corollary.models import SmallModel
from corollary.rl import GRPO, GRPOConfig, Shortcuts, TrainConfig, Trainer
from corollary.tasks import Prompt

RATE, CLIP, GRADIENT_NORM, ADVANTAGE_EPS = 1e-4, 0.2, 1.0, 1e-4
PROMPTS = 1024


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model and a rollout batch; the trainers differ in nothing that is said here."""

    name: str
    model: SmallModel
    vocab_size: int
    prompts: int
    """Of a rollout batch."""
    group: int = 8
    """Completions of a prompt."""
    prompt_tokens: int = 6
    completion_tokens: int = 6
    updates: int = 4
    """Optimiser steps of a rollout batch: our ``mini_batches``, TRL's ``steps_per_generation``."""
    warm: int = 3
    """Rollout batches before the clock starts."""
    timed: int = 20
    """Rollout batches that are timed."""

    @property
    def completions(self) -> int:
        """Of a rollout batch."""
        return self.prompts * self.group

    def build(self) -> Any:
        """The model, with the same random weights for all."""
        return self.model.build(self.vocab_size, seed=0)


@dataclass(frozen=True)
class Timing:
    """What one run of a trainer took, and what it did meanwhile."""

    wall_s: float
    cpu_s: float
    optimiser_steps: int
    completion_tokens: int
    """Sampled while the clock ran."""
    moved: float
    """How far the weights are from where they began, largest difference: a trainer that does nothing is fast."""
    phases: dict[str, float]
    """Seconds of each phase, where a trainer says."""


class Stopwatch:
    """Reads both clocks after the warm-up and after the last timed rollout batch."""

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        self.problem = problem
        self.model = model
        self.before = [p.detach().clone() for p in model.parameters()]
        self.tokens = self.steps = 0
        self.readings: list[tuple[float, float, int, int]] = []

    def batch_done(self, done: int) -> None:
        """To be called when ``done`` rollout batches are trained on."""
        if done in (self.problem.warm, self.problem.warm + self.problem.timed):
            self.readings.append((time.perf_counter(), time.process_time(), self.steps, self.tokens))

    def timing(self, phases: dict[str, float] | None = None) -> Timing:
        """The differences of the two readings."""
        wall, cpu, steps, tokens = (after - before for before, after in zip(*self.readings, strict=True))
        pairs = zip(self.before, self.model.parameters(), strict=True)
        moved = max(float((now.detach() - then).abs().max()) for then, now in pairs)
        return Timing(wall, cpu, int(steps), int(tokens), moved, phases or {})


class FixedLength:
    """Random prompts; a completion's reward is the share of its tokens in the lower half of the vocabulary."""

    name = "fixed-length"
    stop_token: int | None = None
    pad_token = 0

    def __init__(self, problem: Problem) -> None:
        self.vocab_size = problem.vocab_size
        self.max_completion_length = problem.completion_tokens
        rng = np.random.default_rng(0)
        shape = (max(PROMPTS, problem.prompts), problem.prompt_tokens)
        self.rows: list[list[int]] = rng.integers(0, problem.vocab_size, shape).tolist()
        self.tokens = 0

    @cached_property
    def _prompts(self) -> list[Prompt]:
        return [Prompt(tuple(row), None) for row in self.rows]

    def prompts(self, split: str) -> list[Prompt]:
        """The same for both splits: nothing is held out here."""
        return self._prompts

    def reward(self, prompt: Prompt | None, completion: Sequence[int]) -> float:
        """The share, and counts the tokens."""
        self.tokens += len(completion)
        return sum(token < self.vocab_size // 2 for token in completion) / len(completion)

    def correct(self, prompt: Prompt, completion: Sequence[int]) -> bool:
        """Whether all of its tokens count."""
        return self.reward(prompt, completion) == 1.0

    def answer_key(self, completion: Sequence[int]) -> tuple[int, ...]:
        """The completion itself."""
        return tuple(completion)


def ours(problem: Problem, *, shortcuts: Shortcuts | None = None) -> Timing:
    """`corollary.rl.Trainer` with its files of metrics and timings, as in a recorded run."""
    model, task = problem.build(), FixedLength(problem)
    watch = Stopwatch(problem, model)
    # One step more than is timed: the checkpoint at the end is not part of a step.
    config = TrainConfig(
        steps=problem.warm + problem.timed + 1,
        prompts_per_step=problem.prompts,
        group_size=problem.group,
        mini_batches=problem.updates,
        learning_rate=RATE,
        max_grad_norm=GRADIENT_NORM,
        checkpoint_every=10**6,
    )
    algorithm = GRPO(
        GRPOConfig(clip_low=CLIP, clip_high=CLIP, dual_clip=None, aggregation="grpo", advantage_eps=ADVANTAGE_EPS)
    )

    def step_done(step: int, _: object) -> None:
        watch.steps, watch.tokens = step * problem.updates, task.tokens
        watch.batch_done(step)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            task,
            algorithm,
            config,
            seed=0,
            directory=Path(folder),
            on_step=step_done,
            shortcuts=shortcuts,
        )
        trainer.train()
        rows = [json.loads(line) for line in (Path(folder) / "timings.jsonl").read_text().splitlines()]
    rows = rows[problem.warm : problem.warm + problem.timed]
    return watch.timing({name: sum(row[f"time/{name}_s"] for row in rows) for name in PHASES})


PHASES = ("rollout", "reward", "score", "update")


def bare(problem: Problem) -> Timing:
    """The least that somebody would write: sample with the cache, score, and take the optimiser steps."""
    model, task = problem.build().eval(), FixedLength(problem)
    watch = Stopwatch(problem, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    torch.manual_seed(0)
    prompts = itertools.cycle(task.rows)
    width = problem.prompt_tokens

    def log_probs(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids, use_cache=False).logits[:, width - 1 : -1]
        return logits.log_softmax(-1).gather(-1, ids[:, width:, None])[..., 0]

    for done in range(1, problem.warm + problem.timed + 1):
        ids = torch.tensor([next(prompts) for _ in range(problem.prompts)]).repeat_interleave(problem.group, 0)
        with torch.no_grad():
            newest, cache = ids, None
            for _ in range(problem.completion_tokens):
                output = model(input_ids=newest, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = output.past_key_values
                newest = output.logits[:, -1].softmax(-1).multinomial(1)
                ids = torch.cat([ids, newest], dim=1)
            old = log_probs(ids)
        rewards = torch.tensor([task.reward(None, row[width:]) for row in ids.tolist()]).view(-1, problem.group)
        centred = rewards - rewards.mean(1, keepdim=True)
        advantages = (centred / (rewards.std(1, keepdim=True) + ADVANTAGE_EPS)).view(-1, 1)
        for rows in torch.randperm(len(ids)).split(len(ids) // problem.updates):
            ratio = (log_probs(ids[rows]) - old[rows]).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            loss = -torch.minimum(ratio * advantages[rows], clipped * advantages[rows]).mean(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            watch.steps += 1
        watch.tokens = task.tokens
        watch.batch_done(done)
    return watch.timing()


def trl(problem: Problem, *, its_defaults: bool = False) -> Timing:
    """TRL's `GRPOTrainer` without reports, progress bar, logging, saving and evaluation.

    In 32 bits and with activations kept, as the others, unless ``its_defaults``: TRL by itself uses bfloat16 autocast
    and computes activations again in the backward pass. It tokenizes prompts and decodes completions as always; the
    tokenizer has one word for each token.
    """
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return _trl(problem, its_defaults)


def _trl(problem: Problem, its_defaults: bool) -> Timing:
    logging.disable(logging.WARNING)
    # By name, since neither is among what the workspace installs.
    datasets: Any = importlib.import_module("datasets")
    trl: Any = importlib.import_module("trl")
    from transformers import TrainerCallback

    model, task = problem.build(), FixedLength(problem)
    watch = Stopwatch(problem, model)

    class AfterEachStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.steps, watch.tokens = state.global_step, task.tokens
            if state.global_step % problem.updates == 0:
                watch.batch_done(state.global_step // problem.updates)

    def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return [task.reward(None, tokens) for tokens in completion_ids]

    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.GRPOConfig(
            output_dir=folder,
            max_steps=(problem.warm + problem.timed) * problem.updates,
            per_device_train_batch_size=problem.completions // problem.updates,
            gradient_accumulation_steps=1,
            steps_per_generation=problem.updates,
            num_generations=problem.group,
            max_completion_length=problem.completion_tokens,
            loss_type="grpo",
            epsilon=CLIP,
            beta=0.0,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=GRADIENT_NORM,
            optim="adamw_torch_fused",
            weight_decay=0.01,
            seed=0,
            use_cpu=True,
            bf16=its_defaults,
            gradient_checkpointing=its_defaults,
            dataloader_pin_memory=False,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
        )
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=arguments,
            train_dataset=datasets.Dataset.from_list([{"prompt": " ".join(map(str, row))} for row in task.rows]),
            processing_class=_tokenizer(problem.vocab_size),
            callbacks=[AfterEachStep()],
        )
        trainer.train()
    return watch.timing()


def _tokenizer(vocab_size: int) -> Any:
    """One word for each token of the model, whose vocabulary lacks the ids that end and pad: it never writes them."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {str(i): i for i in range(vocab_size)} | {"<end>": vocab_size, "<pad>": vocab_size + 1}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", unk_token="<end>", padding_side="left"
    )


TRAINERS: dict[str, Callable[[Problem], Timing]] = {
    "trl": trl,
    "trl, its defaults": partial(trl, its_defaults=True),
    "bare loop": bare,
    "corollary": ours,
    "corollary, shared prompts": partial(ours, shortcuts=Shortcuts(share_prompts=True)),
    "corollary, two shortcuts": partial(ours, shortcuts=Shortcuts(share_prompts=True, sampler_stats=True)),
    "corollary, all shortcuts": partial(
        ours, shortcuts=Shortcuts(share_prompts=True, sampler_stats=True, compiled=True)
    ),
}
"""What is timed, by name."""


def absent(name: str) -> str:
    """Why a trainer cannot run here; empty if it can."""
    return "trl is not installed" if name.startswith("trl") and importlib.util.find_spec("trl") is None else ""


def run(name: str, problem: Problem) -> Timing:
    """One run of a trainer on one thread.

    Raises:
        RuntimeError: it did other work than the problem says.
    """
    torch.set_num_threads(1)
    timing = TRAINERS[name](problem)
    steps = problem.timed * problem.updates
    tokens = problem.timed * problem.completions * problem.completion_tokens
    if (timing.optimiser_steps, timing.completion_tokens) != (steps, tokens) or not timing.moved > 0:
        raise RuntimeError(
            f"{name} took {timing.optimiser_steps} optimiser steps and sampled {timing.completion_tokens} tokens, "
            f"expected {steps} and {tokens}; its weights moved by {timing.moved}"
        )
    return timing
