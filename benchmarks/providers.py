"""The implementations that `kernels.py` times, all behind one call, and which of them are absent here.

A provider takes the inputs of a problem and the names of the wanted statistics, and returns one tensor for each. What
is not installed is listed as absent, never skipped without a word. The calls into Liger and verl's kernels follow
those that verl 0.9.1 makes; they need a GPU and have not been run yet.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from corollary.kernels import linear_token_stats, token_stats

FOUR = ("log_prob", "entropy", "sum_p2", "sum_p2_log_p")
STATISTICS = {"lp": FOUR[:1], "lp+H": FOUR[:2], "all": FOUR}
CHUNK_ROWS = 64

Run = Callable[[tuple[Tensor, ...], Tensor, tuple[str, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Provider:
    """One implementation of ``token_stats`` (inputs: logits) or of ``linear_token_stats`` (hidden states, weight)."""

    name: str
    run: Run
    statistics: tuple[str, ...] = FOUR
    """Those it can compute."""
    backward: bool = True
    needs: str = ""
    """Module that must be importable."""
    device: str = ""
    """Where it works; empty for everywhere."""

    def absent(self, device: str) -> str:
        """Why it cannot run here; empty if it can."""
        if self.device and self.device != device:
            return f"needs {self.device}"
        if not self.needs:
            return ""
        try:
            importlib.import_module(self.needs)
        except Exception as error:
            # Whatever keeps somebody's module from loading, the others are still worth timing.
            return f"not installed ({type(error).__name__})"
        return ""


def textbook(logits: Tensor, targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The usual formulas, each over the full logits in float32 or better; autograd keeps what it needs."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    log_p = wide.log_softmax(-1)
    found = {"log_prob": log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)}
    if set(names) - {"log_prob"}:
        p = log_p.exp()
        if "entropy" in names:
            found["entropy"] = -(p * log_p).sum(-1)
        if "sum_p2" in names or "sum_p2_log_p" in names:
            square = p * p
            found["sum_p2"] = square.sum(-1)
            found["sum_p2_log_p"] = (square * log_p).sum(-1)
    return tuple(found[name] for name in names)


def in_chunks(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The textbook formulas on 64 rows at a time, computed again in the backward pass."""
    rows, *head = inputs
    parts = []
    for part, taken in zip(rows.split(CHUNK_ROWS), targets.split(CHUNK_ROWS), strict=True):

        def of_part(part: Tensor, *weight: Tensor, taken: Tensor = taken) -> tuple[Tensor, ...]:
            return textbook(part @ weight[0].t() if weight else part, taken, names)

        if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
            parts.append(checkpoint(of_part, part, *head, use_reentrant=False))
        else:
            parts.append(of_part(part, *head))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _eager(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    logits = inputs[0] if len(inputs) == 1 else inputs[0] @ inputs[1].t()
    return textbook(logits, targets, names)


def _compiled() -> Run:
    function = torch.compile(_eager)
    return lambda inputs, targets, names: function(inputs, targets, names)


def _ours(backend: str) -> Run:
    def run(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        if len(inputs) == 1:
            return token_stats(inputs[0], targets, stats=names, backend=backend).required(*names)
        return linear_token_stats(inputs[0], inputs[1], targets, stats=names, backend=backend).required(*names)

    return run


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _trl(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    found = {"log_prob": _named("trl.trainer.utils", "selective_log_softmax")(inputs[0], targets)}
    if "entropy" in names:
        found["entropy"] = _named("trl.trainer.utils", "entropy_from_logits")(inputs[0])
    return tuple(found[name] for name in names)


def _verl(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    module = "verl.utils.torch_functional"
    found = {"log_prob": _named(module, "logprobs_from_logits")(inputs[0], targets, inplace_backward=False)}
    if "entropy" in names:
        found["entropy"] = _named(module, "entropy_from_logits")(inputs[0])
    return tuple(found[name] for name in names)


def _liger_grpo(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    # It takes (B, T + 1, V) and drops the last position.
    function = _named("liger_kernel.ops.grpo_loss", "fused_selective_log_softmax")
    padded = torch.cat([inputs[0], inputs[0][-1:]])[None]
    return (function(padded, targets[None], 1.0)[0],)


def _liger_head(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    function = _named("liger_kernel.ops", "LigerFusedLinearScaledCrossEntropyFunction")
    loss, entropy = function.apply(inputs[0], inputs[1], targets, 1.0, -100, 1, True)
    found = {"log_prob": -loss, "entropy": entropy}
    return tuple(found[name] for name in names)


def _verl_head(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    function = _named("verl.utils.kernel.linear_cross_entropy", "linear_cross_entropy")
    log_prob, entropy = function(inputs[0], inputs[1], targets, 1.0, "none")
    found = {"log_prob": log_prob, "entropy": entropy}
    return tuple(found[name] for name in names)


def providers(operation: str) -> list[Provider]:
    """Every implementation of ``token_stats`` or ``linear_token_stats`` that is known here, eager first."""
    two = FOUR[:2]
    common = [
        Provider("eager", _eager),
        Provider("chunked", in_chunks),
        Provider("torch.compile", _compiled()),
    ]
    if operation == "token_stats":
        return [
            *common,
            Provider("trl", _trl, two, needs="trl.trainer.utils"),
            Provider("verl", _verl, two, needs="verl.utils.torch_functional"),
            Provider("liger-grpo", _liger_grpo, FOUR[:1], False, "liger_kernel.ops.grpo_loss", "cuda"),
            Provider("ours-torch", _ours("torch")),
            Provider("ours-compile", _ours("compile")),
            Provider("ours-triton", _ours("triton"), needs="triton", device="cuda"),
        ]
    return [
        *common,
        Provider("verl", _verl_head, two, needs="verl.utils.kernel.linear_cross_entropy", device="cuda"),
        Provider("liger-flsce", _liger_head, two, needs="liger_kernel.ops", device="cuda"),
        Provider("ours-torch", _ours("torch")),
        Provider("ours-compile", _ours("compile")),
        Provider("ours-triton", _ours("triton"), needs="triton", device="cuda"),
    ]
