"""FSNet: the temporal convolutional network with convolutions that their own running gradients calibrate."""

import math
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.forecasting.backbones.linear import RevIN
from corollary.forecasting.backbones.tcn import TCN


class Calibration(NamedTuple):
    """A convolution as it is used in one forward pass."""

    weight: Tensor
    """Calibrated weight, (C_out, C_in, K)."""
    bias: Tensor
    """Calibrated bias, (C_out,)."""
    scale: Tensor
    """Factor of the output, (C_out, 1)."""


class CalibratedConvs(nn.Module):
    r"""Convolutions of one shape that adapt fast, by running gradients and a memory of earlier calibrations.

    Everything below is per convolution; S of them are computed at once. After every backward pass, with
    :math:`G = \partial L / \partial W` of unit L2 norm along the input axis,

    .. math:: f \leftarrow 0.3\,f + 0.7\,G, \qquad g \leftarrow 0.9\,g + 0.1\,G

    A forward pass reads :math:`g` in C_in chunks and calibrates weight, bias and output,

    .. math:: (w, b, \phi) = A\,\mathrm{SiLU}(B\,g), \qquad y = \phi \odot \mathrm{conv}(x,\ W \odot w,\ \beta \odot b)

    While `online`, gradients that turn around, :math:`\cos(f, g) < -0.75` with the new :math:`f` and the old
    :math:`g`, trigger the memory :math:`M`. The query :math:`q`, a moving average of :math:`(w, b, \phi)` with 0.7 of
    the newest, attends to its columns; the two with the largest weights are read, mixed into the calibration and
    written back:

    .. math::
        a = \mathrm{softmax}(M^\top q / 0.5), \quad o = M_{\mathrm{top\,2}}\,a_{\mathrm{top\,2}}, \quad
        (w, b, \phi) \leftarrow 0.75\,(w, b, \phi) + 0.25\,o, \quad
        M_{\mathrm{top\,2}} \leftarrow 0.75\,M_{\mathrm{top\,2}} + 0.25\,o\,a_{\mathrm{top\,2}}^\top

    and :math:`M` is divided by its Frobenius norm if that exceeds 1. (Pham et al., ICLR 2023, arXiv:2202.11672.)

    Symbols: :math:`W` ``weight`` (S, C_out, C_in, K), :math:`\beta` ``bias`` (S, C_out), :math:`g` ``slow``, :math:`f`
    ``fast``, :math:`B` ``controller``, :math:`A` ``heads``, :math:`q` ``query``, :math:`M` ``memory``. All that runs
    is a buffer, so the state of the module is complete.

    Args:
        count: S.
        inputs: C_in.
        outputs: C_out, a multiple of C_in: a chunk holds the gradients of C_out / C_in outputs.
        kernel: K.
        hidden: width of the controllers.
        slots: columns of the memories.

    Raises:
        ValueError: C_out is not a multiple of C_in.

    Implementation notes:
        * The official code weighs the two memory columns by their indices, 0 to 31, when it reads them. Here they
          are weighed by their attention, as in the paper. No gradient flows through what is read.
        * State changes in training mode only: evaluating reads the memory if it is triggered, without writing, so
          forecasts can be repeated. The training pass that follows reads the same, writes, and ends the trigger.
          In the official code every forward pass, validation included, moves the query and ends the trigger.
        * The query is averaged from the first pass on; the official code leaves its first pass out.
        * Chunks are consecutive parts of the gradient in memory order, so of outputs, as in the official code; they
          give one row of w each, which belongs to an input.
        * A copy of the module, or one read from a file, follows the gradients of its own weight.
    """

    SLOW, FAST = 0.9, 0.3
    TURN, KEEP, TEMPERATURE, READ = -0.75, 0.75, 0.5, 2

    slow: Tensor
    fast: Tensor
    query: Tensor
    memory: Tensor
    triggered: Tensor

    def __init__(
        self, count: int, inputs: int, outputs: int, kernel: int, *, hidden: int = 64, slots: int = 32
    ) -> None:
        super().__init__()
        if outputs % inputs:
            raise ValueError(f"outputs must be a multiple of inputs = {inputs}, got {outputs}")
        self.kernel, self.ratio = kernel, outputs // inputs
        chunk, values = self.ratio * inputs * kernel, kernel + 2 * self.ratio
        self.weight = _uniform(inputs * kernel, count, outputs, inputs, kernel)
        self.bias = nn.Parameter(torch.zeros(count, outputs))
        self.controller = _uniform(chunk, count, chunk, hidden)
        self.controller_bias = _uniform(chunk, count, 1, hidden)
        self.heads = _uniform(hidden, count, hidden, values)
        self.heads_bias = _uniform(hidden, count, 1, values)
        self.online = False
        self.register_buffer("slow", torch.zeros_like(self.weight))
        self.register_buffer("fast", torch.zeros_like(self.weight))
        self.register_buffer("query", torch.zeros(count, inputs, values))
        self.register_buffer("triggered", torch.zeros(count, dtype=torch.bool))
        self.register_buffer("memory", torch.empty(count, inputs * values, slots))
        for memory in self.memory:
            nn.init.xavier_uniform_(memory)
            memory /= memory.norm().clamp(min=1)
        self._watched: weakref.ref[Tensor] | None = None

    def forward(self) -> Iterator[Calibration]:
        """The convolutions for one forward pass, in order."""
        if self.training:
            self._watch()
        w, b, scale = self.calibrate().split((self.kernel, self.ratio, self.ratio), dim=-1)
        weights, biases = self.weight * w.unsqueeze(1), self.bias * b.flatten(1)
        parts = zip(weights.unbind(), biases.unbind(), scale.reshape(*self.bias.shape, 1).unbind(), strict=True)
        return (Calibration(*part) for part in parts)

    def calibrate(self) -> Tensor:
        r""":math:`(w, b, \phi)` of every chunk, (S, C_in, K + 2 C_out / C_in)."""
        chunks = self.slow.view(len(self.slow), self.weight.shape[2], -1)
        hidden = functional.silu(torch.baddbmm(self.controller_bias, chunks, self.controller))
        values = torch.baddbmm(self.heads_bias, hidden, self.heads)
        if self.training:
            self.query.lerp_(values.detach(), 1 - self.FAST)
        if self.online and self.triggered.any():
            values = torch.stack([self._recall(i, own) if self.triggered[i] else own for i, own in enumerate(values)])
            if self.training:
                self.triggered.fill_(False)
        return values

    def _recall(self, i: int, values: Tensor) -> Tensor:
        """Values of convolution i, mixed with what its memory holds; in training mode, write the memory."""
        with torch.no_grad():
            query = self.query[i] if self.training else self.query[i].lerp(values, 1 - self.FAST)
            memory = self.memory[i]
            attention = (query.flatten() @ memory / self.TEMPERATURE).softmax(0)
            attention, places = attention.topk(self.READ)
            columns = memory[:, places]
            old = columns @ attention
            if self.training:
                memory[:, places] = self.KEEP * columns + (1 - self.KEEP) * torch.outer(old, attention)
                memory /= memory.norm().clamp(min=1)
        return self.KEEP * values + (1 - self.KEEP) * old.view_as(values)

    def _watch(self) -> None:
        """See to it that the gradient of the weight is followed; not so that of a weight that does not learn.

        Not done in `__init__`: a hook belongs to one tensor, and copies of the module come without it.
        """
        weight = self.weight
        if (self._watched is None or self._watched() is not weight) and weight.is_leaf and weight.requires_grad:
            weight.register_post_accumulate_grad_hook(self._observe)
            self._watched = weakref.ref(weight)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_watched": None}

    @torch.no_grad()
    def _observe(self, weight: Tensor) -> None:
        """Follow the gradient that has just arrived; g into a new tensor, since the backward pass still reads the old.

        Most of an online step is memory traffic, so the rest is done in place.
        """
        gradient = weight.grad
        assert gradient is not None
        # by hand, since torch's norm is five times slower over an inner axis
        unit = gradient.square()
        torch.mul(gradient, unit.sum(2, keepdim=True).clamp_(min=1e-24).rsqrt_(), out=unit)
        self.fast.lerp_(unit, 1 - self.FAST)
        if self.online:
            self.triggered |= turns_around(self.fast, self.slow, self.TURN)
        self.slow = torch.lerp(self.slow, unit, 1 - self.SLOW, out=unit)


def turns_around(fast: Tensor, slow: Tensor, limit: float) -> Tensor:
    """Whether the cosine of each pair of the batch is below the limit.

    From three scalar products, which write nothing the size of the weights. Where rounding could decide,
    `torch.nn.functional.cosine_similarity` does, so that the answer is always its own.
    """
    f, s = fast.flatten(1).unsqueeze(1), slow.flatten(1).unsqueeze(1)
    product, own, other = torch.bmm(f, s.mT), torch.bmm(f, f.mT), torch.bmm(s, s.mT)
    cosine = (product / (own.sqrt().clamp(min=1e-6) * other.sqrt().clamp(min=1e-6))).flatten()
    if bool(((cosine - limit).abs() < 1e-3).any()):
        cosine = functional.cosine_similarity(fast.flatten(1), slow.flatten(1), eps=1e-6)
    return cosine < limit


def _uniform(inputs: int, *shape: int) -> nn.Parameter:
    """A weight or bias with the default initialisation of `nn.Linear` and `nn.Conv1d`."""
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class _Conv(nn.Module):
    """The place of one convolution in the network; it is told its calibration before every pass."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.calibration: Calibration | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, time) to (B, C_out, time)."""
        assert self.calibration is not None
        weight, bias, scale = self.calibration
        return functional.conv1d(x, weight, bias, padding=self.padding) * scale


class FSNet(TCN):
    """`TCN` with `CalibratedConvs` in the place of its convolutions (arXiv:2202.11672).

    Convolutions of the same shape are calibrated together, before every pass.

    Args:
        inputs: N + C columns of a window.
        horizon: H.
        variates: N.
        width: channels of the hidden blocks.
        depth: hidden blocks.
        output: channels of the last block, a multiple of ``width``.
    """

    def __init__(
        self, inputs: int, horizon: int, variates: int, *, width: int = 64, depth: int = 10, output: int = 320
    ) -> None:
        places: dict[tuple[int, int, int], list[_Conv]] = {}

        def convolution(inputs: int, outputs: int, kernel: int, *, padding: int) -> nn.Module:
            place = _Conv(padding)
            places.setdefault((inputs, outputs, kernel), []).append(place)
            return place

        super().__init__(inputs, horizon, variates, width=width, depth=depth, output=output, convolution=convolution)
        self.convolutions = nn.ModuleList(CalibratedConvs(len(group), *shape) for shape, group in places.items())
        self._places = list(places.values())

    def encode(self, x: Tensor) -> Tensor:
        """Representation (B, output) of the last time step of windows (B, L, N + C)."""
        for convolutions, places in zip(self.convolutions, self._places, strict=True):
            for place, calibration in zip(places, convolutions(), strict=True):
                place.calibration = calibration
        representation = super().encode(x)
        for place in (place for places in self._places for place in places):
            place.calibration = None  # a module that holds part of a graph could not be copied
        return representation


class LastRows(nn.Module):
    """A forecaster that is given longer windows than it reads: only their last rows.

    Args:
        forecaster: maps (B, rows, N + C) to (B, H, N).
        rows: what it reads.
    """

    def __init__(self, forecaster: nn.Module, rows: int) -> None:
        super().__init__()
        self.forecaster, self.rows = forecaster, rows

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N + C)."""
        return self.forecaster(x[:, -self.rows :])


class PerVariate(nn.Module):
    """A forecaster of one variate, shared by all: each sees itself and the covariates, not the others.

    Args:
        forecaster: maps (B N, L, 1 + C) to (B N, H, 1).
        variates: N.
    """

    def __init__(self, forecaster: nn.Module, variates: int) -> None:
        super().__init__()
        self.forecaster, self.variates = forecaster, variates

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N + C)."""
        series, covariates = x[..., : self.variates], x[..., self.variates :]
        series = series.transpose(1, 2).unsqueeze(-1)
        covariates = covariates.unsqueeze(1).expand(-1, self.variates, -1, -1)
        folded = torch.cat([series, covariates], -1).flatten(0, 1)
        return self.forecaster(folded).squeeze(-1).unflatten(0, (-1, self.variates)).transpose(1, 2)


def make_fsnet(columns: int, horizon: int, variates: int, *, across: bool = True) -> nn.Module:
    """FSNet under RevIN.

    Args:
        columns: N + C, columns of a window.
        horizon: H.
        variates: N.
        across: whether one network reads all variates, or the same one each variate alone.
    """
    if across:
        return RevIN(FSNet(columns, horizon, variates), variates)
    network = FSNet(columns - variates + 1, horizon, 1)
    return RevIN(PerVariate(network, variates), variates)


def set_online(model: nn.Module, online: bool) -> None:
    """Whether gradients that turn around trigger the memories of the model; in pre-training they do not."""
    for module in model.modules():
        if isinstance(module, CalibratedConvs):
            module.online = online
