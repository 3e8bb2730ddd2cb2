"""`corollary train`: a user's own run."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from corollary.cli.errors import UsageError, as_usage_error

if TYPE_CHECKING:
    from corollary.training import Outcome, Settings

Words = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a language model with reinforcement learning from verifiable rewards, with the reference trainer.

    Everything is checked before anything is trained. All files are in the folder --out; the same command again goes
    on where it stopped, to the same numbers. At the end the folder has the trained model, as transformers loads it.
    """

    kind: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="rlvr")]
    """What kind of training: rlvr, reinforcement learning with verifiable rewards."""
    model: Annotated[str, tyro.conf.arg(metavar="PATH_OR_ID")]
    """The model to start from: a folder, or an id on the model hub."""
    task: Annotated[str, tyro.conf.arg(metavar="TASK")]
    """gsm8k, math (trains on 12,000 problems of MATH, is evaluated on MATH-500), math-500, jsonl:PATH (a file with one
    {"question": ..., "answer": ...} a line), or an installed procedural task such as digit-sum."""
    algorithm: Annotated[str, tyro.conf.arg(metavar="NAME")] = "grpo"
    """What to optimise: an installed algorithm."""
    option: Annotated[Words, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """An option of the algorithm, such as clip_high=0.28. Several: give the option again."""
    out: Path = Path("training")
    """Folder for settings, metrics, checkpoint, evaluations and the trained model."""
    seed: int = 0
    """Fixes prompts, samples and mini-batches: on one machine and thread count, the same numbers."""

    steps: int = 100
    """Rollout batches."""
    prompts_per_step: int = 32
    """Prompts of a rollout batch."""
    group_size: int = 8
    """Completions of each prompt."""
    epochs: int = 1
    """Passes over a rollout batch."""
    mini_batches: int = 4
    """Optimiser steps of a pass."""
    micro_batch_size: int | None = None
    """Completions per forward and backward pass; None for a whole mini-batch. Changes memory and not the result."""
    rollout_batch: int | None = None
    """Completions that are sampled together; None for all of a step. Bounds the memory of sampling; another number
    gives other samples."""
    share_prompts: bool = False
    """Compute each prompt once and not once for each of its completions. Like the next two it saves time, changes
    numbers by rounding, so that now and then another token is sampled, and is off unless asked for. Only for a plain
    Llama on a CPU, with one key head per query head (no grouped-query attention)."""
    sampler_stats: bool = False
    """Take the log-probabilities of the ratio's denominator from the sampler, without one more forward pass. For any
    model; in bfloat16 they may differ from those of training."""
    compiled: bool = False
    """Compile the forward and backward pass, which takes up to a minute first and needs a C++ compiler. For models as
    with --share-prompts, small ones and short sequences."""
    learning_rate: float = 1e-6
    """AdamW, constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW."""
    weight_decay: float = 0.01
    """AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    temperature: float = 1.0
    """Of the samples."""
    score_temperature: float | None = None
    """Of the probabilities that training uses; None for the sampling temperature."""
    top_p: float = 1.0
    """Nucleus sampling; 1 is off."""
    checkpoint_every: int = 25
    """Steps between checkpoints."""

    max_prompt_length: int = 512
    """Tokens. Questions with longer prompts are left out, and counted."""
    max_completion_length: int = 512
    """Tokens. Longer completions are cut off."""
    prompt: str | None = None
    """Template of the prompt, with one {question}; None for the task's own, which asks for the form of answer that the
    grader reads."""
    chat: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """Whether the tokenizer's chat template is put around prompts, if it has one."""
    stop: str | None = None
    """The token that ends a completion; None for the tokenizer's end-of-sequence token."""
    grader: Annotated[str, tyro.conf.arg(metavar="{auto,number,math,exact}")] = "auto"
    """How answers are compared. auto = the task's own; for jsonl number if all answers are numbers, else math."""
    question_field: str = "question"
    """Name of the field with the question in a jsonl file."""
    answer_field: str = "answer"
    """Name of the field with the answer, or with a solution that ends in #### or \\boxed{}."""

    eval_task: Annotated[str | None, tyro.conf.arg(metavar="TASK")] = None
    """What evaluations ask; None for the task's held-out questions (of a jsonl file every tenth)."""
    eval_every: int = 0
    """Steps between evaluations; 0 for one before and one after training."""
    eval_prompts: int = 200
    """Held-out prompts of an evaluation, the first ones; 0 for no evaluation."""
    eval_samples: int = 1
    """Completions of each; with more than one, pass@k is reported too."""
    eval_temperature: float = 1.0
    """Of the evaluation's samples."""

    dtype: Annotated[str, tyro.conf.arg(metavar="{float32,bfloat16,float64}")] = "float32"
    """Of weights, gradients and optimiser state."""
    device: str = "auto"
    """Such as cpu or cuda:1; auto = a GPU if there is one."""
    csv: bool = False
    """Write metrics.csv beside metrics.jsonl."""
    tracker: Annotated[str | None, tyro.conf.arg(metavar="{tensorboard,wandb}")] = None
    """Show the metrics there too."""
    dry_run: bool = False
    """Check and load everything, say what would be done, and stop."""

    def run(self) -> int:
        """Train; status 1 when a loss or gradient is not finite."""
        from rich.console import Console

        from corollary.papers.matching import unknown
        from corollary.reproduce.summary import wide_enough

        if self.kind != "rlvr":
            raise UsageError(unknown("kind of training", self.kind, ["rlvr"]))
        console = wide_enough(Console())
        from corollary.rl import TrainingError
        from corollary.training import OwnRun

        with as_usage_error(ValueError, OSError, ImportError):
            own = OwnRun(self._settings(), self.out, csv=self.csv, tracker=self.tracker)
        for line in own.describe():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if self.dry_run:
            console.print("Everything is there; nothing was trained.")
            return 0
        if own.complete:
            console.print(f"{self.out} holds this run, complete; --steps with a larger number goes on.", soft_wrap=True)
            return 0
        try:
            with as_usage_error(OSError, ImportError, ValueError):
                outcome = own.execute(console)
        except TrainingError as error:
            print(f"corollary: {error}", file=sys.stderr)
            return 1
        for line in _summary(outcome, self.out):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        return 0

    def _settings(self) -> "Settings":
        import dataclasses

        from corollary.rl import Shortcuts, TrainConfig
        from corollary.training import Settings

        train = TrainConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)})
        return Settings(
            algorithm=self.algorithm,
            options=tuple(sorted(self.option)),
            model=self.model,
            task=self.task,
            evaluation_task=self.eval_task,
            question_field=self.question_field,
            answer_field=self.answer_field,
            grader=self.grader,
            prompt=self.prompt,
            chat=self.chat,
            stop=self.stop,
            max_prompt_length=self.max_prompt_length,
            max_completion_length=self.max_completion_length,
            train=train,
            rollout_batch=self.rollout_batch,
            shortcuts=Shortcuts(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Shortcuts)}),
            evaluation_prompts=self.eval_prompts,
            evaluation_every=self.eval_every,
            evaluation_samples=self.eval_samples,
            evaluation_temperature=self.eval_temperature,
            dtype=self.dtype,
            device=self.device,
            seed=self.seed,
        )


def _summary(outcome: "Outcome", out: Path) -> list[str]:
    lines = [
        f"{outcome.steps} steps; on average {outcome.mixed_groups:.1%} of the groups had right and wrong completions, "
        "which is where rewards have a gradient"
    ]
    if outcome.mixed_groups == 0:
        lines.append(
            "No group was mixed, so the rewards taught nothing; an easier task, a better model or larger groups."
        )
    if outcome.comparisons_given_up:
        lines.append(f"{outcome.comparisons_given_up} answers took too long to compare and counted as wrong")
    lines.append(f"Model in {outcome.model}, metrics and evaluations in {out}")
    return lines
