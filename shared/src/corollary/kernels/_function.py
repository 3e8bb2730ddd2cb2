r"""The autograd function that all backends share, and the row-level half of the analytic backward pass.

A backend sees two jobs: the sums of each row (:class:`~corollary.kernels._rows.RowSums`), and the evaluation
of a polynomial for each element (:class:`~corollary.kernels._rows.Coefficients`). Everything that happens
once per row is here. With :math:`p_j = e^{u_j}/S`, :math:`\ell_j = \log p_j = u_j - \log S`, :math:`\mu =
\sum_j p_j u_j` (so that :math:`\ell_j + H = u_j - \mu`) and upstream gradients :math:`g_{lp}, g_H, g_G, g_F,
g_W`,

.. math::

    \tau\,\frac{\partial L}{\partial z_j} = p_j \bigl[ -g_{lp} - g_H (u_j - \mu) + 2 g_G (p_j - G)
        + g_F (2 p_j \ell_j + p_j - 2F - G) + g_W ((u_j - \mu)^2 - W + 2 (u_j - \mu)) \bigr]
        + g_{lp} \mathbf 1[j = y].

The sum over :math:`j` is zero. Working with :math:`u` and :math:`\mu`, not with :math:`z` and :math:`\log Z`,
keeps the error independent of a constant added to all logits.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from corollary.kernels._rows import Coefficients, Rows, RowSums


class Backend(Protocol):
    """One implementation of the element-level work."""

    name: str
    raises_on_bad_rows: bool
    """Whether rows without a finite normaliser are looked for, which reads one number back from the
    device."""

    def forward(self, rows: Rows, stats: frozenset[str], *, keep: bool) -> tuple[RowSums, Sequence[Tensor]]:
        """Return the sums of each valid row, and (if ``keep``) tensors that `backward` may reuse."""
        ...

    def backward(
        self,
        rows: Rows,
        sums: RowSums,
        coefficients: Coefficients,
        gradient: Tensor,
        kept: Sequence[Tensor],
    ) -> None:
        """Write the gradient of each valid row into ``gradient``, shape ``(N, V)``, perhaps in place."""
        ...


class Problem(Protocol):
    """What the row-level half needs to know of a problem, wherever its logits come from."""

    @property
    def temperature(self) -> float | Tensor:
        """One temperature for all, or one per valid row, shape ``(n,)``."""
        ...

    @property
    def index(self) -> Tensor | None:
        """Places of the valid rows, shape ``(n,)``, ascending int64; None when all rows are valid."""
        ...

    @property
    def leading(self) -> tuple[int, ...]:
        """The shape of the targets."""
        ...


def run_forward(
    rows: Rows, stats: frozenset[str], backend: Backend, *, keep: bool
) -> tuple[RowSums, Sequence[Tensor], bool]:
    """Return the row sums, what to keep, and whether a taken token may have probability 0."""
    sums, kept = backend.forward(rows, stats, keep=keep)
    if not backend.raises_on_bad_rows:
        return sums, kept, True
    # NaN and +-inf survive every sum, so one number tells that all rows are fine.
    if rows.count == 0 or math.isfinite(float(sums.log_prob.sum())):
        return sums, kept, False
    _raise_on_bad_rows(rows, sums)
    return sums, kept, True


def _raise_on_bad_rows(rows: Rows, sums: RowSums) -> None:
    bad = (~sums.log_sum.isfinite()).nonzero()
    if len(bad) == 0:
        return
    number = int(bad[0])
    place = number if rows.index is None else int(rows.index[number])
    leading = rows.logits.shape[:-1]
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), leading)) if leading else ()
    row = rows.logits[where]
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    if row.isnan().any():
        problem = "NaN logits on a valid token"
    elif row.isposinf().any():
        problem = "+inf logits on a valid token"
    else:
        problem = "only -inf logits on a valid token"
    raise ValueError(f"{problem}: row {where}{more}; expected at least one finite logit, and none NaN or +inf")


def outputs_of(rows: Problem, sums: RowSums, stats: Sequence[str]) -> tuple[Tensor, ...]:
    """Return the requested statistics and then ``log_z``, each in the targets' shape, 0 on masked rows."""
    # Never a view: the caller may then change a result in place, and what the backward pass needs is its own.
    shape, index = rows.leading, rows.index
    plain = isinstance(rows.temperature, float) and rows.temperature == 1.0
    scaled_max = sums.row_max if plain else sums.row_max / rows.temperature
    if index is None:
        # A difference or a sum is new memory, so it takes no copy if its terms have the shape already.
        log_sum = sums.log_sum.view(shape)
        found = [
            log_sum - sums.mean_shift.view(shape)
            if name == "entropy" and sums.mean_shift is not None
            else getattr(sums, name).view(shape).clone()
            for name in stats
        ]
        return (*found, scaled_max.view(shape) + log_sum)
    columns = [
        sums.log_sum - sums.mean_shift if name == "entropy" and sums.mean_shift is not None else getattr(sums, name)
        for name in stats
    ]
    return tuple(_among_masked(column, index, shape) for column in (*columns, scaled_max + sums.log_sum))


def _among_masked(column: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    result = column.new_zeros(shape)
    result.view(-1).index_copy_(0, index, column)
    return result


class TokenStatsFunction(torch.autograd.Function):
    """Requested statistics and ``log_z`` of the valid rows, with the analytic gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        rows: Rows,
        stats: tuple[str, ...],
        backend: Backend,
        inplace_backward: bool,
    ) -> tuple[Tensor, ...]:
        """See :func:`corollary.kernels.token_stats`."""
        sums, kept, impossible = run_forward(rows, frozenset(stats), backend, keep=True)
        outputs = outputs_of(rows, sums, stats)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(outputs[-1])
        # All through autograd, which lets go of them after the backward pass (the outputs may live on) and
        # notices when one of them was overwritten. Hence not `rows`, which holds the logits' memory.
        ctx.save_for_backward(logits, *sums, *kept)
        ctx.stats, ctx.rest = stats, (rows.targets, rows.temperature, rows.index)
        ctx.backend, ctx.impossible, ctx.inplace = backend, impossible, inplace_backward
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Evaluate the analytic gradient; only the terms of outputs that received a gradient are computed."""
        logits, *saved = ctx.saved_tensors
        sums, kept = RowSums(*saved[: len(RowSums._fields)]), saved[len(RowSums._fields) :]
        rows = Rows.of(logits, *ctx.rest)
        arrived = {
            name: gradient.reshape(-1) if rows.index is None else gradient.reshape(-1).index_select(0, rows.index)
            for name, gradient in zip(ctx.stats, gradients, strict=False)
            if gradient is not None
        }
        if not arrived:
            return None, None, None, None, None
        if ctx.inplace:
            # Not .data: the version counter must show that the logits are gone to whoever else saved them.
            gradient = logits.detach().view(rows.total, rows.vocabulary)
            if rows.index is not None:
                masked = torch.ones(rows.total, dtype=torch.bool, device=logits.device)
                masked[rows.index] = False
                gradient[masked] = 0
        else:
            make = torch.empty if rows.index is None else torch.zeros
            gradient = make(rows.total, rows.vocabulary, dtype=logits.dtype, device=logits.device)
        coefficients = row_coefficients(rows, sums, arrived, impossible=ctx.impossible)
        ctx.backend.backward(rows, sums, coefficients, gradient, kept)
        return gradient.view(logits.shape), None, None, None, None


def row_coefficients(rows: Problem, sums: RowSums, gradients: dict[str, Tensor], *, impossible: bool) -> Coefficients:
    """Collect the upstream gradients of each row into the polynomial that the backend evaluates.

    Args:
        rows: The problem; only its temperature is read.
        sums: What the forward pass left.
        gradients: Upstream gradient, shape ``(n,)``, of each output that received one.
        impossible: Whether a taken token may have probability 0. Its log-probability is -inf whatever the
            other logits are, so its gradient is 0 (and an upstream gradient of NaN or inf is dropped with
            it).

    Returns:
        Coefficients of the gradient with respect to the raw logits, the division by the temperature included.
    """
    a0: Tensor | None = None
    a1 = a2 = b0 = b1 = target = None
    if (g_lp := gradients.get("log_prob")) is not None:
        if impossible:
            g_lp = g_lp.masked_fill(sums.log_prob.isneginf(), 0.0)
        target = g_lp
        a0 = -g_lp
    if (g_h := gradients.get("entropy")) is not None:
        assert sums.mean_shift is not None
        a0 = _plus(a0, g_h * sums.mean_shift)
        a1 = -g_h
    if (g_g := gradients.get("sum_p2")) is not None:
        assert sums.sum_p2 is not None
        b0 = 2 * g_g
        a0 = _plus(a0, -b0 * sums.sum_p2)
    if (g_f := gradients.get("sum_p2_log_p")) is not None:
        assert sums.sum_p2 is not None
        assert sums.sum_p2_log_p is not None
        b1 = 2 * g_f
        b0 = _plus(b0, g_f - b1 * sums.log_sum)
        a0 = _plus(a0, -b1 * sums.sum_p2_log_p - g_f * sums.sum_p2)
    if (g_w := gradients.get("varentropy")) is not None:
        assert sums.mean_shift is not None
        assert sums.varentropy is not None
        mean = sums.mean_shift
        a2 = g_w
        a1 = _plus(a1, 2 * g_w * (1 - mean))
        a0 = _plus(a0, g_w * (mean * mean - 2 * mean - sums.varentropy))
    assert a0 is not None
    # p = e^u / S, and d/dz = (1 / tau) d/du
    per_p = torch.exp(-sums.log_sum)
    per_p2 = None if b0 is None else per_p * per_p
    if not isinstance(rows.temperature, float) or rows.temperature != 1.0:
        per_p = per_p / rows.temperature
        per_p2 = None if per_p2 is None else per_p2 / rows.temperature
        target = None if target is None else target / rows.temperature
    return Coefficients(
        a0 * per_p, _times(a1, per_p), _times(a2, per_p), _times(b0, per_p2), _times(b1, per_p2), target
    )


def _plus(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term


def _times(value: Tensor | None, factor: Tensor | None) -> Tensor | None:
    return None if value is None or factor is None else value * factor
