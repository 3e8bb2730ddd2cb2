"""Dr.GRPO: GRPO without its two normalisations (arXiv:2503.20783).

Dividing by the deviation of a group gives more weight to prompts that are nearly solved or nearly hopeless, and
dividing by the length of a response makes long wrong ones cheap. Dr.GRPO does neither.
"""

from dataclasses import dataclass

from corollary.rl.algorithm import Algorithm
from corollary.rl.baselines.unscaled import UnscaledConfig


@dataclass(frozen=True, kw_only=True)
class DrGRPOConfig(UnscaledConfig):
    """Dr.GRPO's two changes, as options of GRPO."""

    aggregation: str = "seq-mean-token-sum-norm"
    """Sum over the tokens, divided by a constant: the longest completion that the task allows."""


class DrGRPO(Algorithm):
    r"""GRPO with :math:`A_i = R_i - \bar R` and a constant in place of the length.

    .. math:: L = -\frac{1}{B\,T_{\max}} \sum_i \sum_t A_i\, r_{it}

    (clipped like GRPO), whose gradient on-policy is :math:`\frac{G-1}{G\,T_{\max}}` times that of the expected reward:
    the mean contains the response itself, which shrinks the gradient and does not turn it (see `corollary.rl.RLOO`).

    Implementation notes:
        * The sum is divided by the number of responses and :math:`T_{\max}`, as in TRL and verl; some code divides by
          :math:`T_{\max}` alone. For AdamW the constant does not matter, but for its epsilon and the clipping of the
          gradient norm.
    """

    Config = DrGRPOConfig
