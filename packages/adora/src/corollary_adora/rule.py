r"""ADORA's rule: which prompts are advantageous at the moment, and the weight of their groups (arXiv:2602.10019).

For the rollouts of one prompt :math:`s`, let :math:`S` be the correct ones and :math:`F` the wrong ones, without those
that were cut off for their length. Two criteria say whether the prompt is *temporarily advantageous* (TAS) or
*temporarily disadvantageous* (TDS):

.. math:: \mathrm{LA}(s) &= \Bigl[\max_{i \in S} \ell_i > \tfrac{1}{|F|} \sum_{i \in F} \ell_i\Bigr]
              && \text{(length advantage, Eq. 5)} \\
          \mathrm{DA}(s) &= \bigl[\rho_s \le \tau\bigr], \quad \rho_s = |S| / G
              && \text{(difficulty advantage, Eq. 6)}

and the weight :math:`w_s` is one of two numbers (Eqs. 7 and 8), which multiplies the advantages of all rollouts of the
prompt, right and wrong ones (Eq. 4).
"""

import warnings
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import Tensor

Criteria = Literal["length", "difficulty", "and", "or"]
EmptyFailure = Literal["neg_inf", "pos_inf"]
NoSuccess = Literal["tds", "neutral"]

PRESETS = ("llm_2025", "vl", "llm_2026")
"""The published variants, each a class method of `AdoraConfig`."""


@dataclass(frozen=True, kw_only=True)
class AdoraConfig:
    """The rule; its defaults are the authors' code for language models (`llm_2025`).

    Raises:
        ValueError: a field is out of range.
    """

    w_tas: float = 1.0
    """Weight of advantageous prompts (code: 1; paper, language models: 2)."""
    w_tds: float = 0.1
    """Weight of the others (code, and paper, vision-language models: 0.1; paper, language models: 1)."""
    criteria: Criteria = "length"
    """What makes a prompt advantageous: LA, DA, both or either."""
    tau: float = 0.5
    """Largest success rate that counts as difficult."""
    correct_threshold: float = 1.01
    """A response is correct if its reward is *above* this. 1.01 fits the scores of Logic-RL's Knights and Knaves (3 for
    a right answer); for rewards of 0 and 1 take 0.5."""
    max_length: int | None = 4054
    """Wrong responses of this length or more are not counted in F; None counts all."""
    empty_failure: EmptyFailure = "neg_inf"
    """Mean length of an empty F: minus infinity (every success is longer) or infinity (none is)."""
    no_success: NoSuccess = "tds"
    """What LA says of a prompt without a success: no, or (``"neutral"``) yes."""
    generation_limit: int | None = None
    """Longest response that the sampler gives, if known. A ``max_length`` above it is never reached, and warns."""

    def __post_init__(self) -> None:
        for name in ("w_tas", "w_tds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and at least 0, got {getattr(self, name)}")
        for name, options in (("criteria", Criteria), ("empty_failure", EmptyFailure), ("no_success", NoSuccess)):
            if getattr(self, name) not in get_args(options):
                raise ValueError(f"{name} must be one of {get_args(options)}, got {getattr(self, name)!r}")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"tau must be in [0, 1], got {self.tau}")
        if self.correct_threshold != self.correct_threshold:
            raise ValueError("correct_threshold must be a number, got nan")
        for name in ("max_length", "generation_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None, got {value}")
        limit, longest = self.max_length, self.generation_limit
        if limit is not None and longest is not None and limit > longest:
            warnings.warn(
                f"max_length {limit} is never reached: responses end at {longest} tokens, so "
                "failures that were cut off count in the mean length of failures",
                stacklevel=3,
            )

    @classmethod
    def llm_2025(cls) -> Self:
        """The released code for language models and the blog: prompts without a length advantage get 0.1."""
        return cls()

    @classmethod
    def vl(cls) -> Self:
        """The released code for vision-language models: the same, but for empty sets."""
        return cls(correct_threshold=0.5, max_length=4094, empty_failure="pos_inf", no_success="neutral")

    @classmethod
    def llm_2026(cls) -> Self:
        """The paper's setting for language models: advantageous prompts get 2.

        That both criteria must hold is our reading: the paper was not available in full, and no code for this setting
        is published. Of empty sets and of cut-off failures in this setting nothing is known; here they are as in
        `llm_2025`, without a length limit.
        """
        return cls(w_tas=2.0, w_tds=1.0, criteria="and", correct_threshold=0.5, max_length=None)


def adora_weights(correct: Tensor, lengths: Tensor, group_ids: Tensor, *, config: AdoraConfig) -> Tensor:
    r"""The weight of each response's group.

    .. math:: w_s = w_\mathrm{TAS} \text{ if } s \text{ is advantageous, else } w_\mathrm{TDS}, \qquad
              A_{i,t} \leftarrow w_s A_i \quad \text{(Eq. 4)}

    Multiply advantages by it *after* they were normalised over their group: a weight on the rewards would cancel.

    Symbols: :math:`w_\mathrm{TAS}` ``config.w_tas``, :math:`w_\mathrm{TDS}` ``config.w_tds``, :math:`\ell` ``lengths``,
    :math:`s` ``group_ids``.

    Args:
        correct: Which responses are right, bool, shape ``(B,)``; or their rewards, of any other type: right is what
            lies above ``config.correct_threshold``.
        lengths: Tokens of each response with its stop token and without padding (``mask.sum(-1)``), ``(B,)``, positive.
        group_ids: The prompt of each response, ``(B,)``, integers; equal numbers form a group, wherever they stand.
        config: The rule.

    Returns:
        ``w``, ``(B,)``, the same for all responses of a group, without gradient; float64 for float64 rewards, else
        float32.

    Raises:
        ValueError: shapes differ, the batch is empty, ``group_ids`` are not integers, a length is not positive, a
            reward is NaN, or rewards run from 0 to 1 and ``config.correct_threshold`` lies above all of them.

    Implementation notes:
        * Strict comparison, means in float64: equal lengths are no advantage.
        * The weight depends on the same responses as the advantage. The expected update is therefore not that of GRPO
          times the mean weight, but the gradient of another objective, which values length (claim C5).

    Example:
        >>> right = torch.tensor([True, False, True, False])
        >>> groups = torch.tensor([0, 0, 1, 1])
        >>> adora_weights(right, torch.tensor([9, 5, 5, 9]), groups, config=AdoraConfig.llm_2025()).tolist()
        [1.0, 1.0, 0.10000000149011612, 0.10000000149011612]

    References:
        arXiv:2602.10019, section 3.2; github.com/ShadeCloak/ADORA.
    """
    labels = adora_labels(correct, lengths, group_ids, config=config)
    dtype = torch.float64 if correct.dtype == torch.float64 else torch.float32
    high = torch.tensor(config.w_tas, dtype=dtype, device=labels.device)
    low = torch.tensor(config.w_tds, dtype=dtype, device=labels.device)
    return torch.where(labels, high, low)


def adora_labels(correct: Tensor, lengths: Tensor, group_ids: Tensor, *, config: AdoraConfig) -> Tensor:
    """Whether each response belongs to a temporarily advantageous prompt, ``(B,)`` bool; arguments as `adora_weights`.

    Raises:
        ValueError: as `adora_weights`.
    """
    correct = is_correct(correct, config.correct_threshold)
    _check(correct, lengths, group_ids)
    la = length_advantage(
        correct,
        lengths,
        group_ids,
        max_length=config.max_length,
        empty_failure=config.empty_failure,
        no_success=config.no_success,
    )
    da = difficulty_advantage(correct, group_ids, tau=config.tau)
    return {"length": la, "difficulty": da, "and": la & da, "or": la | da}[config.criteria]


def is_correct(correct: Tensor, threshold: float) -> Tensor:
    """Booleans as they are; rewards are correct above ``threshold``.

    Raises:
        ValueError: a reward is NaN, or rewards run from 0 to 1 and the threshold lies above all of them.
    """
    if correct.dtype == torch.bool:
        return correct
    if bool(correct.isnan().any()):
        raise ValueError("rewards must be numbers, got nan")
    if threshold >= 1 and bool((correct == 1).any()) and bool(((correct >= 0) & (correct <= 1)).all()):
        # The released scores end at 3. With rewards of 0 and 1 no answer would be right, and nothing would show it.
        raise ValueError(f"rewards from 0 to 1 need a correct_threshold below 1, such as 0.5; got {threshold}")
    return correct.detach() > threshold


def length_advantage(
    correct: Tensor,
    lengths: Tensor,
    group_ids: Tensor,
    *,
    max_length: int | None = None,
    empty_failure: EmptyFailure = "neg_inf",
    no_success: NoSuccess = "tds",
) -> Tensor:
    """LA, Eq. 5: whether the longest success of the group is longer than its failures on average, ``(B,)`` bool."""
    index, count = groups(group_ids)
    values = lengths.double()
    failed = ~correct if max_length is None else ~correct & (lengths < max_length)
    longest = values.new_full((count,), -torch.inf)
    longest.scatter_reduce_(0, index[correct], values[correct], "amax")
    failures = values.new_zeros(count).index_add_(0, index[failed], torch.ones_like(values[failed]))
    total = values.new_zeros(count).index_add_(0, index[failed], values[failed])
    empty = -torch.inf if empty_failure == "neg_inf" else torch.inf
    la = longest > torch.where(failures > 0, total / failures.clamp(min=1), empty)
    if no_success == "neutral":
        la = la | longest.isinf()
    return la[index]


def difficulty_advantage(correct: Tensor, group_ids: Tensor, *, tau: float = 0.5) -> Tensor:
    """DA, Eq. 6: whether at most the share ``tau`` of the group is correct, ``(B,)`` bool."""
    index, count = groups(group_ids)
    successes = torch.zeros(count, dtype=torch.float64, device=index.device).index_add_(0, index, correct.double())
    size = torch.bincount(index, minlength=count)
    return (successes / size <= tau)[index]


def groups(group_ids: Tensor) -> tuple[Tensor, int]:
    """The number, from 0, of each response's group, ``(B,)``, and how many groups there are."""
    found, index = torch.unique(group_ids, return_inverse=True)
    return index, len(found)


def _check(correct: Tensor, lengths: Tensor, group_ids: Tensor) -> None:
    if correct.ndim != 1 or not correct.shape == lengths.shape == group_ids.shape:
        raise ValueError(
            "correct, lengths and group_ids must all be (B,), "
            f"got {tuple(correct.shape)}, {tuple(lengths.shape)} and {tuple(group_ids.shape)}"
        )
    if correct.numel() == 0:
        raise ValueError("correct must hold at least one response, got an empty batch")
    if group_ids.is_floating_point() or group_ids.is_complex() or group_ids.dtype == torch.bool:
        raise ValueError(f"group_ids must be integers, got {group_ids.dtype}")
    if not bool((lengths > 0).all()):
        raise ValueError(f"lengths must be positive, got {lengths.min().item()}")
    index, _ = groups(group_ids)
    alone = int((torch.bincount(index) < 2).sum())
    if alone:
        warnings.warn(f"{alone} group(s) have a single response: its advantage has no baseline", stacklevel=4)
