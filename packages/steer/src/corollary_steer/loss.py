"""STEER's loss for a training loop of one's own, in plain PyTorch."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from corollary.kernels import TokenStats
from corollary.rl import aggregate, binary_mask, clip_events, clipped_surrogate
from corollary_steer.algorithms import SteerConfig, configured_weights


class SteerOutput(NamedTuple):
    """The loss and what to log."""

    loss: Tensor
    """A scalar, with gradient."""
    metrics: Mapping[str, float]
    """Those of `corollary_steer.weights.METRICS`, and ``clip/high``, ``clip/low``, ``clip/dual``: the share of the
    valid tokens that each clip holds back."""


class SteerLoss(nn.Module):
    r"""The clipped surrogate with STEER's weights (arXiv:2510.10150).

    .. math:: L = \frac{\sum m\, w\, \ell}{\sum m}, \qquad
              \ell = \max\bigl(-A r, -A\,\mathrm{clip}(r, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high})\bigr)

    with the dual clip where :math:`A < 0`, the weights :math:`w` of `steer_weights`, and the mask :math:`m`. The
    weights carry no gradient and do not enter the denominator. (``aggregation`` of the configuration may name another
    normaliser than this token mean.)

    Symbols: :math:`A` ``advantages``, :math:`r` the exponential of ``log_probs - log_probs_old``, :math:`m` ``mask``.

    Args:
        config: Options; `SteerConfig` has the paper's defaults. ``advantage`` and its options are not used here, and of
            ``scope`` only whether it is ``"global"``: otherwise the weights are relative to the tokens of each call.
        process_group: With scope ``"global"``, the ranks over which the maximum is taken.
        max_length: The longest completion allowed, for the aggregation ``seq-mean-token-sum-norm``.

    Implementation notes:
        * Call it on a whole mini-batch, or compute `steer_weights` for the mini-batch first: a maximum over parts of
          the mini-batch, as released, makes the method depend on their size.

    Example:
        >>> old = torch.tensor([[-0.5, -2.0]])
        >>> loss, metrics = SteerLoss()(old.clone().requires_grad_(), old, torch.ones(1, 2), torch.ones(1, 2), -old)
        >>> round(loss.item(), 4), metrics["weight/max"]
        (-1.0, 1.0)
    """

    def __init__(
        self,
        config: SteerConfig | None = None,
        *,
        process_group: ProcessGroup | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config if config is not None else SteerConfig()
        self.process_group = process_group if self.config.scope == "global" else None
        self.max_length = max_length

    def forward(
        self,
        log_probs: Tensor,
        log_probs_old: Tensor,
        advantages: Tensor,
        mask: Tensor,
        entropy: Tensor | None,
        *,
        sum_p2: Tensor | None = None,
        sum_p2_log_p: Tensor | None = None,
    ) -> SteerOutput:
        """The loss of a mini-batch.

        Args:
            log_probs: Log-probability of each token at the policy that is trained, nats, ``(B, T)``; carries the
                gradient.
            log_probs_old: The same at the behaviour policy, ``(B, T)``.
            advantages: ``(B, T)``.
            mask: 1 for completion tokens, ``(B, T)``. Padding may hold anything.
            entropy: Entropy at the behaviour policy and the sampling temperature, nats, ``(B, T)``.
            sum_p2: At the behaviour policy, ``(B, T)``, for ``form="exact"``.
            sum_p2_log_p: At the behaviour policy, ``(B, T)``, for ``form="exact"``.

        Raises:
            ValueError: ``entropy`` is None, or a reason of `steer_weights`.
        """
        c = self.config
        if entropy is None:
            raise ValueError(
                "entropy must be a (B, T) tensor at the behaviour policy, got None; "
                "corollary.kernels.token_stats computes it beside the log-probability"
            )
        behaviour = TokenStats(log_prob=log_probs_old, entropy=entropy, sum_p2=sum_p2, sum_p2_log_p=sum_p2_log_p)
        weights, metrics = configured_weights(
            c, behaviour, advantages, log_probs, mask, process_group=self.process_group
        )
        valid = binary_mask(mask, log_probs.shape)
        # What stands on padding must not reach the gradient either: 0 times NaN is NaN.
        new, old, scale = (torch.where(valid, x, 0.0) for x in (log_probs, log_probs_old, advantages))
        clips = {"clip_low": c.clip_low, "clip_high": c.clip_high, "dual_clip": c.dual_clip}
        loss = aggregate(
            weights * clipped_surrogate(new, old, scale, **clips), valid, c.aggregation, max_length=self.max_length
        )
        count = valid.sum().clamp(min=1)
        events = clip_events(new, old, scale, **clips)._asdict()
        shares = {f"clip/{name}": (event.sum() / count).item() for name, event in events.items()}
        return SteerOutput(loss, {**metrics, **shares})
