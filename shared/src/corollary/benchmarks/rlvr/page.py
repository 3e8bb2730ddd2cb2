"""The page of a record: what was run, what may be concluded, three tables and a figure per task."""

from collections.abc import Mapping
from typing import Any

from corollary.benchmarks.markdown import bullets, cell, header, named, table, where_from
from corollary.benchmarks.method_rows import options, remarks
from corollary.benchmarks.rlvr import rows
from corollary.benchmarks.rlvr.budgets import PILOT_SEED, START
from corollary.benchmarks.rlvr.quantities import WINDOW
from corollary.reproduce.numbers import format_number

PROTOCOL = f"""\
**Protocol.** For each task one small language model is trained from scratch on imperfect solutions. Every method starts
from this one policy (the row *{START}*) at every seed, and gets the same number of rollout batches, the same prompts in
the same order, the same optimiser and the same learning rate. Then the held-out prompts, which reinforcement learning
has never seen, are sampled at temperature 1. A seed fixes the order of prompts, the samples and the mini-batches, and
is the same for all methods. Learning rate and number of steps were fixed beforehand with GRPO alone, on seeds from
{PILOT_SEED}. A method runs with its default options, except for those listed under the task, which its package sets for
small batches of a small model."""

QUANTITIES = f"""\
**Quantities.** Brackets: 95 % Student-t intervals over seeds.

- *pass@k*: probability that at least one of k samples solves a held-out prompt, estimated without bias, mean over
  prompts. *Distinct correct*: different correct answers among all samples of a prompt, mean over prompts.
- *Entropy*: mean over the tokens of a training batch, in nats, averaged over the last {WINDOW} steps (a third of a
  shorter run); at 0 % it is that of the starting policy on the first batch.
- *Entropy at equal reward*: mean difference of entropy at the training rewards that both runs pass through; empty if
  there are none.
- *Final reward*: mean training reward of the last {WINDOW} steps. *Steps to reward*: after how many steps this mean has
  reached the value for the first time; where a seed never got there, how many did.
- *s per step*: median wall-clock seconds of a step."""

CONCLUSIONS = """\
**What the figures say, and what they do not.**

- Compare within a task only, and read the table of differences: both runs of a difference share starting policy,
  prompts and seed.
- The intervals speak of other seeds from the same starting policy. They say nothing about another starting policy,
  another task, or a model of practical size, where the ranking may be another.
- Each interval covers 95 % on its own. Among so many comparisons some exclude zero by chance, and the first row of a
  table is not shown to be the best.
- Only GRPO's learning rate was tuned, and all methods share it. This favours GRPO, and methods whose steps have its
  size. Options that a package sets may have been chosen on one of these tasks, on other seeds. A method that loses here
  may win with a learning rate of its own.
- The tasks have few held-out prompts, exact verifiers and short answers, and every batch is used once. What a method
  does against noisy rewards, long answers or stale batches does not show.
- Equal budget means equal steps. A method that samples or scores more than GRPO in a step shows it in its seconds per
  step. These were taken while other runs trained on the same machine: good for orders of magnitude."""

PLOTS = """\
In each figure, means over seeds: entropy along training; accuracy on held-out prompts against the entropy at the end,
with 95 % intervals, which may leave the frame; and pass@k."""


def page(content: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [
        header(content["suite"]),
        "# Reinforcement learning with verifiable rewards: methods side by side",
        where_from(content),
        PROTOCOL,
        QUANTITIES,
        CONCLUSIONS,
        "**Methods.**\n\n" + named(content["methods"], code=True),
        PLOTS,
    ]
    for task in content["tasks"]:
        parts += _section(task, content)
    return "\n\n".join(parts) + "\n"


def describe(task: Mapping[str, Any]) -> str:
    """Model, task and training in one paragraph."""
    model = ""
    if "parameters" in task:
        model = f"A Llama of {task['parameters']:,} parameters after {task['warm_start_steps']} supervised steps. "
    return (
        f"{model}{task['train_prompts']} prompts for training, {task['held_out_prompts']} held out with "
        f"{task['samples']} samples each, completions of up to {task['max_tokens']} tokens. {task['steps']} steps of "
        f"{task['prompts_per_step']} prompts with {task['group_size']} completions each in {task['mini_batches']} "
        f"mini-batches, AdamW with learning rate {format_number(task['learning_rate'])}, {rows.seeds(task)}."
    )


def _section(task: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    parts = [f"## {task['task']}", cell(describe(task))]
    for shown in rows.tables(task, content["baseline"]):
        if shown.rows:
            parts += [f"{cell(shown.title)}:", table(shown.head, shown.rows)]
    if lines := [*rows.idle(task, content["baseline"]), *remarks(task["rows"])]:
        parts.append(bullets(lines))
    if chosen := options(task["rows"]):
        parts.append(f"Options beside the defaults: {cell('; '.join(chosen))}.")
    plot = f"{task['task']}.png"
    if plot in content["plots"]:
        parts.append(f"![{task['task']}: entropy, accuracy against entropy, pass@k]({content['suite']}/{plot})")
    return parts
