"""How the policy that training starts from answers the held-out prompts: what pass@k is compared with."""

import json
from dataclasses import dataclass
from typing import ClassVar

from corollary.models import StartingPolicy
from corollary.rl.rlvr import EVALUATION, evaluate
from corollary.runs import Recipe, Run, RunDirectory, write_atomically
from corollary.tasks import make_task


@dataclass(frozen=True, kw_only=True)
class BasePolicy(Recipe):
    """Sample the held-out prompts of a task from a starting policy, untrained. The seed is the sampling's."""

    name: ClassVar[str] = "base-policy"
    version: ClassVar[int] = 1

    task: str
    warm_start: StartingPolicy
    warm_start_seed: int = 0
    evaluation_samples: int = 64

    @property
    def label(self) -> str:
        """What the display calls it."""
        return f"base policy on {self.task}"

    def requires(self, seed: int) -> tuple[Run, ...]:
        """The starting policy."""
        return (Run(self.warm_start, self.warm_start_seed),)

    def execute(self, seed: int, directory: RunDirectory) -> None:
        """Evaluate, in the file and format of `corollary.rl.RLVR`."""
        model = self.warm_start.load(directory.store, seed=self.warm_start_seed)
        result = evaluate(model, make_task(self.task), samples=self.evaluation_samples, seed=seed)
        write_atomically(directory.path / f"{EVALUATION}.json", json.dumps(result))
