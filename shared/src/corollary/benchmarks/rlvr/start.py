"""What the starting policy can do before any method has touched it."""

import json
from dataclasses import dataclass
from typing import ClassVar

from corollary.models import StartingPolicy
from corollary.rl.rlvr import EVALUATION, evaluate
from corollary.runs import Recipe, Run, RunDirectory, write_atomically
from corollary.tasks import make_task


@dataclass(frozen=True, kw_only=True)
class StartEvaluation(Recipe):
    """Sample the held-out prompts with the starting policy as `corollary.rl.RLVR` samples them after training.

    The seed is that of the samples, so at equal seed this run and a trained one draw from the same random numbers.
    """

    name: ClassVar[str] = "start-evaluation"
    version: ClassVar[int] = 1

    task: str
    start: StartingPolicy
    start_seed: int = 0
    samples: int = 64
    """Completions of each held-out prompt, at temperature 1."""

    @property
    def label(self) -> str:
        """What the display calls it."""
        return f"warm start on {self.task}, evaluated"

    def requires(self, seed: int) -> tuple[Run, ...]:
        """The starting policy."""
        return (Run(self.start, self.start_seed),)

    def execute(self, seed: int, directory: RunDirectory) -> None:
        """Evaluate; takes seconds."""
        model = self.start.load(directory.store, seed=self.start_seed).eval()
        result = evaluate(model, make_task(self.task), samples=self.samples, seed=seed)
        write_atomically(directory.path / f"{EVALUATION}.json", json.dumps(result))
