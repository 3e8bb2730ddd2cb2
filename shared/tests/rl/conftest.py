"""What the tests of the baselines share: a batch made by hand, and a trainer whose policy learns at once."""

import pytest
import torch

from corollary.kernels import TokenStats
from corollary.models import SmallModel
from corollary.rl import Batch, Rollouts, TrainConfig, Trainer
from corollary.tasks import make_task


@pytest.fixture
def hand_made():
    """A function that makes a batch of given numbers."""

    def make(log_probs, *, advantages, mask=None, entropy=None, rewards=None, groups=None, generator=None):
        log_probs, advantages = (torch.tensor(x, dtype=torch.float64) for x in (log_probs, advantages))
        mask = torch.ones_like(log_probs).bool() if mask is None else torch.tensor(mask).bool()
        count, length = log_probs.shape
        return Batch(
            rollouts=Rollouts(
                prompt_ids=torch.zeros(count, 1, dtype=torch.long),
                prompt_mask=torch.ones(count, 1, dtype=torch.bool),
                completion_ids=torch.zeros(count, length, dtype=torch.long),
                completion_mask=mask,
                sampling_log_probs=log_probs,
                rewards=torch.zeros(count) if rewards is None else torch.tensor(rewards),
                group_ids=torch.zeros(count, dtype=torch.long) if groups is None else torch.tensor(groups),
                temperatures=torch.ones(count),
            ),
            advantages=advantages,
            behaviour=TokenStats(
                log_prob=log_probs,
                entropy=torch.zeros_like(log_probs) if entropy is None else torch.tensor(entropy, dtype=torch.float64),
            ),
            mask=mask,
            generator=generator,
        )

    return make


class EasyTask:
    """digit-sum's prompts, but every small first digit counts: an untrained policy gets rewards of both kinds."""

    task = make_task("digit-sum")

    def __getattr__(self, name):
        return getattr(self.task, name)

    def reward(self, prompt, completion):
        return float(completion[0] < 5)


@pytest.fixture
def easy_trainer():
    """A function that makes a trainer of a tiny float64 policy."""

    def make(algorithm, *, seed=0, directory=None, **options):
        torch.set_num_threads(1)
        model = SmallModel(hidden_size=32, layers=1, heads=2, intermediate_size=48).build(14, seed=0).double()
        with torch.no_grad():  # a policy with peaked and flat states
            model.model.embed_tokens.weight.mul_(3)
        defaults = {"steps": 2, "prompts_per_step": 6, "group_size": 4, "mini_batches": 2, "learning_rate": 1e-2}
        config = TrainConfig(**{**defaults, **options})
        return Trainer(model, EasyTask(), algorithm, config, seed=seed, directory=directory)

    return make
