"""The policy-optimisation protocol, with GRPO as its base.

A paper of the GRPO family is a subclass of `Algorithm` that overrides what the paper changes. The hooks follow the
life of a batch::

    rollouts -> advantages(rollouts)
             -> prepare(batch)                    once per batch, statistics of the behaviour policy known
             -> prepare_mini_batch(batch, stats)  once per optimiser step, statistics of the trained policy known
             -> token_loss(batch, stats)          per micro-batch; the trainer aggregates and steps
                update_metrics(batch, stats)      beside it, for the log
             -> observe(metrics)                  once per batch, after the last step on it

and, before the updates, ``extra_rollouts(step)`` for a method that needs a second sample.

Whatever is relative to other tokens (a mean, a maximum, a choice of some) belongs into `Algorithm.prepare` or, if it
depends on the policy as it is being trained, into `Algorithm.prepare_mini_batch`: `Algorithm.token_loss` sees a
micro-batch, so what it takes over its tokens depends on how the batch is split to fit into memory. There is no
reference policy yet, hence no KL penalty.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, TypeVar

from torch import Tensor
from torch.distributed import ProcessGroup

from corollary.kernels import TokenStats
from corollary.rl.advantages import Scale, Singleton, check_advantage_options, group_advantages
from corollary.rl.batch import Batch, Rollouts
from corollary.rl.losses import ClipEvents, aggregation_mode, check_clip_range, clip_events, clipped_surrogate


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """Hyper-parameters of GRPO, with the defaults of verl and Trinity-RFT."""

    clip_low: float = 0.2
    """Lower clip range of the ratio."""
    clip_high: float = 0.2
    """Upper clip range of the ratio."""
    dual_clip: float | None = 3.0
    """Dual-clip constant for negative advantages; None switches it off."""
    aggregation: str = "token-mean"
    """How token losses become one number: see `corollary.rl.aggregate`."""
    advantage_scale: Scale = "group"
    """What the centred rewards are divided by."""
    advantage_eps: float = 1e-6
    """Added to that standard deviation."""
    singleton: Singleton = "raw"
    """What a group of one response gets."""

    def __post_init__(self) -> None:
        check_clip_range(self.clip_low, self.clip_high, self.dual_clip)
        aggregation_mode(self.aggregation)
        check_advantage_options(self.advantage_scale, self.advantage_eps, self.singleton)


@dataclass(frozen=True)
class RolloutRequest:
    """A second sample that an algorithm wants before it trains on a batch.

    Give ``prompts`` or ``fraction``: an algorithm need not know how many prompts a step has.

    Raises:
        ValueError: the temperature is not finite and positive, both or neither of the two are given, or one is out of
            range.
    """

    temperature: float
    """Its sampling temperature."""
    prompts: int | None = None
    """How many of the step's prompts are sampled again, from the first; each ``group_size`` times."""
    fraction: float | None = None
    """The same as a share of the step's prompts, in (0, 1], rounded down to whole prompts, but at least one."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be finite and larger than 0, got {self.temperature}")
        if (self.prompts is None) == (self.fraction is None):
            raise ValueError(f"give prompts or fraction, got prompts={self.prompts} and fraction={self.fraction}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")

    def count(self, available: int) -> int:
        """The number of prompts to sample again, out of a step's ``available`` ones.

        Raises:
            ValueError: more prompts are asked for than there are, or less than one.
        """
        if self.fraction is not None:
            # A share such as 0.3 of 10 is 3 although the product of the floats may be a little less.
            return max(1, math.floor(self.fraction * available + 1e-9))
        if self.prompts is None or not 0 < self.prompts <= available:
            raise ValueError(f"a request must be for 1 to {available} prompts, got {self.prompts}")
        return self.prompts


class Algorithm:
    """GRPO, and the base of every method of its family (arXiv:2402.03300).

    Every hook is a function of tensors: nothing here knows of models or optimisers, so the same object drives the
    reference trainer and the adapters to other frameworks.
    """

    Config: ClassVar[type[GRPOConfig]] = GRPOConfig
    behaviour_stats: frozenset[str] = frozenset({"log_prob", "entropy"})
    """The statistics that are needed at the behaviour policy (no gradient). An object whose options ask for more sets
    its own."""
    update_stats: frozenset[str] = frozenset({"log_prob"})
    """The statistics that `token_loss` needs at the policy being trained (with gradient); likewise."""
    metrics: ClassVar[Mapping[str, str]] = {}
    """Glossary of the metrics that this method adds to the trainer's."""
    benchmark: ClassVar[Mapping[str, Any] | None] = {}
    """How `corollary bench rlvr` runs this method: the options of its configuration that fit small batches of a small
    model, where those of the paper are for large ones; None for an algorithm that is no method to compare, such as a
    control of an experiment. A subclass inherits it."""
    process_group: ProcessGroup | None = None
    """Set by an engine that shards batches over processes: statistics of the batch are then those of all ranks."""

    def __init__(self, config: GRPOConfig | None = None) -> None:
        if config is not None and not isinstance(config, self.Config):
            raise TypeError(f"{type(self).__name__} takes a {self.Config.__name__}, got {type(config).__name__}")
        self.config = config if config is not None else self.Config()

    def advantages(self, rollouts: Rollouts) -> Tensor:
        """The advantage of each response, ``(B,)``, or of each token, ``(B, T)``."""
        c = self.config
        return group_advantages(
            rollouts.rewards,
            rollouts.group_ids,
            scale=c.advantage_scale,
            eps=c.advantage_eps,
            singleton=c.singleton,
        )

    def prepare(self, batch: Batch) -> Batch:
        """Last change to the whole batch before the updates: masks, weights, mixing. GRPO changes nothing.

        Randomness comes from ``batch.generator``. `corollary.rl.concatenate` mixes ``batch`` and ``batch.extra``.
        """
        return batch

    def prepare_mini_batch(self, batch: Batch, stats: TokenStats) -> Batch:
        """Last change to the rows of one optimiser step before their loss. GRPO changes nothing.

        ``stats`` holds `update_stats` of all these rows at the policy being trained, without gradient. A method that
        overrides this pays one more forward pass if, and only if, its mini-batches are split into micro-batches. The
        returned batch's ``metrics`` are logged, averaged over the mini-batches.
        """
        return batch

    def token_loss(self, batch: Batch, stats: TokenStats) -> Tensor:
        """The loss of each token, ``(B, T)``, unreduced. ``stats`` holds `update_stats`, with gradient."""
        c = self.config
        return clipped_surrogate(
            *stats.required("log_prob"),
            batch.old_log_probs,
            batch.advantages,
            clip_low=c.clip_low,
            clip_high=c.clip_high,
            dual_clip=c.dual_clip,
        )

    def clip_events(self, batch: Batch, stats: TokenStats) -> ClipEvents:
        """The tokens of the loss that each clip holds back."""
        c = self.config
        events = clip_events(
            *stats.required("log_prob"),
            batch.old_log_probs,
            batch.advantages,
            clip_low=c.clip_low,
            clip_high=c.clip_high,
            dual_clip=c.dual_clip,
        )
        return ClipEvents(*(event & batch.mask for event in events))

    def update_metrics(self, batch: Batch, stats: TokenStats) -> dict[str, tuple[Tensor, Tensor]]:
        """What to log of a micro-batch, as (sum, count); the trainer adds both up over the batch and divides.

        Called without gradient. A count of 0 over the whole batch is logged as NaN.
        """
        count = batch.mask.sum()
        return {
            f"clip/{name}": (event.sum(), count) for name, event in self.clip_events(batch, stats)._asdict().items()
        }

    def extra_rollouts(self, step: int) -> RolloutRequest | None:
        """The second sample that step ``step`` (from 0) needs; GRPO needs none."""
        return None

    def observe(self, metrics: Mapping[str, float]) -> None:
        """The metrics of the step that just ended, for methods with a controller."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know of this object; empty for methods without state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")


Prepare = TypeVar("Prepare", bound=Callable[..., Batch])
_LOGS_ONLY = "_logs_only"


def logs_only(when: Callable[[Any], bool] = lambda algorithm: True) -> Callable[[Prepare], Prepare]:
    """Declare that an override of `Algorithm.prepare` adds metrics and leaves alone what is trained.

    An engine that never shows the whole batch to an algorithm may then go without `prepare`. The declaration belongs to
    the function: a subclass that overrides `prepare` again makes its own or none.

    Args:
        when: For which objects this holds; by default for all.
    """

    def declare(prepare: Prepare) -> Prepare:
        setattr(prepare, _LOGS_ONLY, when)
        return prepare

    return declare


def prepare_trains(algorithm: Algorithm) -> bool:
    """Whether the object's `prepare` changes what is trained: it is overridden and not declared `logs_only`."""
    prepare = type(algorithm).prepare
    holds = getattr(prepare, _LOGS_ONLY, None)
    return prepare is not Algorithm.prepare and not (holds is not None and holds(algorithm))


class GRPO(Algorithm):
    """Group relative policy optimisation (arXiv:2402.03300), with the conventions of `GRPOConfig`."""


ENTRY_POINTS = "corollary.algorithms"


def algorithm_names() -> list[str]:
    """The algorithms that the installed packages offer."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of the installed algorithm ``name``.

    Raises:
        ValueError: no such algorithm.
    """
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise ValueError(f"unknown algorithm {name!r}; installed: {', '.join(sorted(found))}")
    return found[name].load()


def make_algorithm(name: str, **options: Any) -> Algorithm:
    """The installed algorithm ``name``, with ``options`` for the fields of its configuration.

    Raises:
        ValueError: no such algorithm, or an option that its configuration does not have.
    """
    kind = algorithm_class(name)
    known = kind.Config.__dataclass_fields__
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; it has: {', '.join(known)}")
    return kind(kind.Config(**options))
