"""Running a network with scaled layers: merged into the weights for one drift, through the activations for several.

Both ways compute the same function; the given modules stay as they are, in place and in type.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary_proceed.generator import AdaptationCoefficients, LayerShape

AdaptedLayer = nn.Linear | nn.Conv1d


def adaptable_layers(
    network: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d)
) -> dict[str, AdaptedLayer]:
    """The layers that can be adapted, by qualified name.

    Layers inside `torch.nn.MultiheadAttention` are left out: it reads their weights without calling them, so that the
    two ways of running would differ.

    Raises:
        ValueError: there is none, or ``kinds`` has a type that is neither Linear nor Conv1d.
    """
    for kind in kinds:
        if not issubclass(kind, AdaptedLayer):
            raise ValueError(f"layers to adapt must be Linear or Conv1d, got {kind.__name__}")
    closed = [name for name, module in network.named_modules() if isinstance(module, nn.MultiheadAttention)]
    found = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, kinds) and not any(name.startswith(f"{outer}.") for outer in closed)
    }
    if not found:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{type(network).__name__} has no layer to adapt: expected a {names}")
    return found  # ty: ignore[invalid-return-type]


def shape_of(layer: AdaptedLayer) -> LayerShape:
    """Sizes of a layer as the generator sees them."""
    if isinstance(layer, nn.Linear):
        return LayerShape(layer.out_features, layer.in_features, layer.bias is not None)
    return LayerShape(layer.out_channels, layer.in_channels, layer.bias is not None)


def merge(layer: AdaptedLayer, coefficients: AdaptationCoefficients) -> tuple[Tensor, Tensor | None]:
    r"""Weight and bias of a layer under one drift (eq. 4).

    .. math:: \hat\theta = (\beta \alpha^\top) \odot \theta, \qquad \hat b = b + \gamma

    The mask is broadcast over kernel positions. In a grouped convolution every row is scaled by the columns of its own
    group.

    Args:
        layer: the layer.
        coefficients: of one drift: beta (outputs,), alpha (inputs,), gamma (outputs,).

    Returns:
        The merged weight, shaped as the layer's, and the merged bias.
    """
    beta, alpha, gamma = coefficients
    weight = layer.weight
    if isinstance(layer, nn.Conv1d):
        if layer.groups > 1:
            columns = alpha.view(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, 0)
            mask = beta.unsqueeze(-1) * columns
        else:
            mask = torch.outer(beta, alpha)
        merged = weight * mask.unsqueeze(-1)
    else:
        merged = weight * torch.outer(beta, alpha)
    return merged, layer.bias + gamma if layer.bias is not None and gamma is not None else None


def merged_forward(
    network: nn.Module, layers: Mapping[str, AdaptedLayer], coefficients: Mapping[str, AdaptationCoefficients], x: Tensor
) -> Tensor:
    """Run the network with the weights merged for one drift; any batch of inputs."""
    replaced: dict[str, Tensor] = {}
    for name, layer in layers.items():
        prefix = f"{name}." if name else ""
        weight, bias = merge(layer, coefficients[name])
        replaced[f"{prefix}weight"] = weight
        if bias is not None:
            replaced[f"{prefix}bias"] = bias
    return torch.func.functional_call(network, replaced, (x,))


def scaled_forward(
    network: nn.Module, layers: Mapping[str, AdaptedLayer], coefficients: Mapping[str, AdaptationCoefficients], x: Tensor
) -> Tensor:
    r"""Run the network with one drift per sample: every layer computes
    :math:`\beta \odot \big(\theta\,(\alpha \odot x)\big) + b + \gamma`.

    A network may fold variates or patches into the batch axis, sample by sample: the scales of a sample then apply to
    all rows that it became.

    Raises:
        ValueError: the batch axis of a layer is no multiple of the number of samples.
    """
    with _scaling(layers, coefficients, len(x)):
        return network(x)


@contextmanager
def _scaling(
    layers: Mapping[str, AdaptedLayer], coefficients: Mapping[str, AdaptationCoefficients], samples: int
) -> Iterator[None]:
    """Give every layer a scaled forward of its own for the time of one call."""
    try:
        for name, layer in layers.items():
            kind = _scaled_linear if isinstance(layer, nn.Linear) else _scaled_conv1d
            layer.forward = partial(kind, layer, coefficients[name], samples)
        yield
    finally:
        for layer in layers.values():
            layer.__dict__.pop("forward", None)


def _scaled_linear(layer: nn.Linear, coefficients: AdaptationCoefficients, samples: int, x: Tensor) -> Tensor:
    beta, alpha, gamma = (None if c is None else c.unsqueeze(1) for c in coefficients)  # (B, 1, features)
    rows = _by_sample(x, samples).flatten(1, -2) if x.ndim > 1 else x
    output = functional.linear(rows * alpha, layer.weight) * beta
    if layer.bias is not None:
        output = output + (layer.bias + gamma)
    return output.view(*x.shape[:-1], layer.out_features)


def _scaled_conv1d(layer: nn.Conv1d, coefficients: AdaptationCoefficients, samples: int, x: Tensor) -> Tensor:
    beta, alpha, gamma = (None if c is None else c[:, None, :, None] for c in coefficients)  # (B, 1, channels, 1)
    scaled = (_by_sample(x, samples) * alpha).flatten(0, 1)
    output = layer._conv_forward(scaled, layer.weight, None)
    output = output.unflatten(0, (samples, -1)) * beta
    if layer.bias is not None:
        output = output + (layer.bias[:, None] + gamma)
    return output.flatten(0, 1)


def _by_sample(x: Tensor, samples: int) -> Tensor:
    """Split the batch axis into samples and what each was folded into: (B k, ...) to (B, k, ...)."""
    if x.shape[0] % samples:
        raise ValueError(f"the batch axis of a layer must be a multiple of the {samples} samples, got {x.shape[0]}")
    return x.unflatten(0, (samples, -1))
