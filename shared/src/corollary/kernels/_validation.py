"""Checks of what a caller hands to :func:`corollary.kernels.token_stats`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_stats(stats: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the names without repetitions, in the order given."""
    if isinstance(stats, str):
        raise ValueError(f"stats must be a sequence of names, got the string {stats!r}; write ({stats!r},)")
    for name in stats:
        if name not in known:
            raise ValueError(f"stats must be among {', '.join(known)}; got {name!r}")
    return tuple(dict.fromkeys(stats))


def check_logits(logits: Tensor) -> None:
    """Refuse what is not a floating tensor with at least one column."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"logits must be a floating tensor, got {kind}")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits must be (..., V) with V >= 1, got shape {tuple(logits.shape)}")


def check_targets(targets: Tensor, rows: Tensor, *, name: str = "logits") -> None:
    """Refuse targets of another shape, device or kind than one integer per row of the tensor called ``name``."""
    if not isinstance(targets, Tensor) or targets.dtype not in _INTEGERS:
        kind = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"targets must be an integer tensor, got {kind}")
    if targets.shape != rows.shape[:-1]:
        raise ValueError(
            f"targets must have the shape of {name} without its last axis, {tuple(rows.shape[:-1])}, "
            f"got {tuple(targets.shape)}"
        )
    if targets.device != rows.device:
        raise ValueError(f"targets must be on the device of {name}, {rows.device}, got {targets.device}")


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None, *, autocast: bool) -> None:
    """Refuse hidden states, weight and bias that do not make logits ``(..., V)``; autocast makes dtypes equal."""
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name} must be a floating tensor, got {kind}")
        if tensor.device != hidden.device:
            raise ValueError(f"{name} must be on the device of hidden, {hidden.device}, got {tensor.device}")
        if tensor.dtype != hidden.dtype and not autocast:
            raise ValueError(f"{name} must have the dtype of hidden, {hidden.dtype}, got {tensor.dtype}")
    if hidden.ndim == 0 or hidden.shape[-1] == 0:
        raise ValueError(f"hidden must be (..., D) with D >= 1, got shape {tuple(hidden.shape)}")
    if weight.ndim != 2 or weight.shape[0] == 0 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(f"weight must be (V, D) = (V >= 1, {hidden.shape[-1]}), got shape {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be (V,) = ({weight.shape[0]},), got shape {tuple(bias.shape)}")


def check_softcap(softcap: float | None) -> float | None:
    """Return the cap as a float; None is no cap."""
    if softcap is None:
        return None
    value = float(softcap)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"softcap must be finite and > 0, or None, got {softcap}")
    return value


def valid_rows(mask: Tensor | None, targets: Tensor) -> Tensor | None:
    """Return the flat places of the rows that the mask keeps, ascending; None when it keeps all."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise ValueError(f"mask must be a tensor or None, got {type(mask).__name__}")
    if mask.shape != targets.shape:
        raise ValueError(f"mask must have the shape of targets, {tuple(targets.shape)}, got {tuple(mask.shape)}")
    if mask.device != targets.device:
        raise ValueError(f"mask must be on the device of logits, {targets.device}, got {mask.device}")
    keep = mask.reshape(-1)
    if keep.dtype != torch.bool:
        kept = keep != 0
        wrong = kept & (keep != 1)
        if wrong.any():
            raise ValueError(f"mask must be bool or hold only 0 and 1, got {keep[wrong][0].item()}")
        keep = kept
    index = keep.nonzero().squeeze(1)
    return None if len(index) == len(keep) else index


def check_target_range(targets: Tensor, vocabulary: int) -> None:
    """Refuse a taken token of a valid row that is not a column."""
    if len(targets) == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(targets))
    if low < 0 or high >= vocabulary:
        raise ValueError(f"targets must be in 0..{vocabulary - 1} on valid tokens, got {low if low < 0 else high}")


def row_temperature(
    temperature: float | Tensor,
    shape: tuple[int, ...],
    index: Tensor | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> float | Tensor:
    """Return the temperature as one float, or as one value per valid row."""
    if not isinstance(temperature, Tensor):
        value = float(temperature)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"temperature must be finite and > 0, got {temperature}")
        return value
    if temperature.requires_grad:
        raise ValueError("temperature must not require a gradient: token_stats does not compute one; detach it")
    if temperature.dtype == torch.bool or temperature.is_complex():
        raise ValueError(f"temperature must be a real number or tensor, got {temperature.dtype}")
    try:
        fits = torch.broadcast_shapes(temperature.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"temperature must broadcast to the leading axes of logits, {tuple(shape)}, got {tuple(temperature.shape)}"
        )
    per_row = temperature.to(device=device, dtype=dtype).expand(shape).reshape(-1)
    if index is not None:
        per_row = per_row.index_select(0, index)
    if len(per_row):
        low, high = (float(bound) for bound in torch.aminmax(per_row))
        if not (math.isfinite(high) and low > 0):
            wrong = per_row[~(per_row.isfinite() & (per_row > 0))][0].item()
            raise ValueError(f"temperature must be finite and > 0 on valid tokens, got {wrong}")
    return per_row
