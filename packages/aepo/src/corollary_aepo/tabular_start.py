"""Where tabular policies start: the digit frequencies of imperfect demonstrations."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch

from corollary.models import StartingPolicy
from corollary.runs import Run, RunDirectory, RunStore, write_atomically
from corollary.tasks import DemonstratedTask, make_task
from corollary_aepo.tabular import DIGITS, PROMPT_LENGTH, PreviousDigit, RemainingSum, TabularPolicy

WEIGHTS = "policy.pt"

POLICIES: dict[str, Callable[[int], TabularPolicy]] = {"remaining-sum": RemainingSum, "previous-digit": PreviousDigit}


@dataclass(frozen=True, kw_only=True)
class TabularStart(StartingPolicy):
    """A tabular policy with the smoothed digit frequencies of a task's jittered demonstrations.

    For each position and memory, ``logits = log(count + smoothing)``. Larger ``smoothing`` draws rarely seen memories
    towards the uniform distribution, and with them entropy up and accuracy down.
    """

    name: ClassVar[str] = "tabular-start"
    version: ClassVar[int] = 1

    task: str = "digit-sum"
    memory: str = "remaining-sum"
    """What the policy knows of its own digits: ``"remaining-sum"`` or ``"previous-digit"``."""
    demonstrations: int = 100_000
    smoothing: float = 20.0
    """Added to every count."""
    jitter: int = 3
    """Demonstrations miss the target by up to this much ..."""
    jitter_probability: float = 0.93
    """... with this probability (0 included)."""

    def __post_init__(self) -> None:
        if self.memory not in POLICIES:
            raise ValueError(f"memory must be one of {', '.join(POLICIES)}; got {self.memory!r}")
        if self.demonstrations < 1:
            raise ValueError(f"demonstrations must be at least 1, got {self.demonstrations}")
        if not self.smoothing > 0:
            raise ValueError(f"smoothing must be larger than 0, got {self.smoothing}")

    @property
    def label(self) -> str:
        """What the display calls it."""
        return f"{self.memory} table for {self.task}"

    def execute(self, seed: int, directory: RunDirectory) -> None:
        """Count, and write the table. Takes a second."""
        task = cast("DemonstratedTask", make_task(self.task))
        shown = task.demonstrations(
            self.demonstrations,
            np.random.default_rng(seed),
            jitter=self.jitter,
            jitter_probability=self.jitter_probability,
        )
        tokens = torch.from_numpy(shown.tokens)
        digits = tokens[:, PROMPT_LENGTH:]
        policy = POLICIES[self.memory](digits.shape[1])
        memory = policy.memory(10 * tokens[:, 1] + tokens[:, 2], digits)[:, :-1]
        position = torch.arange(digits.shape[1]).expand_as(digits)
        states = policy.table.shape[1]
        cells = torch.bincount(
            ((position * states + memory) * DIGITS + digits).flatten(), minlength=policy.table.numel()
        )
        policy.table.data = (cells.view_as(policy.table) + self.smoothing).log().float()
        buffer = io.BytesIO()
        torch.save(policy.state_dict(), buffer)
        write_atomically(directory.path / WEIGHTS, buffer.getvalue())

    def load(self, store: RunStore, *, seed: int) -> TabularPolicy:
        """The policy, from a store that holds the complete run."""
        policy = POLICIES[self.memory](make_task(self.task).max_completion_length)
        weights = store.open(Run(self, seed)) / WEIGHTS
        policy.load_state_dict(torch.load(weights, weights_only=True))
        return policy
