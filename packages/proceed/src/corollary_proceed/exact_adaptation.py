"""Exact claims about the adapted network: identities of one forward pass and its gradients, in float64."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corollary.forecasting import TCN, NLinear, RevIN
from corollary.papers import Measurement
from corollary_proceed import adaptation, concepts, generator
from corollary_proceed.model import Proceed

LOOKBACK, HORIZON, VARIATES = 20, 5, 3


class Mixed(nn.Module):
    """Everything an adapted network may hold.

    Convolutions with stride, dilation and groups, layers without bias, a variate axis folded into the batch, and
    attention with separate projections.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv1d(1, 6, 3, stride=2, padding=1)
        self.dilated = nn.Conv1d(6, 6, 3, padding=2, dilation=2, bias=False)
        self.grouped = nn.Conv1d(6, 6, 3, padding=1, groups=2)
        self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, HORIZON)

    def forward(self, x: Tensor) -> Tensor:
        """Forecast (B, H, N) from (B, L, N)."""
        folded = x.mT.flatten(0, 1).unsqueeze(1)
        hidden = functional.gelu(self.grouped(functional.gelu(self.dilated(self.strided(folded))))).mT
        weights = torch.softmax(self.query(hidden) @ self.key(hidden).mT, -1)
        return self.head(self.norm(hidden + weights @ hidden).mean(1)).unflatten(0, x.shape[::2]).mT


def backbones() -> dict[str, nn.Module]:
    """Small networks of every kind, in float64 and evaluation mode."""
    torch.manual_seed(0)
    networks = {
        "linear": NLinear(LOOKBACK, HORIZON, VARIATES),
        "convolution": RevIN(TCN(VARIATES, HORIZON, VARIATES, width=6, depth=3, output=8), VARIATES),
        "mixed": Mixed(),
    }
    return {name: network.double().eval() for name, network in networks.items()}


def wrapped(backbone: nn.Module, *, disturb: float = 0.0, seed: int = 1, **options: Any) -> Proceed:
    """The backbone wrapped, with random generator outputs and offsets of the given size, and a reference."""
    torch.manual_seed(seed)
    model = Proceed(
        backbone,
        lookback=LOOKBACK,
        horizon=HORIZON,
        variates=VARIATES,
        concept_dim=7,
        bottleneck_dim=4,
        **options,
    ).double()
    model.eval()
    with torch.no_grad():
        for group in model.generator.groups if disturb else ():
            group.up.weight.normal_(0, disturb)
            group.offset.normal_(0, disturb)
    model.set_reference(*batch(2, seed=seed + 1))
    return model


def batch(size: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Random windows and labels."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(size, LOOKBACK, VARIATES, dtype=torch.float64, generator=random)
    return x, torch.randn(size, HORIZON, VARIATES, dtype=torch.float64, generator=random)


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).detach().abs().max())


def identity_start(_: Measurement) -> Mapping[str, float]:
    """C3: before any training the wrapped network is the given one."""
    merged, scaled = 0.0, 0.0
    for network in backbones().values():
        x, _y = batch(4, seed=3)
        expected = network(x)
        model = wrapped(network)
        merged = max(merged, *(_difference(model(x[i : i + 1]), network(x[i : i + 1])) for i in range(4)))
        scaled = max(scaled, _difference(model(x), expected))
    return {"merged": merged, "scaled": scaled}


def drift_equation(_: Measurement) -> Mapping[str, float]:
    """The drift against equations 1 and 2 written out, one variate and one sample at a time."""
    model = wrapped(backbones()["linear"], clip=False)
    x, _y = batch(3, seed=5)
    reference_x, reference_y = batch(2, seed=2)

    def concept(encoder: concepts.ConceptEncoder, series: Tensor) -> Tensor:
        hidden = functional.gelu(encoder.first.weight @ series + encoder.first.bias)
        return encoder.second.weight @ hidden + encoder.second.bias

    together = torch.cat([reference_x, reference_y], 1)
    reference = torch.stack(
        [concept(model.reference_encoder, together[b, :, i]) for b in range(2) for i in range(VARIATES)]
    ).mean(0)
    worst = 0.0
    for b in range(3):
        current = torch.stack([concept(model.current_encoder, x[b, :, i]) for i in range(VARIATES)]).mean(0)
        worst = max(worst, _difference(model.drift(x[b : b + 1])[0], current - reference))
    return {"error": worst}


def generator_equation(_: Measurement) -> Mapping[str, float]:
    """The merged weights against equations 3 and 4 written out layer by layer."""
    network = backbones()["mixed"]
    model = wrapped(network, disturb=0.3)
    x, _y = batch(1, seed=6)
    drift = model.drift(x)[0]
    found = model.coefficients(drift)
    layers = adaptation.adaptable_layers(network)
    worst = 0.0
    for group in model.generator.groups:
        for row, name in enumerate(group.shapes):
            layer = layers[name]
            hidden = torch.sigmoid(group.down.weight @ drift + group.bias[row])
            vector = group.up.weight @ hidden + group.offset[row]
            outputs, inputs, has_bias = adaptation.shape_of(layer)
            beta, alpha = 1 + vector[:outputs], 1 + vector[outputs : outputs + inputs]
            weight, bias = adaptation.merge(layer, found[name])
            per_group = layer.weight.shape[1]
            for o in range(outputs):
                first = o // (outputs // (inputs // per_group)) * per_group
                columns = alpha[first : first + per_group]
                mask = beta[o] * columns
                expected = layer.weight[o] * (mask[:, None] if layer.weight.ndim == 3 else mask)
                worst = max(worst, _difference(weight[o], expected))
            if has_bias and bias is not None and layer.bias is not None:
                worst = max(worst, _difference(bias, layer.bias + vector[outputs + inputs :]))
    return {"error": worst}


def two_paths(_: Measurement) -> Mapping[str, float]:
    """Scaled activations of a batch against merged weights of each sample: outputs and gradients."""
    output, gradient = 0.0, 0.0
    for network in backbones().values():
        model = wrapped(network, disturb=0.3)
        x, y = batch(4, seed=7)
        learning = [p for p in model.parameters() if p.requires_grad]
        together = model(x)
        apart = torch.cat([model(x[i : i + 1]) for i in range(4)])
        output = max(output, _difference(together, apart))
        pairs = zip(
            torch.autograd.grad(functional.mse_loss(together, y), learning, allow_unused=True),
            torch.autograd.grad(functional.mse_loss(apart, y), learning, allow_unused=True),
            strict=True,
        )
        gradient = max(gradient, *(_difference(a, b) for a, b in pairs if a is not None and b is not None))
    return {"output": output, "gradient": gradient}


def rank_one(_: Measurement) -> Mapping[str, float]:
    """The mask theta_hat / theta of every layer has rank one: second singular value over the first."""
    network = backbones()["convolution"]
    model = wrapped(network, disturb=0.3)
    found = model.coefficients(model.drift(batch(1, seed=8)[0])[0])
    worst = 0.0
    for name, layer in adaptation.adaptable_layers(network).items():
        mask = adaptation.merge(layer, found[name])[0] / layer.weight
        mask = mask if mask.ndim == 2 else mask.flatten(1)
        values = torch.linalg.svdvals(mask.detach())
        if len(values) > 1:
            worst = max(worst, float(values[1] / values[0]))
    return {"ratio": worst}


def closed_gradients(_: Measurement) -> Mapping[str, float]:
    """The online step's gradients in closed form against autograd through `forward`."""
    worst = 0.0
    for network in backbones().values():
        model = wrapped(network, disturb=0.3)
        model.freeze_generator()
        x, y = batch(1, seed=9)
        learning = [p for p in model.online_parameters() if p.requires_grad]
        expected = torch.autograd.grad(functional.mse_loss(model(x), y), learning)
        for parameter in learning:
            parameter.grad = None
        model.online_loss_gradients(x[0], y[0])
        worst = max(
            worst, *(_difference(p.grad, e) for p, e in zip(learning, expected, strict=True) if p.grad is not None)
        )
        worst = max(
            worst, *(float(e.abs().max()) for p, e in zip(learning, expected, strict=True) if p.grad is None), 0
        )
    return {"error": worst}


def first_gradients(_: Measurement) -> Mapping[str, float]:
    """At the start W2 = 0: encoders, W1 and b get no gradient, W2 does."""
    silent, loud = 0.0, 1e9
    for network in backbones().values():
        model = wrapped(network)
        x, y = batch(4, seed=10)
        functional.mse_loss(model(x), y).backward()
        groups = model.generator.groups
        quiet = [*model.current_encoder.parameters(), *model.reference_encoder.parameters()]
        quiet.extend(p for group in groups for p in (group.down.weight, group.bias))
        silent = max(silent, *(float(p.grad.abs().max()) for p in quiet if p.grad is not None))
        received = [group.up.weight.grad for group in groups]
        loud = min(loud, max(0.0 if gradient is None else float(gradient.abs().max()) for gradient in received))
    return {"silent": silent, "loud": loud}


def clipped_drift(_: Measurement) -> Mapping[str, float]:
    """The clip: norm at most 1, direction kept, identity inside the ball, finite value and gradient at zero."""
    random = torch.Generator().manual_seed(0)
    drift = torch.randn(500, 9, dtype=torch.float64, generator=random) * torch.logspace(-3, 2, 500).double()[:, None]
    clipped = concepts.clip_norm(drift)
    norms = torch.linalg.vector_norm(drift, dim=-1)
    inside = norms <= 1
    cosine = (drift * clipped).sum(-1) / norms / torch.linalg.vector_norm(clipped, dim=-1)
    zero = torch.zeros(1, 9, dtype=torch.float64, requires_grad=True)
    concepts.clip_norm(zero).sum().backward()
    finite = zero.grad is not None and bool(torch.isfinite(zero.grad).all())
    return {
        "excess": float(torch.linalg.vector_norm(clipped, dim=-1).max()) - 1,
        "direction": float((1 - cosine).abs().max()),
        "inside": _difference(clipped[inside], drift[inside]),
        "gradient at zero": 0.0 if finite else 1.0,
    }


def bounded_response(_: Measurement) -> Mapping[str, float]:
    """|alpha - 1 - o| <= the absolute row sums of W2, since the sigmoid lies in (0, 1); likewise beta and gamma."""
    model = wrapped(backbones()["mixed"], disturb=0.3)
    excess = -1e9
    for scale in (0.1, 1.0, 100.0):
        drift = torch.randn(200, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * scale
        for group in model.generator.groups:
            response = (group(drift) - group.start - group.offset).abs()
            bound = group.up.weight.abs().sum(1)
            excess = max(excess, float((response - bound).detach().max()))
    return {"excess": excess}


def scaling_invariance(_: Measurement) -> Mapping[str, float]:
    """(beta / c, c alpha) give the same weights."""
    network = backbones()["convolution"]
    model = wrapped(network, disturb=0.3)
    found = model.coefficients(model.drift(batch(1, seed=11)[0])[0])
    worst = 0.0
    for name, layer in adaptation.adaptable_layers(network).items():
        beta, alpha, gamma = found[name]
        for c in (0.1, 3.0, -7.0):
            other = generator.AdaptationCoefficients(beta / c, alpha * c, gamma)
            worst = max(worst, _difference(adaptation.merge(layer, other)[0], adaptation.merge(layer, found[name])[0]))
    return {"difference": worst}


def parameter_counts(_: Measurement) -> Mapping[str, float]:
    """C6: counts of the TCN with RevIN for N = 7, L = 60, H = 24, d_c = 50, r = 32, against the official classes."""
    torch.manual_seed(0)
    backbone = RevIN(TCN(14, 24, 7), 7)
    shapes = {name: adaptation.shape_of(layer) for name, layer in adaptation.adaptable_layers(backbone).items()}
    own = _count(backbone)
    model = Proceed(backbone, lookback=60, horizon=24, variates=7, concept_dim=50, bottleneck_dim=32)
    model.freeze_generator()
    counted = {
        "backbone": own - 692_022,
        "encoder of the window": _count(model.current_encoder) - 5_600,
        "encoder of the pair": _count(model.reference_encoder) - 6_800,
        "generator": _count(model.generator) - 124_862,
        "online": sum(p.numel() for p in model.parameters() if p.requires_grad) - 696_556,
        "formula": generator.generator_size(shapes, concept_dim=50, bottleneck_dim=32) - _count(model.generator),
    }
    return {name: float(abs(difference)) for name, difference in counted.items()}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
