"""Running a network with scaled layers: merged into the weights for one drift, through the activations for several.

Both ways compute the same function; the given modules stay as they are, in place and in type.
"""

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import is_parametrized

from corollary_proceed.generator import AdaptationCoefficients, AdaptationGenerator, LayerShape

AdaptedLayer = nn.Linear | nn.Conv1d | nn.LayerNorm | nn.BatchNorm1d
"""What can be adapted; the Conv1D of GPT-2 too, which needs transformers and is a Linear but for its transpose."""

NORMS = (nn.LayerNorm, nn.BatchNorm1d)
"""Adapted as well with ``adapt=(nn.Linear, nn.Conv1d, *NORMS)``, the ``all_down_up`` of the official code."""


def gpt2_conv1d() -> type[nn.Module] | None:
    """`transformers.pytorch_utils.Conv1D`, x W + b with W (inputs, outputs), if transformers has been imported."""
    return getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)


def adaptable_layers(
    network: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d)
) -> dict[str, AdaptedLayer]:
    """The layers that can be adapted, by qualified name.

    Where ``kinds`` has Linear, the Conv1D of GPT-2 is among them. Layers inside `torch.nn.MultiheadAttention` are left
    out: it reads their weights without calling them, so that the two ways of running would differ.

    Raises:
        ValueError: there is none, one is parametrised by `torch.nn.utils.parametrize`, a norm layer has no weight or
            several axes, or ``kinds`` has a type that is none of Linear, Conv1d, LayerNorm and BatchNorm1d.
    """
    transposed = gpt2_conv1d()
    for kind in kinds:
        if not issubclass(kind, AdaptedLayer) and kind is not transposed:
            raise ValueError(f"layers to adapt must be Linear, Conv1d, LayerNorm or BatchNorm1d, got {kind.__name__}")
    if transposed is not None and nn.Linear in kinds:
        kinds = (*kinds, transposed)
    closed = [name for name, module in network.named_modules() if isinstance(module, nn.MultiheadAttention)]
    found = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, kinds) and not any(name.startswith(f"{outer}." if outer else "") for outer in closed)
    }
    if not found:
        names = " or ".join(kind.__name__ for kind in kinds if kind is not transposed)
        raise ValueError(f"{type(network).__name__} has no layer to adapt: expected a {names or 'kind of layer'}")
    for name, layer in found.items():
        if is_parametrized(layer) or not {"weight", "bias"} <= layer._parameters.keys():  # pruning replaces them too
            raise ValueError(f"{name} has a parametrised weight, which cannot be scaled; remove the parametrisation")
        if layer.weight is None:
            raise ValueError(f"{name} is a {type(layer).__name__} without weight, so that there is nothing to scale")
        if isinstance(layer, nn.LayerNorm) and layer.weight.ndim > 1:
            raise ValueError(f"{name} must normalise the last axis alone, got the shape {layer.normalized_shape}")
    return found


def shape_of(layer: AdaptedLayer) -> LayerShape:
    """Sizes of a layer as the generator sees them. A norm layer has outputs only: it mixes no inputs."""
    if isinstance(layer, nn.Linear):
        return LayerShape(layer.out_features, layer.in_features, layer.bias is not None)
    if isinstance(layer, nn.Conv1d):
        return LayerShape(layer.out_channels, layer.in_channels, layer.bias is not None)
    if isinstance(layer, NORMS):
        return LayerShape(len(layer.weight), 0, layer.bias is not None)
    inputs, outputs = layer.weight.shape
    return LayerShape(outputs, inputs, layer.bias is not None)


def merge(layer: AdaptedLayer, coefficients: AdaptationCoefficients) -> tuple[Tensor, Tensor | None]:
    r"""Weight and bias of a layer under one drift (eq. 4).

    .. math:: \hat\theta = (\beta \alpha^\top) \odot \theta, \qquad \hat b = b + \gamma

    The mask is broadcast over kernel positions. In a grouped convolution every row is scaled by the columns of its own
    group. A norm layer, whose weight is a vector, has no :math:`\alpha`.

    Args:
        layer: the layer.
        coefficients: of one drift: beta (outputs,), alpha (inputs,), gamma (outputs,).

    Returns:
        The merged weight, shaped as the layer's, and the merged bias.
    """
    return _merge(layer, coefficients, _mask(layer, coefficients))


def _merge(layer: AdaptedLayer, coefficients: AdaptationCoefficients, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    own: dict[str, Any] = layer._parameters  # faster than attributes of the layer, where a step takes microseconds
    bias, gamma = own["bias"], coefficients.gamma
    return own["weight"] * mask, bias + gamma if bias is not None and gamma is not None else None


def _mask(layer: AdaptedLayer, coefficients: AdaptationCoefficients) -> Tensor:
    """The rank-one mask in the shape of the layer's weight, kernel positions as one."""
    beta, alpha, _ = coefficients
    if isinstance(layer, nn.Linear):
        return torch.outer(beta, alpha)
    if isinstance(layer, NORMS):
        return beta
    if not isinstance(layer, nn.Conv1d):
        return torch.outer(alpha, beta)
    if layer.groups == 1:
        return torch.outer(beta, alpha).unsqueeze(-1)
    columns = alpha.view(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, 0)
    return (beta.unsqueeze(-1) * columns).unsqueeze(-1)


class MergedLayer(NamedTuple):
    """What takes the place of a layer's parameters under one drift, and what it was made of."""

    weight: Tensor
    bias: Tensor | None
    coefficients: AdaptationCoefficients
    mask: Tensor


class MergedLayers:
    """A network that is run with merged weights for its adapted layers.

    Args:
        network: the backbone.
        layers: its adapted layers, by name.
        generator: whose groups of coefficients the layers take theirs from.
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, AdaptedLayer], generator: AdaptationGenerator) -> None:
        self.network = network
        self._groups = [
            [_Place(layers[name], row, group.parts(name)) for row, name in enumerate(group.shapes)]
            for group in generator.groups
        ]
        self._layers = [place.layer for places in self._groups for place in places]

    def merge(self, matrices: Sequence[Tensor]) -> list[MergedLayer]:
        """Weight and bias of every layer from the coefficients (layers, width) of every group."""
        found = []
        for places, matrix in zip(self._groups, matrices, strict=True):
            for layer, row, (beta, alpha, gamma) in places:
                own = matrix[row]
                coefficients = AdaptationCoefficients(own[beta], own[alpha], None if gamma is None else own[gamma])
                mask = _mask(layer, coefficients)
                found.append(MergedLayer(*_merge(layer, coefficients, mask), coefficients, mask))
        return found

    def run(self, merged: Sequence[MergedLayer], x: Tensor) -> Tensor:
        """Run the network on any batch with these weights and biases in the place of its own."""
        own: list[dict[str, Any]] = [layer._parameters for layer in self._layers]
        given = [(parameters["weight"], parameters["bias"]) for parameters in own]
        try:
            # torch.func.functional_call does the same, but walks through all parameters at every call
            for parameters, layer in zip(own, merged, strict=True):
                parameters["weight"], parameters["bias"] = layer.weight, layer.bias
            return self.network(x)
        finally:
            for parameters, (weight, bias) in zip(own, given, strict=True):
                parameters["weight"], parameters["bias"] = weight, bias

    @torch.no_grad()
    def pull_back(self, merged: Sequence[MergedLayer]) -> list[Tensor]:
        r"""The chain rule of `merge` in closed form.

        Adds to the gradients of the layers' weights and returns those of the coefficients.

        .. math::
            \frac{\partial}{\partial\theta} = (\beta\alpha^\top) \odot G, \quad
            \frac{\partial}{\partial\beta_o} = \sum_i \alpha_i (G \odot \theta)_{oi}, \quad
            \frac{\partial}{\partial\alpha_i} = \sum_o \beta_o (G \odot \theta)_{oi}, \quad
            \frac{\partial}{\partial\gamma} = \frac{\partial}{\partial\hat b}

        with :math:`G = \partial / \partial\hat\theta`, summed over kernel positions for the scales. An online step is
        so short that a graph of a dozen small nodes a layer would cost more than the layers themselves.

        Args:
            merged: what `merge` gave, with the gradients of its weights and biases, which are used up.

        Returns:
            Gradients of the coefficients (layers, width) of every group.
        """
        found, remaining = [], iter(merged)
        for places in self._groups:
            parts = [part for place in places for part in _pull_back(place.layer, next(remaining))]
            found.append(torch.cat(parts).view(len(places), -1))
        return found


class _Place(NamedTuple):
    """Where the coefficients of a layer stand in the matrix of its group."""

    layer: AdaptedLayer
    row: int
    parts: tuple[slice, slice, slice | None]


def _pull_back(layer: AdaptedLayer, merged: MergedLayer) -> list[Tensor]:
    """The gradients of the coefficients of one layer; adds to that of its weight."""
    beta, alpha, gamma = merged.coefficients
    gradient = merged.weight.grad
    if gradient is None:  # the layer was not run
        found = [torch.zeros_like(beta), torch.zeros_like(alpha)]
    else:
        weight = layer.weight
        found = _scale_gradients(layer, merged.coefficients, gradient * weight)
        if weight.requires_grad:
            own = gradient.mul_(merged.mask)
            weight.grad = own if weight.grad is None else weight.grad + own  # layers may share a weight
    if gamma is not None:
        shift = None if merged.bias is None else merged.bias.grad
        found.append(torch.zeros_like(gamma) if shift is None else shift)
    return found


def _scale_gradients(layer: AdaptedLayer, coefficients: AdaptationCoefficients, product: Tensor) -> list[Tensor]:
    """The gradients of beta and alpha, from G * theta."""
    beta, alpha, _ = coefficients
    if isinstance(layer, NORMS):
        return [product, torch.zeros_like(alpha)]
    if isinstance(layer, nn.Conv1d):
        product = product.sum(-1)
        if layer.groups > 1:  # (groups, rows of a group, columns of a group)
            product = product.unflatten(0, (layer.groups, -1))
            beta, alpha = beta.view(layer.groups, -1), alpha.view(layer.groups, -1)
            return [(product * alpha.unsqueeze(1)).sum(-1).flatten(), (product * beta.unsqueeze(-1)).sum(1).flatten()]
    elif not isinstance(layer, nn.Linear):
        product = product.mT
    return [torch.mv(product, alpha), torch.mv(product.mT, beta)]


def scaled_forward(
    network: nn.Module,
    layers: Mapping[str, AdaptedLayer],
    coefficients: Mapping[str, AdaptationCoefficients],
    x: Tensor,
) -> Tensor:
    r"""Run the network with one drift per sample, through the activations.

    Every layer computes :math:`\beta \odot \big(\theta\,(\alpha \odot x)\big) + b + \gamma`, a norm layer the same of
    its normalised input, without :math:`\alpha`. A network may fold variates or patches into the batch axis, sample by
    sample: the scales of a sample then apply to all rows that it became. The batch axis of every layer must come
    first. In training mode batch norm uses the statistics of the batch, so there the two ways differ by nature.

    Raises:
        ValueError: a layer's input has no batch axis, or one that is no multiple of the number of samples.
    """
    with _scaling(layers, coefficients, len(x)):
        return network(x)


@contextmanager
def _scaling(
    layers: Mapping[str, AdaptedLayer], coefficients: Mapping[str, AdaptationCoefficients], samples: int
) -> Generator[None]:
    """Give every layer a scaled forward of its own for the time of one call.

    The fast path of torch's transformer layers is off meanwhile: it reads weights without calling their layers.
    """
    given = {name: vars(layer).get("forward") for name, layer in layers.items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for name, layer in layers.items():
            vars(layer)["forward"] = partial(_scaled(layer), layer, coefficients[name], samples)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for name, layer in layers.items():
            own = given[name]
            if own is None:
                vars(layer).pop("forward", None)
            else:
                vars(layer)["forward"] = own


def _scaled(layer: AdaptedLayer) -> Callable[..., Tensor]:
    if isinstance(layer, nn.Conv1d):
        return _scaled_conv1d
    return _scaled_norm if isinstance(layer, NORMS) else _scaled_linear


def _scaled_linear(layer: nn.Linear, coefficients: AdaptationCoefficients, samples: int, x: Tensor) -> Tensor:
    beta, alpha, gamma = coefficients  # (B, features)
    weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.mT  # that of GPT-2's Conv1D
    rows = _by_sample(x, samples, 2).flatten(1, -2)
    output = functional.linear(rows * alpha.unsqueeze(1), weight) * beta.unsqueeze(1)
    if gamma is not None:
        output = output + (layer.bias + gamma).unsqueeze(1)
    return output.reshape(*x.shape[:-1], len(weight))


def _scaled_norm(
    layer: nn.LayerNorm | nn.BatchNorm1d, coefficients: AdaptationCoefficients, samples: int, x: Tensor
) -> Tensor:
    beta, _, gamma = coefficients  # (B, features)
    forward: Any = type(layer).forward  # the instance has been given this function for the time of the call
    own: dict[str, Any] = layer._parameters
    bias = own["bias"]
    _by_sample(x, samples, 2)
    try:
        own["bias"] = None  # all else that the layer does, such as following its statistics, stays as it is
        output = forward(layer, x)
    finally:
        own["bias"] = bias
    # the axis of the features: the last one of layer norm, the second one of batch norm
    axes = [1] * (x.ndim - 1)
    axes[-1 if isinstance(layer, nn.LayerNorm) else 0] = -1
    output = output.unflatten(0, (samples, -1)) * beta.view(samples, 1, *axes)
    if gamma is not None and bias is not None:
        output = output + (bias + gamma).view(samples, 1, *axes)
    return output.flatten(0, 1)


def _scaled_conv1d(layer: nn.Conv1d, coefficients: AdaptationCoefficients, samples: int, x: Tensor) -> Tensor:
    beta, alpha, gamma = coefficients  # (B, channels)
    scaled = (_by_sample(x, samples, 3) * alpha[:, None, :, None]).flatten(0, 1)
    output = layer._conv_forward(scaled, layer.weight, None)
    output = output.unflatten(0, (samples, -1)) * beta[:, None, :, None]
    if gamma is not None and layer.bias is not None:
        output = output + (layer.bias + gamma)[:, None, :, None]
    return output.flatten(0, 1)


def _by_sample(x: Tensor, samples: int, axes: int) -> Tensor:
    """Split the batch axis into samples and what each was folded into: (B k, ...) to (B, k, ...)."""
    if x.ndim < axes or x.shape[0] % samples:
        raise ValueError(
            f"the input of an adapted layer must have at least {axes} axes, the first a multiple of the {samples} "
            f"samples, got shape {tuple(x.shape)}"
        )
    return x.unflatten(0, (samples, -1))
