"""Supervised warm start: a small policy that can do a task, diversely and not too well."""

import io
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from corollary.models.small import SmallModel
from corollary.models.start import StartingPolicy
from corollary.runs import Run, RunDirectory, RunStore, write_atomically
from corollary.tasks import DemonstratedTask, make_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "policy.pt"


@dataclass(frozen=True, kw_only=True)
class WarmStart(StartingPolicy):
    """Train a small model from scratch on a task's imperfect demonstrations.

    AdamW with linear warm-up and cosine decay on the completion tokens' cross-entropy; fresh demonstrations every
    step. The result is kept in the run store under the hash of this recipe, so it is trained once.
    """

    name: ClassVar[str] = "warm-start"
    version: ClassVar[int] = 1

    task: str = "digit-sum"
    model: SmallModel = field(default_factory=SmallModel)
    steps: int = 800
    batch_size: int = 256
    learning_rate: float = 3e-3
    warm_up: int = 50
    jitter: int = 3
    """Demonstrations miss the target by up to this much ..."""
    jitter_probability: float = 0.7
    """... with this probability (0 included)."""

    @property
    def label(self) -> str:
        """What the display calls it."""
        return f"warm start of {self.task}"

    def execute(self, seed: int, directory: RunDirectory) -> None:
        """Train, and write the weights and the loss curve. Takes about half a minute; it does not resume midway."""
        if not hasattr(make_task(self.task), "demonstrations"):
            raise ValueError(f"the task {self.task} has no demonstrations to learn from")
        task = cast("DemonstratedTask", make_task(self.task))
        model = self.model.build(task.vocab_size, seed=seed)
        rng = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        losses = []
        for step in range(self.steps):
            shown = task.demonstrations(
                self.batch_size, rng, jitter=self.jitter, jitter_probability=self.jitter_probability
            )
            ids, learned = torch.from_numpy(shown.tokens), torch.from_numpy(shown.completion_mask[:, 1:].copy())
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits[learned], ids[:, 1:][learned])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            directory.progress(step + 1, self.steps)
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        write_atomically(directory.path / WEIGHTS, buffer.getvalue())
        write_atomically(directory.path / "losses.json", json.dumps(losses))

    def _rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / self.warm_up)
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def load(self, store: RunStore, *, seed: int) -> "PreTrainedModel":
        """The trained model, from a store that holds the complete run."""
        model = self.model.build(make_task(self.task).vocab_size, seed=seed)
        weights = store.open(Run(self, seed)) / WEIGHTS
        model.load_state_dict(torch.load(weights, weights_only=True))
        return model
