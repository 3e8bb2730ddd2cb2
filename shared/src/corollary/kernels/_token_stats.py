"""The public entry point: :func:`token_stats`, its result, and the choice of a backend."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from corollary.kernels._function import Backend, TokenStatsFunction, outputs_of, run_forward
from corollary.kernels._rows import Rows, compute_dtype
from corollary.kernels._torch import TorchBackend
from corollary.kernels._validation import (
    check_logits,
    check_stats,
    check_target_range,
    check_targets,
    row_temperature,
    valid_rows,
)

BACKEND_VARIABLE = "COROLLARY_TOKEN_STATS_BACKEND"
"""Environment variable that names the backend which ``backend="auto"`` stands for."""

BACKENDS = ("auto", "torch", "compile", "triton")


class TokenStats(NamedTuple):
    """Statistics of each token's next-token distribution, in nats; a field that was not requested is None.

    Every tensor has the shape of ``targets`` and is float32 (float64 for float64 logits), 0 on masked tokens.
    """

    log_prob: Tensor | None = None
    r""":math:`\log p_y` of the taken token."""
    entropy: Tensor | None = None
    r""":math:`H = -\sum_j p_j \log p_j`."""
    sum_p2: Tensor | None = None
    r""":math:`G = \sum_j p_j^2`, the collision probability."""
    sum_p2_log_p: Tensor | None = None
    r""":math:`F = \sum_j p_j^2 \log p_j`."""
    varentropy: Tensor | None = None
    r""":math:`W = \sum_j p_j (\log p_j + H)^2`."""
    log_z: Tensor | None = None
    r""":math:`\log \sum_j e^{z_j/\tau}`, always present, without a gradient."""

    @classmethod
    def joined(
        cls, parts: "Sequence[TokenStats]", join: Callable[[tuple[Tensor, ...]], Tensor] = torch.cat
    ) -> "TokenStats":
        """Parts, at least one and all with the same fields, as one."""
        return cls(*(None if field[0] is None else join(field) for field in zip(*parts, strict=True)))

    def required(self, *names: str) -> tuple[Tensor, ...]:
        """The named statistics, for code that cannot do without them.

        Raises:
            ValueError: one was not computed; the message names it and what is there.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            present = [name for name in self._fields if getattr(self, name) is not None]
            raise ValueError(
                f"needed the token statistics {', '.join(names)}; missing {', '.join(missing)}, got {present}"
            )
        return tuple(getattr(self, name) for name in names)


STATISTICS: tuple[str, ...] = ("log_prob", "entropy", "sum_p2", "sum_p2_log_p", "varentropy")
"""The names that ``stats`` accepts."""


def token_stats(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    stats: Sequence[str] = ("log_prob", "entropy"),
    mask: Tensor | None = None,
    backend: str = "auto",
    inplace_backward: bool = False,
    row_splits: int | None = None,
) -> TokenStats:
    r"""Log-probability, entropy and second-order sums of every token's next-token distribution.

    For each row :math:`z` of logits, temperature :math:`\tau` and taken token :math:`y`, with
    :math:`p = \mathrm{softmax}(z/\tau)`:

    .. math::

        \log p_y, \quad H = -\sum_j p_j \log p_j, \quad G = \sum_j p_j^2, \quad
        F = \sum_j p_j^2 \log p_j, \quad W = \sum_j p_j (\log p_j + H)^2, \quad \log Z = \log \sum_j
        e^{z_j/\tau}.

    ``log_prob`` and ``entropy`` serve losses and bonuses. ``sum_p2`` and ``sum_p2_log_p`` give the change of
    entropy by a policy-gradient step :math:`\delta z = \eta A (e_y - p)` on the taken token, before it is
    made:

    .. math:: \delta H = -\eta A \, \bigl[ p_y (\log p_y + H) - (F + H G) \bigr] + O(\eta^2).

    Symbols: :math:`z` = ``logits``, :math:`y` = ``targets``, :math:`\tau` = ``temperature``, :math:`G` =
    ``sum_p2``, :math:`F` = ``sum_p2_log_p``, :math:`W` = ``varentropy``.

    Args:
        logits: Raw logits, shape ``(..., V)``, bfloat16, float16, float32 or float64, any strides. -inf is
            allowed: probability 0, no contribution to any sum, gradient 0.
        targets: Taken tokens, shape ``(...)``, any integer dtype, each in ``0..V-1`` where ``mask`` is 1.
        temperature: Divides the logits; finite and > 0. A number, or a tensor that broadcasts to ``(...)``:
            one value per token, or ``(B, 1)`` for one per sample. No gradient flows to it.
        stats: Which of :data:`STATISTICS` to compute; the others stay None and cost nothing.
        mask: 1 for valid tokens, shape ``(...)``, bool or numbers 0 and 1. The logits and the target of a
            masked token may be anything (NaN, -100): they are not read, its outputs and gradients are 0.
        backend: ``"torch"`` (eager, chunks of rows; any device), ``"compile"`` (the same formulas through
            `torch.compile`: several times faster on a CPU after some seconds of compilation, needs a C++
            compiler), ``"triton"`` (one kernel forward, one backward; CUDA), or ``"auto"``: what the
            environment variable ``COROLLARY_TOKEN_STATS_BACKEND`` names, else ``"triton"`` for CUDA tensors
            where it is installed, else ``"torch"``.
        inplace_backward: Let the backward pass write the gradient into the memory of ``logits``, which saves
            an ``(N, V)`` tensor. DANGER: after the backward pass ``logits`` holds its gradient. Nothing may
            read it then; autograd raises where another saved operation would, but it cannot see a plain read.
            Backward works once.
        row_splits: Programs that share a row in the forward pass of ``triton``, at least 1, for few rows on a large
            device; None decides by ``V`` alone (one, up to 2^18 columns). Another number is another order of the
            sums, so the last bits differ; hence it never depends on the number of rows. Other backends ignore it.

    Returns:
        TokenStats: tensors of shape ``(...)``, float32 inside and outside (float64 for float64 logits). All
            but ``log_z`` are differentiable with respect to ``logits``, once.

    Raises:
        ValueError: a shape, dtype or device does not fit; ``V`` = 0; a valid target is out of range; the
            temperature is not finite and positive; ``row_splits`` is below 1; ``mask`` holds another value than 0
            and 1; a name in ``stats`` or ``backend`` is unknown; a valid row has a NaN or +inf logit or only -inf
            (backends ``torch`` and ``compile``: ``triton`` returns NaN for such a row, since looking would stall
            the device); ``inplace_backward`` with logits that are a leaf or whose strides do not allow a view as
            ``(N, V)``.
        ImportError: backend ``triton`` is asked for and not installed.

    Implementation notes:
        * Sums are taken of :math:`u_j = (z_j - \max_i z_i)/\tau`, so a constant added to all logits does not
          raise the error of the entropy. With the raw :math:`z` it would grow with that constant.
        * In float32 the entropy has an absolute error of a few 1e-6 nats. A row whose entropy is not larger
          than that (:math:`p_y > 1 - 10^{-6}`) should be given as float64.
        * The result of a row has the same bits whatever other rows are computed with it (``torch`` on a CPU,
          ``triton``).
        * Under `torch.compile` and `torch.export` the call is one operator, ``corollary::token_stats``, and does not
          break the graph. ``inplace_backward`` has no effect there: the graph's memory is the compiler's.
        * If the taken token's logit is -inf, ``log_prob`` is -inf. No finite change of the other logits
          alters that, so its gradient is 0 for the whole row, whatever the upstream gradient. The other
          statistics are unaffected.

    Example:
        >>> import torch
        >>> stats = token_stats(torch.zeros(1, 4), torch.tensor([2]), stats=("entropy", "sum_p2"))
        >>> stats.entropy.exp().round(decimals=4).tolist(), stats.sum_p2.tolist(), stats.log_prob
        ([4.0], [0.25], None)

    References:
        arXiv:2602.03392 (the change of entropy by one token's update).
    """
    names = check_stats(stats, STATISTICS)
    check_logits(logits)
    check_targets(targets, logits)
    if row_splits is not None and row_splits < 1:
        raise ValueError(f"row_splits must be at least 1, or None, got {row_splits}")
    if torch.compiler.is_compiling():
        # One node of the graph, which checks the values when it runs.
        tensor, tau = split_temperature(temperature)
        found = torch.ops.corollary.token_stats(
            logits, targets, tensor, tau, mask, ",".join(names), backend, row_splits
        )
        return traced_result(names, found)
    index = valid_rows(mask, targets)
    leading, vocabulary = logits.shape[:-1], logits.shape[-1]
    per_row = row_temperature(temperature, leading, index, device=logits.device, dtype=compute_dtype(logits))
    flat_targets = targets.reshape(-1)
    if index is not None:
        flat_targets = flat_targets.index_select(0, index)
    check_target_range(flat_targets, vocabulary)
    implementation = choose_backend(backend, logits)

    rows = Rows.of(logits, flat_targets.long(), per_row, index, row_splits)
    needs_gradient = torch.is_grad_enabled() and logits.requires_grad
    if needs_gradient and inplace_backward:
        _check_inplace(logits, rows)
    if needs_gradient:
        outputs = TokenStatsFunction.apply(logits, rows, names, implementation, inplace_backward)
    else:
        sums, _, _ = run_forward(rows, frozenset(names), implementation, keep=False)
        outputs = outputs_of(rows, sums, names)
    return TokenStats(**dict(zip(names, outputs, strict=False)), log_z=outputs[-1])


def split_temperature(temperature: float | Tensor) -> tuple[Tensor | None, float]:
    """Return the temperature as an operator takes it: a tensor, or else a number."""
    if not isinstance(temperature, Tensor):
        return None, float(temperature)
    if temperature.requires_grad:
        raise ValueError("temperature must not require a gradient: token_stats does not compute one; detach it")
    return temperature, 1.0


def traced_result(names: Sequence[str], outputs: Sequence[Tensor]) -> TokenStats:
    """Make a result of what an operator returns: all statistics, empty where not asked for, and ``log_z``."""
    fields = [value if name in names else None for name, value in zip(STATISTICS, outputs, strict=False)]
    return TokenStats(*fields, outputs[len(STATISTICS)])


def _check_inplace(logits: Tensor, rows: Rows) -> None:
    if logits.is_leaf:
        raise ValueError(
            "inplace_backward expected logits that a model computed, got a leaf: its values would be "
            "overwritten and its .grad would be the same memory"
        )
    if rows.flat is None:
        raise ValueError(
            f"inplace_backward expected logits that can be viewed as (N, V), got shape "
            f"{tuple(logits.shape)} with strides {logits.stride()}"
        )


def choose_backend(name: str, logits: Tensor) -> Backend:
    """Return the implementation that the argument ``backend`` names for tensors on this device."""
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {name!r}")
    if name == "auto":
        name = os.environ.get(BACKEND_VARIABLE) or "auto"
        if name not in BACKENDS:
            raise ValueError(f"{BACKEND_VARIABLE} must be one of {', '.join(BACKENDS)}; got {name!r}")
    if name == "auto":
        name = "triton" if logits.is_cuda and importlib.util.find_spec("triton") is not None else "torch"
    return _make_backend(name)


@cache
def _make_backend(name: str) -> Backend:
    # Imported only when chosen: triton may be missing, and torch.compile's machinery takes seconds to import.
    if name == "triton":
        if importlib.util.find_spec("triton") is None:
            raise ImportError("backend 'triton' needs the package triton: pip install triton")
        from corollary.kernels._triton import TritonBackend

        return TritonBackend()
    if name == "compile":
        from corollary.kernels._compiled import CompiledBackend

        return CompiledBackend()
    return TorchBackend()
