"""A user's own run from start to end: everything is checked, then trained, evaluated and saved."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from corollary.papers.matching import unknown
from corollary.reproduce.training import Interrupted, OutputError, warnings_as_lines
from corollary.reproduce.workers import Terminated, signals_as_interrupts
from corollary.rl import Trainer, read_metrics
from corollary.runs import load_checkpoint
from corollary.tasks import Task
from corollary.tasks.math_equality import EQUALITY
from corollary.tasks.text import TextTask
from corollary.training.choices import DTYPES, Asked, chosen_algorithm, chosen_task
from corollary.training.display import Display, evaluation_text, make_display
from corollary.training.evaluation import Evaluation, held_out_accuracy
from corollary.training.folder import CHECKPOINT, RunFolder
from corollary.training.language_model import LanguageModel, check_positions, load_language_model
from corollary.training.settings import Settings
from corollary.training.trackers import TRACKERS, Tracker, make_tracker


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    steps: int
    evaluations: tuple[Evaluation, ...]
    mixed_groups: float
    """Mean share of the groups with different rewards: where it is 0, no reward has trained anything."""
    comparisons_given_up: int
    """Comparisons of answers, in this process, that hit a limit and counted as wrong."""
    model: Path
    """Folder of the trained model."""


class OwnRun:
    """A run with all that it needs, checked and loaded; nothing is trained or written before `execute`.

    Args:
        settings: What to run.
        out: Its folder. If it holds this run already, `execute` goes on where that stopped.
        csv: Whether to write ``metrics.csv`` beside ``metrics.jsonl``.
        tracker: One of `corollary.training.trackers.TRACKERS`, to show metrics to.

    Raises:
        ValueError: something that the settings name does not exist, cannot be used or does not fit; or the folder
            holds another run.
        OSError: the folder cannot be written, or a data set cannot be had.
        ImportError: an extra is not installed.
    """

    def __init__(self, settings: Settings, out: Path, *, csv: bool = False, tracker: str | None = None) -> None:
        self.settings = settings
        self.csv = csv
        self.tracker = tracker
        if tracker is not None and tracker not in TRACKERS:
            raise ValueError(unknown("tracker", tracker, TRACKERS))
        _check_place(out)
        algorithm = chosen_algorithm(settings.algorithm, settings.options)
        dtype, device = _dtype(settings.dtype), _device(settings.device)
        chosen = chosen_task(settings)
        self.trained: LanguageModel = load_language_model(
            settings.model, dtype=dtype, device=device, tokenizer=isinstance(chosen, Asked)
        )
        self.task, found = self._fitted(chosen)
        self.folder = RunFolder(out, settings, found)
        self.folder.check()
        self.trainer = Trainer(
            self.trained.model,
            self.task,
            algorithm,
            settings.train,
            seed=settings.seed,
            directory=out,
            rollout_batch=settings.rollout_batch,
            shortcuts=settings.shortcuts,
        )
        if (out / CHECKPOINT).exists():
            self.trainer.load_state_dict(load_checkpoint(out / CHECKPOINT))
            if self.trainer.steps_done > settings.train.steps:
                raise ValueError(
                    f"{out} is at step {self.trainer.steps_done} already, got steps {settings.train.steps}"
                )
        self.evaluations = self.folder.evaluations(until=self.trainer.steps_done)

    def _fitted(self, chosen: Asked | Task) -> tuple[Task, dict[str, str]]:
        """The task, with the model's tokenizer where it asks in words; and what is to be remembered of it."""
        model, tokenizer, found = self.trained.model, self.trained.tokenizer, {"weights": self.trained.fingerprint}
        if not isinstance(chosen, Asked):
            if model.config.vocab_size < chosen.vocab_size:
                raise ValueError(
                    f"the task {chosen.name} has {chosen.vocab_size} tokens, the model only {model.config.vocab_size}"
                )
            return chosen, found
        assert tokenizer is not None
        task = chosen.with_tokenizer(tokenizer, self.settings)
        longest = max(len(prompt.tokens) for split in task.sets for prompt in task.prompts(split))
        check_positions(model, longest + task.max_completion_length)
        return task, found | {"questions": task.digest("train"), "held_out_questions": task.digest("held_out")}

    def describe(self) -> list[str]:
        """What will be done, in lines for the user."""
        settings, train = self.settings, self.settings.train
        size = sum(parameter.numel() for parameter in self.trained.model.parameters())
        device = next(self.trained.model.parameters()).device
        lines = [
            f"{settings.algorithm} on {settings.task}: {settings.model} ({size:,} parameters, "
            f"{settings.dtype}, {device}), {train.steps} steps of {train.prompts_per_step} x {train.group_size} "
            "completions"
        ]
        if isinstance(self.task, TextTask):
            for split, of in self.task.sets.items():
                if not of.questions:
                    continue
                kept, left_out = len(self.task.prompts(split)), self.task.left_out[split]
                dropped = f"; {left_out} left out, longer than {self.task.max_prompt_length} tokens" if left_out else ""
                use = "training" if split == "train" else "evaluation"
                lines.append(f"{use}: {kept} prompts of {of.label}, grader {of.grader.name}{dropped}")
        if settings.task == "math-500":
            lines.append("note: math-500 is a test set; what is trained on it cannot be compared with others on it")
        if settings.dtype == "bfloat16":
            lines.append("note: bfloat16 weights drop updates that are smaller than about 1/256 of a weight")
        if settings.shortcuts.sampler_stats and settings.dtype == "bfloat16":
            lines.append("note: in bfloat16 the sampler's log-probabilities may differ from those of training")
        if self.trainer.steps_done:
            lines.append(f"going on after step {self.trainer.steps_done}, from {self.folder.path / CHECKPOINT}")
        return lines

    @property
    def complete(self) -> bool:
        """Whether all of it was done before."""
        return self.folder.finished_steps() == self.settings.train.steps == self.trainer.steps_done

    def execute(self, console: Console) -> Outcome:
        """Train, evaluate and save.

        Raises:
            TrainingError: a loss or gradient is not finite.
            Interrupted: Ctrl-C or a signal stopped it; the message says from where it will go on.
            ValueError: another process is training in the folder.
        """
        with self.folder.alone():
            return self._execute(console)

    def _execute(self, console: Console) -> Outcome:
        total = self.settings.train.steps
        display = make_display(console, done=self.trainer.steps_done, total=total)
        tracker: Tracker | None = None
        try:
            with signals_as_interrupts(), display, warnings_as_lines(display):
                if self.tracker is not None:
                    tracker = make_tracker(
                        self.tracker, self.folder.path, self.folder.identity, steps_done=self.trainer.steps_done
                    )
                self.folder.begin()
                self._evaluate_if_due(self.trainer.steps_done, display, tracker)
                self.trainer.on_step = lambda step, metrics: self._after_step(step, metrics, display, tracker)
                self.trainer.train()
                model = self.folder.save_model(self.trained)
                outcome = self._outcome(model)
                self.folder.write_result(self._result(outcome))
                return outcome
        except KeyboardInterrupt as interrupt:
            status = 128 + interrupt.number if isinstance(interrupt, Terminated) else 130
            raise Interrupted(self._describe_stop(), status) from interrupt
        finally:
            if tracker is not None:
                tracker.close()
            if self.csv and (self.folder.path / "metrics.jsonl").exists():
                self.folder.write_csv()

    def _after_step(self, step: int, metrics: Mapping[str, float], display: Display, tracker: Tracker | None) -> None:
        display.step(step, metrics)
        if tracker is not None:
            tracker.log(step, metrics)
        self._evaluate_if_due(step, display, tracker)

    def _evaluate_if_due(self, step: int, display: Display, tracker: Tracker | None) -> None:
        """Evaluate before the first step, every so many steps and after the last, each once."""
        s = self.settings
        due = step in (0, s.train.steps) or (s.evaluation_every and step % s.evaluation_every == 0)
        if not s.evaluation_prompts or not due or any(row.step == step for row in self.evaluations):
            return
        row = held_out_accuracy(
            self.trained.model,
            self.task,
            step=step,
            seed=s.seed,
            limit=s.evaluation_prompts,
            samples=s.evaluation_samples,
            temperature=s.evaluation_temperature,
            batch_size=s.rollout_batch,
        )
        self.evaluations.append(row)
        self.folder.write_evaluations(self.evaluations)
        display.note(evaluation_text(row))
        if tracker is not None:
            tracker.log(step, {"evaluation/pass_at_1": row.pass_at_1, "evaluation/cut_off": row.cut_off})

    def _outcome(self, model: Path) -> Outcome:
        metrics = read_metrics(self.folder.path)
        return Outcome(
            steps=self.trainer.steps_done,
            evaluations=tuple(self.evaluations),
            mixed_groups=float(metrics["reward/mixed_groups"].mean()),
            comparisons_given_up=EQUALITY.given_up,
            model=model,
        )

    @staticmethod
    def _result(outcome: Outcome) -> dict[str, object]:
        last = outcome.evaluations[-1] if outcome.evaluations else None
        return {
            "steps": outcome.steps,
            "pass_at_1": None if last is None else last.pass_at_1,
            "mixed_groups": outcome.mixed_groups,
            "model": outcome.model.name,
        }

    def _describe_stop(self) -> str:
        done, every = self.trainer.steps_done, self.settings.train.checkpoint_every
        path = self.folder.path / CHECKPOINT
        if not path.exists():
            return f"stopped in step {done + 1}, before the first checkpoint; the same command starts again"
        kept = done if done == self.settings.train.steps else done // every * every
        return f"stopped after step {done}; the same command goes on from the checkpoint at step {kept}"


def _check_place(out: Path) -> None:
    """Refuse a folder that cannot be made, before a model is loaded for it."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        reason = "no permission" if place.is_dir() else f"{place} is a file"
        raise OutputError(f"cannot write to the folder {out}: {reason}")


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(unknown("dtype", name, list(DTYPES)))
    return DTYPES[name]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device
