"""The implementations that `kernels.py` times, all behind one call, and which of them are absent here.

A provider takes the inputs of a problem and the names of the wanted statistics, and returns one tensor for each. What
is not installed, or computes less, is listed as absent, never skipped without a word. The calls into other projects
follow the sources of TRL 1.16, verl 0.9.1, Liger 0.8.5 and cut-cross-entropy 25.1.1. Of those that need a GPU, the ones
into Liger have been run on a CPU (its Triton kernels under the interpreter, its head's fallback), the ones into verl's
kernel and cut-cross-entropy nowhere yet.
"""

import importlib
from collections.abc import Callable, Sequence
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

    def absent(self, device: str, names: Sequence[str]) -> str:
        """Why it cannot run here, or not with these statistics; empty if it can."""
        if not set(names) <= set(self.statistics):
            return f"computes {', '.join(self.statistics)} only"
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


def _ours(backend: str, *, forward: str = "chunked") -> Run:
    def run(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        if len(inputs) == 1:
            return token_stats(inputs[0], targets, stats=names, backend=backend).required(*names)
        found = linear_token_stats(*inputs, targets, stats=names, backend=backend, forward=forward)
        return found.required(*names)

    return run


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _trl(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    # As the trainer has them, (B, T, V): it goes through the sequences one by one where it has no kernel.
    logits = inputs[0].view(8 if inputs[0].shape[0] % 8 == 0 else 1, -1, inputs[0].shape[-1])
    taken, module = targets.view(logits.shape[:2]), "trl.trainer.utils"
    if names == FOUR[:1]:
        return (_named(module, "selective_log_softmax")(logits, taken).flatten(),)
    log_prob, entropy = _named(module, "selective_log_softmax_and_entropy")(logits, taken)
    found = {"log_prob": log_prob.flatten(), "entropy": entropy.flatten()}
    return tuple(found[name] for name in names)


def _verl(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    module = "verl.utils.torch_functional"
    found = {"log_prob": _named(module, "logprobs_from_logits")(inputs[0], targets, inplace_backward=False)}
    if "entropy" in names:
        found["entropy"] = _named(module, "entropy_from_logits")(inputs[0])
    return tuple(found[name] for name in names)


def _liger_log_prob(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    # It takes (B, T + 1, V) and leaves out the last position: so does this provider.
    function = _named("liger_kernel.ops.grpo_loss", "fused_selective_log_softmax")
    return (function(inputs[0][None], targets[None, :-1], 1.0)[0],)


def _liger_grpo(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The whole loss, whose value per token is the log-probability: CISPO's, with advantage -1 and ratio 1.

    CISPO's loss is ``-min(ratio, 5) A log p`` with the first factor taken as constant. It too leaves out the last
    position.
    """
    function = _named("liger_kernel.ops.grpo_loss", "GrpoLossFunction")
    advantages = torch.full((1,), -1.0, device=targets.device)
    temperature, beta, low, high, inplace, length, reduce = 1.0, 0.0, 0.2, 5.0, False, None, False
    loss, *_ = function.apply(
        *(inputs[0][None], None, None, targets[None, :-1].contiguous(), advantages, None),
        *(temperature, beta, low, high, inplace, "cispo", length, reduce),
    )
    return (loss[0],)


def _liger_head(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    function = _named("liger_kernel.ops", "LigerFusedLinearScaledCrossEntropyFunction")
    if names == FOUR[:1]:
        return (-function.apply(inputs[0], inputs[1], targets, 1.0, -100, 1, False),)
    loss, entropy = function.apply(inputs[0], inputs[1], targets, 1.0, -100, 1, True)
    found = {"log_prob": -loss, "entropy": entropy}
    return tuple(found[name] for name in names)


def _cut_cross_entropy(filter_eps: str | None) -> Run:
    """Apple's; by default it leaves out gradients that are small in the dtype, with None it does not."""

    def run(inputs: tuple[Tensor, ...], targets: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        function = _named("cut_cross_entropy", "linear_cross_entropy")
        return (-function(inputs[0], inputs[1], targets, reduction="none", filter_eps=filter_eps),)

    return run


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
            Provider("liger-logprob", _liger_log_prob, FOUR[:1], False, "liger_kernel.ops.grpo_loss", "cuda"),
            Provider("liger-grpo", _liger_grpo, FOUR[:1], needs="liger_kernel.ops.grpo_loss", device="cuda"),
            Provider("ours-torch", _ours("torch")),
            Provider("ours-compile", _ours("compile")),
            Provider("ours-triton", _ours("triton"), needs="triton", device="cuda"),
        ]
    return [
        *common,
        Provider("verl", _verl_head, two, needs="verl.utils.kernel.linear_cross_entropy", device="cuda"),
        Provider("liger-flsce", _liger_head, two, needs="liger_kernel.ops", device="cuda"),
        Provider("cce", _cut_cross_entropy("high"), FOUR[:1], needs="cut_cross_entropy", device="cuda"),
        Provider("cce-exact", _cut_cross_entropy(None), FOUR[:1], needs="cut_cross_entropy", device="cuda"),
        Provider("ours-torch", _ours("torch")),
        Provider("ours-compile", _ours("compile")),
        Provider("ours-triton", _ours("triton"), needs="triton", device="cuda"),
        Provider("ours-fused", _ours("triton", forward="fused"), needs="triton", device="cuda"),
    ]
