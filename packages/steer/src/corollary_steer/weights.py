r"""Token weights that damp predicted entropy changes (arXiv:2510.10150, Eq. 9)."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch import distributed as dist

from corollary.rl import binary_mask
from corollary_steer.entropy_change import Form, entropy_change

WeightMapping = Literal["exponential", "linear", "binary"]
Mode = Literal["symmetric", "asymmetric"]
OnNonfinite = Literal["raise", "zero"]

TOLERANCE = 1e-4
"""How far above 0 a log-probability, or below 0 an entropy, may lie before it counts as an error (nats)."""

LINEAR_MAX = 1.2
"""Upper end of the symmetric linear mapping in the released code."""


class SteerWeights(NamedTuple):
    """Weights for the token losses, and what they look like."""

    weights: Tensor
    """``(B, T)``, 0 on padding, without gradient."""
    metrics: Mapping[str, float]
    """Glossary: `METRICS`."""


METRICS: dict[str, str] = {
    "weight/mean": "Mean weight of the valid tokens.",
    "weight/min": "Smallest weight.",
    "weight/max": "Largest weight.",
    "weight/std": "Population standard deviation of the weights.",
    "weight/near_one": "Share of the valid tokens whose weight is within 1 % of 1.",
    "omega/max": "Largest |Omega|: what the weights are relative to.",
    "omega/median": "Median of |Omega| over the valid tokens.",
    "omega/p99": "99th percentile of |Omega|; the maximum over it tells how heavy the tail is.",
    "omega/argmax_prob": "Probability, at the policy that is trained, of the token with the largest |Omega|.",
    "omega/nonfinite": "Share of the valid tokens whose Omega was not finite and was replaced by 0.",
}


def steer_weights(
    advantages: Tensor,
    entropy: Tensor,
    log_probs_old: Tensor,
    log_probs: Tensor,
    mask: Tensor,
    *,
    lambda_min: float = 0.7,
    mapping: WeightMapping = "exponential",
    mode: Mode = "symmetric",
    weight_max: float | None = None,
    binary_threshold: float = 0.5,
    floor: float = 0.02,
    form: Form = "released",
    sum_p2: Tensor | None = None,
    sum_p2_log_p: Tensor | None = None,
    use_clip_indicator: bool = False,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    on_nonfinite: OnNonfinite = "raise",
    process_group: dist.ProcessGroup | None = None,
) -> SteerWeights:
    r"""Weights between ``lambda_min`` and 1 that fall with the predicted entropy change of a token.

    With :math:`\Omega` from `entropy_change`, :math:`M = \max(\max|\Omega|, \text{floor})`, the extremes
    :math:`\ell, h` over the valid tokens given here, and ``mode="symmetric"`` (:math:`u = |\Omega|`),

    ================= ==========================================================================================
    mapping           weight
    ================= ==========================================================================================
    ``"exponential"`` :math:`w = \exp(\log\lambda_\min \; |\Omega| / M)`, clamped to :math:`[\lambda_\min, 1]` (Eq. 9)
    ``"linear"``      :math:`w = w_\max - (u - \ell)(w_\max - \lambda_\min)/(h - \ell)`;
                      :math:`(\lambda_\min + w_\max)/2` where :math:`h = \ell`
    ``"binary"``      :math:`w = \lambda_\min` where :math:`|\Omega| >` ``binary_threshold`` :math:`\cdot M`, else 1
    ================= ==========================================================================================

    ``mode="asymmetric"`` damps only what is to *lower* the entropy, and works on the signed :math:`\Omega`:
    :math:`w = \exp(-\log\lambda_\min\,\Omega / M)` clamped to :math:`[\lambda_\min, w_\max]`;
    :math:`w = \lambda_\min + (\Omega - \ell)(w_\max - \lambda_\min)/(h - \ell)`; and :math:`\lambda_\min` where
    :math:`-\Omega >` ``binary_threshold`` :math:`\cdot M`.

    Symbols: :math:`\lambda_\min` ``lambda_min`` (the paper's :math:`e^{-\alpha}`), :math:`w_\max` ``weight_max``.

    Args:
        advantages: ``(B, T)``.
        entropy: At the behaviour policy, nats, ``(B, T)``.
        log_probs_old: At the behaviour policy, nats, ``(B, T)``.
        log_probs: At the policy that is trained, nats, ``(B, T)``. Gradients are cut.
        mask: 1 for valid tokens, ``(B, T)``. Padding may hold anything.
        lambda_min: Weight of the largest change, in (0, 1]. 0.7 in the paper (v4), 0.8 in the released script.
        mapping: The paper's method is ``"exponential"``.
        mode: ``"asymmetric"`` was part of an earlier public release.
        weight_max: Largest weight of the linear mapping and of the asymmetric mode, at least ``lambda_min``. None is
            1.2 for the symmetric linear mapping (the released default, with ``lambda_min=0.8``) and 1 for the
            asymmetric mode (the released script: linear, [0.9, 1.0]). The released symmetric exponential mapping has
            1 hard-wired.
        binary_threshold: Share of :math:`M` above which the binary mapping damps, in [0, 1).
        floor: Smallest :math:`M`: where all changes are tiny, all weights stay near 1. At least 0.
        form: Of `entropy_change`, and so are the five that follow.
        sum_p2: At the behaviour policy, ``(B, T)``.
        sum_p2_log_p: At the behaviour policy, ``(B, T)``.
        use_clip_indicator: Whether tokens that the clip stops count as no change.
        clip_low: Lower clip range.
        clip_high: Upper clip range.
        on_nonfinite: What happens where :math:`\Omega` of a valid token is not finite: an error, or, as in the
            released code, 0 (hence the largest weight), counted in ``omega/nonfinite``.
        process_group: Take the extremes over the valid tokens of all ranks of this group. Every rank must call this,
            and bad input on one rank alone leaves the others waiting for it.

    Returns:
        Weights, and `METRICS` (of this rank's tokens, but for ``omega/max``).

    Raises:
        ValueError: shapes differ; the mask is not 0/1; an option is out of range or has no effect; on a valid token
            an input is not finite, a log-probability positive or an entropy negative.

    Implementation notes:
        * The tokens given decide what the weights are relative to. The released code gives the micro-batch of 8
          responses of one device, so there the split into micro-batches is part of the method.
        * The definition of the binary mapping is not public; this one is ours.
        * With ``floor=0`` and no change at all every weight is 1.
        * A single outlier moves all other weights towards 1; see the metrics.
    """
    check_weight_options(
        lambda_min=lambda_min,
        mapping=mapping,
        mode=mode,
        weight_max=weight_max,
        binary_threshold=binary_threshold,
        floor=floor,
        on_nonfinite=on_nonfinite,
    )
    omega = entropy_change(
        advantages,
        entropy,
        log_probs_old,
        log_probs,
        form=form,
        sum_p2=sum_p2,
        sum_p2_log_p=sum_p2_log_p,
        use_clip_indicator=use_clip_indicator,
        clip_low=clip_low,
        clip_high=clip_high,
    )
    valid = binary_mask(mask, omega.shape)
    _check_ranges(valid, entropy, log_probs_old, log_probs)
    broken = valid & ~torch.isfinite(omega)
    if on_nonfinite == "raise" and bool(broken.any()):
        inputs = {
            "advantages": advantages,
            "entropy": entropy,
            "log_probs_old": log_probs_old,
            "log_probs": log_probs,
            "sum_p2": sum_p2,
            "sum_p2_log_p": sum_p2_log_p,
        }
        raise _nonfinite(omega, broken, inputs)
    omega = torch.where(valid & ~broken, omega, 0.0)
    extent = _extent(omega, valid, process_group)
    top = weight_max
    if top is None:
        top = LINEAR_MAX if mapping == "linear" and mode == "symmetric" else 1.0
    scale = extent.largest.clamp(min=floor)
    symmetric = mode == "symmetric"
    if mapping == "linear":
        change, low, high = (
            (-omega.abs(), -extent.largest, -extent.smallest) if symmetric else (omega, extent.low, extent.high)
        )
        slope = (top - lambda_min) / torch.where(high > low, high - low, 1.0)
        weights = torch.where(high > low, lambda_min + (change - low) * slope, (lambda_min + top) / 2)
        weights = weights.clamp(lambda_min, top)
    elif mapping == "exponential":
        rate = -math.log(lambda_min) / torch.where(scale > 0, scale, 1.0)
        weights = (rate * (-omega.abs() if symmetric else omega)).exp().clamp(lambda_min, top)
    else:
        damped = (omega.abs() if symmetric else -omega) > binary_threshold * scale
        weights = torch.where(damped, torch.full_like(omega, lambda_min), top)
    weights = torch.where(valid, weights, 0.0).to(omega.dtype)
    return SteerWeights(weights, _metrics(weights, omega, log_probs, valid, broken, extent))


def check_weight_options(
    *,
    lambda_min: float,
    mapping: str,
    mode: str,
    weight_max: float | None,
    binary_threshold: float,
    floor: float,
    on_nonfinite: str,
) -> None:
    """Refuse options that `steer_weights` does not have.

    Raises:
        ValueError: an option is unknown or out of range, or ``weight_max`` is given where it has no effect.
    """
    for name, value, known in (
        ("mapping", mapping, WeightMapping),
        ("mode", mode, Mode),
        ("on_nonfinite", on_nonfinite, OnNonfinite),
    ):
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {get_args(known)}, got {value!r}")
    if not 0 < lambda_min <= 1:
        raise ValueError(f"lambda_min must be in (0, 1], got {lambda_min}")
    if not 0 <= floor < math.inf:
        raise ValueError(f"floor must be finite and at least 0, got {floor}")
    if not 0 <= binary_threshold < 1:
        raise ValueError(f"binary_threshold must be in [0, 1), got {binary_threshold}")
    if weight_max is not None:
        if mode == "symmetric" and mapping != "linear":
            raise ValueError(
                f"weight_max is for the linear mapping and the asymmetric mode; got weight_max={weight_max} with the "
                f"{mapping} mapping and the symmetric mode, whose largest weight is 1"
            )
        if not lambda_min <= weight_max < math.inf:
            raise ValueError(f"weight_max must be finite and at least lambda_min={lambda_min}, got {weight_max}")


class _Extent(NamedTuple):
    """Extremes over the valid tokens of all ranks, scalars; infinite where there is none."""

    low: Tensor
    """Of the signed Omega."""
    high: Tensor
    smallest: Tensor
    """Of its absolute value."""
    largest: Tensor


def _extent(omega: Tensor, valid: Tensor, group: dist.ProcessGroup | None) -> _Extent:
    nothing = omega.new_full((1,), -math.inf)
    parts = (-omega, omega, -omega.abs(), omega.abs())
    extremes = torch.stack([torch.cat([part[valid], nothing]).amax() for part in parts])
    if group is not None:
        dist.all_reduce(extremes, dist.ReduceOp.MAX, group=group)
    return _Extent(-extremes[0], extremes[1], -extremes[2], extremes[3])


def _check_ranges(valid: Tensor, entropy: Tensor, log_probs_old: Tensor, log_probs: Tensor) -> None:
    if bool((valid & (entropy < -TOLERANCE)).any()):
        raise ValueError(f"entropies must be at least 0, got {entropy[valid].min().item()}")
    for name, value in (("log_probs_old", log_probs_old), ("log_probs", log_probs)):
        if bool((valid & (value > TOLERANCE)).any()):
            raise ValueError(f"{name} must be at most 0, got {value[valid].max().item()}")


def _nonfinite(omega: Tensor, broken: Tensor, inputs: Mapping[str, Tensor | None]) -> ValueError:
    for name, value in inputs.items():
        if value is not None and not bool(torch.isfinite(value[broken]).all()):
            found = value[broken][~torch.isfinite(value[broken])][0].item()
            return ValueError(f"{name} must be finite on valid tokens, got {found}; on_nonfinite='zero' goes on")
    return ValueError(f"the entropy change must be finite on valid tokens, got {omega[broken][0].item()}")


@torch.no_grad()
def _metrics(
    weights: Tensor, omega: Tensor, log_probs: Tensor, valid: Tensor, broken: Tensor, extent: _Extent
) -> dict[str, float]:
    w, change = weights[valid].double(), omega[valid].abs().double()
    if w.numel() == 0:
        return dict.fromkeys(METRICS, 0.0)

    def quantile(q: float) -> float:
        return change.kthvalue(max(1, math.ceil(q * change.numel()))).values.item()

    return {
        "weight/mean": w.mean().item(),
        "weight/min": w.min().item(),
        "weight/max": w.max().item(),
        "weight/std": w.std(correction=0).item(),
        "weight/near_one": ((w - 1).abs() <= 0.01).double().mean().item(),
        "omega/max": extent.largest.item(),
        "omega/median": quantile(0.5),
        "omega/p99": quantile(0.99),
        "omega/argmax_prob": log_probs[valid][change.argmax()].exp().item(),
        "omega/nonfinite": (broken.sum() / valid.sum()).item(),
    }
