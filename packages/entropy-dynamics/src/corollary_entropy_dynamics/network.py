"""How well the theory, which treats logits as free parameters, predicts a network with shared weights.

Single tokens of the warm-started policy get one plain gradient ascent step on their log-probability, through all
weights. The entropy of the token's state is measured before and after, and compared with the prediction ``-D``.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch

from corollary.models import WarmStart
from corollary.rl import Rollouts, score
from corollary.rollout import sample_completions
from corollary.runs import Recipe, Run, RunDirectory, write_atomically
from corollary.tasks import make_task
from corollary_entropy_dynamics.discriminator import predicted_entropy_change
from corollary_entropy_dynamics.exact import ALL

TOKENS = "tokens.json"


@dataclass(frozen=True, kw_only=True)
class NetworkStep(Recipe):
    """Predicted and measured entropy change of single-token steps of a network, in float64."""

    name: ClassVar[str] = "network-step"
    version: ClassVar[int] = 1

    task: str
    warm_start: WarmStart
    warm_start_seed: int = 0
    tokens: int = 256
    learning_rate: float = 1e-5
    """Plain SGD. Small, so that what is left of the difference is the shared weights and not the second order."""

    @property
    def label(self) -> str:
        """What the display calls it."""
        return f"single-token steps on {self.task}"

    def requires(self, seed: int) -> tuple[Run, ...]:
        """The warm start."""
        return (Run(self.warm_start, self.warm_start_seed),)

    def execute(self, seed: int, directory: RunDirectory) -> None:
        """Sample completions, pick one random token of each, step on it, measure, and undo the step."""
        task = make_task(self.task)
        model = self.warm_start.load(directory.store, seed=self.warm_start_seed).double().eval()
        generator = torch.Generator().manual_seed(seed)
        prompts = task.prompts("train")
        chosen = torch.randint(len(prompts), (self.tokens,), generator=generator).tolist()
        samples = sample_completions(
            model,
            [prompts[index].tokens for index in chosen],
            max_new_tokens=task.max_completion_length,
            generator=generator,
            pad_token=task.pad_token,
            stop_token=task.stop_token,
        )
        rollouts = Rollouts(
            prompt_ids=samples.prompt_ids,
            prompt_mask=samples.prompt_mask,
            completion_ids=samples.completion_ids,
            completion_mask=samples.completion_mask,
            sampling_log_probs=samples.log_probs,
            rewards=torch.zeros(self.tokens),
            group_ids=torch.arange(self.tokens),
            temperatures=torch.ones(self.tokens),
        )
        weights = {name: value.detach().clone() for name, value in model.named_parameters()}
        rows = []
        for row in range(self.tokens):
            one = rollouts.rows(torch.tensor([row]))
            position = int(torch.randint(int(one.lengths), (1,), generator=generator))
            before = score(model, one, stats=ALL)
            model.zero_grad(set_to_none=True)
            log_probs, entropy = before.required("log_prob", "entropy")
            log_probs[0, position].backward()
            predicted = predicted_entropy_change(before, torch.ones_like(log_probs))[0, position]
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter += self.learning_rate * parameter.grad
                (after,) = score(model, one, stats=("entropy",)).required("entropy")
                for name, parameter in model.named_parameters():
                    parameter.copy_(weights[name])
            change = (after - entropy)[0, position].item()
            rows.append({"position": position, "predicted": predicted.item(), "measured": change})
            directory.progress(row + 1, self.tokens)
        write_atomically(directory.path / TOKENS, json.dumps(rows))


def read_tokens(directory: Path) -> pd.DataFrame:
    """One row a token: ``position``, ``predicted`` (per unit of logit step) and ``measured`` entropy change, nats."""
    return pd.DataFrame(json.loads((directory / TOKENS).read_text()))
