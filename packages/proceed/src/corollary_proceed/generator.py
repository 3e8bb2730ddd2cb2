"""From a drift to the coefficients that scale the rows and columns of every adapted layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from corollary_proceed.concepts import apply_linear


class LayerShape(NamedTuple):
    """What the generator has to know of an adapted layer."""

    outputs: int
    inputs: int
    has_bias: bool

    @property
    def width(self) -> int:
        """Coefficients of the layer: one per row, one per column, and one per bias entry."""
        return self.outputs + self.inputs + self.outputs * self.has_bias


class AdaptationCoefficients(NamedTuple):
    """Coefficients of one layer, for one drift ``(width,)`` or a batch of them ``(B, width)``."""

    beta: Tensor
    """Row (output) scales."""
    alpha: Tensor
    """Column (input) scales."""
    gamma: Tensor | None
    """Shift of the bias; None for a layer without."""


class GeneratorGroup(nn.Module):
    r"""The bottleneck that a group of layers shares (eq. 3 and 4, with the code's shift and offsets).

    .. math::
        h_l = \sigma(W_1 \delta + b_l), \qquad
        [\beta_l; \alpha_l; \gamma_l] = W_2 h_l + o_l + [1; 1; 0]

    :math:`W_1, W_2` belong to the group, :math:`b_l, o_l` to each layer. At the start :math:`W_2 = 0` and
    :math:`o = 0`: the adapted network is the given one.

    Args:
        shapes: of the layers, which must have the same width.
        concept_dim: :math:`d_c`.
        bottleneck_dim: :math:`r`.
    """

    def __init__(self, shapes: Mapping[str, LayerShape], concept_dim: int, bottleneck_dim: int) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        (width,) = {shape.width for shape in shapes.values()}
        bound = 1 / math.sqrt(concept_dim)
        self.down = nn.Linear(concept_dim, bottleneck_dim, bias=False)
        self.bias = nn.Parameter(torch.empty(len(shapes), bottleneck_dim).uniform_(-bound, bound))
        self.up = nn.Linear(bottleneck_dim, width, bias=False)
        nn.init.zeros_(self.up.weight)
        vars(self).update(self._modules)  # found at once, without nn.Module.__getattr__, which an online step notices
        self.offset = nn.Parameter(torch.zeros(len(shapes), width))
        ones = [[1.0] * (s.outputs + s.inputs) + [0.0] * (s.width - s.outputs - s.inputs) for s in shapes.values()]
        self.start: Tensor
        self.register_buffer("start", torch.tensor(ones), persistent=False)

    def forward(self, drift: Tensor) -> Tensor:
        """Coefficients (..., layers, width) for drifts (..., d_c)."""
        parameters: dict[str, Any] = self._parameters
        hidden = torch.sigmoid(apply_linear(self.down, drift).unsqueeze(-2) + parameters["bias"])
        return apply_linear(self.up, hidden) + (self._buffers["start"] + parameters["offset"])

    def parts(self, name: str) -> tuple[slice, slice, slice | None]:
        """Where beta, alpha and gamma of a layer stand in its coefficients: rows, columns, then the bias."""
        outputs, inputs, has_bias = self.shapes[name]
        gamma = slice(outputs + inputs, 2 * outputs + inputs) if has_bias else None
        return slice(0, outputs), slice(outputs, outputs + inputs), gamma

    def split(self, coefficients: Tensor) -> dict[str, AdaptationCoefficients]:
        """Coefficients (..., layers, width) by layer."""
        found = {}
        for row, name in enumerate(self.shapes):
            own = coefficients[..., row, :]
            beta, alpha, gamma = self.parts(name)
            shift = None if gamma is None else own[..., gamma]
            found[name] = AdaptationCoefficients(own[..., beta], own[..., alpha], shift)
        return found


class AdaptationGenerator(nn.Module):
    """One `GeneratorGroup` for all layers with the same last name and the same width.

    Args:
        shapes: of the adapted layers, by qualified name such as ``blocks.0.first.conv``.
        concept_dim: :math:`d_c`.
        bottleneck_dim: :math:`r`.
        share: False gives every layer a bottleneck of its own (``individual_generator`` of the official code).

    Implementation notes:
        * Unrelated layers of equal name and width share a bottleneck: so does the official code, and so does the paper
          intend for repeated blocks.
        * The offsets are an addition of the official code.
    """

    def __init__(
        self, shapes: Mapping[str, LayerShape], *, concept_dim: int, bottleneck_dim: int, share: bool = True
    ) -> None:
        super().__init__()
        members: dict[tuple[str, int] | str, dict[str, LayerShape]] = {}
        for name, shape in shapes.items():
            key = (name.rpartition(".")[2], shape.width) if share else name
            members.setdefault(key, {})[name] = shape
        self.groups = [GeneratorGroup(group, concept_dim, bottleneck_dim) for group in members.values()]
        """In the order of `forward`'s matrices. A plain list beside the ModuleList, whose iteration takes its time."""
        self._groups = nn.ModuleList(self.groups)

    def forward(self, drift: Tensor) -> list[Tensor]:
        """Coefficients (..., layers, width) of every group for drifts (..., d_c)."""
        return [group.forward(drift) for group in self.groups]

    def split(self, matrices: Sequence[Tensor]) -> dict[str, AdaptationCoefficients]:
        """The same by layer."""
        found: dict[str, AdaptationCoefficients] = {}
        for group, matrix in zip(self.groups, matrices, strict=True):
            found |= group.split(matrix)
        return found

    def offsets(self) -> list[nn.Parameter]:
        """The offsets :math:`o_l`, which keep learning online."""
        return [group.offset for group in self.groups]


def generator_size(shapes: Mapping[str, LayerShape], *, concept_dim: int, bottleneck_dim: int) -> int:
    r"""Parameters of a shared generator: :math:`\sum_g r d_c + n_g r + r m_g + n_g m_g`.

    Over groups :math:`g` of :math:`n_g` layers with width :math:`m_g`.

    Example:
        >>> generator_size({"linear": LayerShape(24, 336, True)}, concept_dim=50, bottleneck_dim=32)
        14304
    """
    counts: dict[tuple[str, int], int] = {}
    for name, shape in shapes.items():
        key = (name.rpartition(".")[2], shape.width)
        counts[key] = counts.get(key, 0) + 1
    return sum(bottleneck_dim * (concept_dim + n + width) + n * width for (_, width), n in counts.items())
