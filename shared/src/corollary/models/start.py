"""What reinforcement learning starts from."""

from typing import TYPE_CHECKING

from corollary.runs import Recipe, RunStore

if TYPE_CHECKING:
    from torch import nn


class StartingPolicy(Recipe):
    """A recipe whose run is a policy: `corollary.rl.RLVR` requires the run and then loads it.

    A policy is whatever `corollary.rollout.sample_completions` and `corollary.rl.score` can run.
    """

    def load(self, store: RunStore, *, seed: int) -> "nn.Module":
        """The policy, from a store that holds the complete run."""
        raise NotImplementedError
