"""Proceed: a forecaster whose layers are scaled by the estimated drift of the concept before it forecasts."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from corollary_proceed.adaptation import MergedLayers, adaptable_layers, scaled_forward, shape_of
from corollary_proceed.concepts import ConceptEncoder, clip_norm
from corollary_proceed.generator import AdaptationCoefficients, AdaptationGenerator

Drift = Literal["difference", "none", "current", "one-encoder"]
"""What the generator is fed: the paper's difference of concepts; zeros (a learned constant re-scaling); the current
concept alone; the difference of two current concepts, by one encoder that sees no labels."""


class Proceed(nn.Module):
    r"""A forecaster that is adapted to the current window before it forecasts (arXiv:2412.08435).

    .. math::
        \delta_t = E'(X_t) - E(X_{t-H}, Y_{t-H}), \qquad
        \hat Y_t = F\big(X_t;\ (\beta_l \alpha_l^\top) \odot \theta_l,\ b_l + \gamma_l\big), \qquad
        (\alpha, \beta, \gamma)_l = g_l(\delta_t)

    Symbols: :math:`F` ``backbone``, :math:`L` ``lookback``, :math:`H` ``horizon``, :math:`d_c` ``concept_dim``,
    :math:`r` ``bottleneck_dim``.

    Hooks on encoders and generator are not run: an online step takes about as long as the calls that it consists of.

    Args:
        backbone: maps (B, L, N + C) to (B, H, N). It is used as it is: no module is replaced. The biases of adapted
            layers are frozen, since the generator's offsets take over their role.
        lookback: L.
        horizon: H.
        variates: N; the columns after these are covariates, which the encoders do not see. All columns if not given.
        concept_dim: size of a concept (paper: 50 to 250, by data set).
        bottleneck_dim: size of the generator's bottleneck (paper: 16 to 64).
        clip: scale drifts back into the unit ball, as the official code does by default.
        share: one bottleneck for all layers of the same name and width.
        adapt: the kinds of layers that are adapted, Linear also being the Conv1D of GPT-2. With norm layers,
            ``(nn.Linear, nn.Conv1d, *NORMS)``, it is the ``all_down_up`` of the official code.
        ema: weight of the past in an exponential average of the reference concept; 0, as in every published script,
            switches it off. The averaged past carries no gradient.
        freeze_backbone: keep the backbone fixed and learn encoders and generator only.
        drift: what the generator is fed; all but the default are controls.

    Raises:
        ValueError: a size that is not positive, ``ema`` outside [0, 1), an unknown drift, or no layer to adapt.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        lookback: int,
        horizon: int,
        variates: int | None = None,
        concept_dim: int = 50,
        bottleneck_dim: int = 32,
        clip: bool = True,
        share: bool = True,
        adapt: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d),
        ema: float = 0.0,
        freeze_backbone: bool = False,
        drift: Drift = "difference",
    ) -> None:
        super().__init__()
        sizes = {"lookback": lookback, "horizon": horizon, "concept_dim": concept_dim, "bottleneck_dim": bottleneck_dim}
        for name, size in (sizes | ({} if variates is None else {"variates": variates})).items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive integer, got {size!r}")
        if not 0 <= ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {ema}")
        if drift not in get_args(Drift):
            raise ValueError(f"drift must be one of {', '.join(get_args(Drift))}, got {drift!r}")
        self.lookback, self.horizon, self.variates = lookback, horizon, variates
        self.clip, self.ema, self.drift_kind = clip, ema, drift
        self.backbone = backbone
        self._layers = adaptable_layers(backbone, adapt)
        self.current_encoder = ConceptEncoder(lookback, concept_dim)
        self.reference_encoder = ConceptEncoder(lookback + horizon, concept_dim)
        self.generator = AdaptationGenerator(
            {name: shape_of(layer) for name, layer in self._layers.items()},
            concept_dim=concept_dim,
            bottleneck_dim=bottleneck_dim,
            share=share,
        )
        self._merged = MergedLayers(backbone, self._layers, self.generator)
        vars(self).update(self._modules)  # found at once, without nn.Module.__getattr__, which an online step notices
        self.freeze_backbone = freeze_backbone
        self._reference: Tensor | None = None
        self._average: Tensor | None = None
        self._concept: Tensor | None = None
        self._kept: deque[tuple[Tensor, Tensor]] = deque(maxlen=horizon)
        self.train_only(backbone=True, generator=True)

    # The reference: the freshest complete pair.

    def set_reference(self, x: Tensor, y: Tensor) -> None:
        """Make these pairs the reference: windows (B, L, N + C) and labels (B, H, N), or one pair without batch axis.

        Several pairs share one concept, the mean of theirs.

        Raises:
            ValueError: shapes that fit neither each other nor lookback and horizon.
        """
        x, y = (x.unsqueeze(0), y.unsqueeze(0)) if x.ndim == 2 else (x, y)
        series = self._series(x)
        expected = (len(x), self.horizon, series.shape[-1])
        if y.shape != expected:
            raise ValueError(f"y must be (batch, horizon, variates) = {expected}, got {tuple(y.shape)}")
        if self.ema and self._reference is not None:
            with torch.no_grad():
                self._average = self.reference_concept()
        # without the checks of nn.Module.__setattr__, which an online step would notice
        vars(self).update(_reference=torch.cat([series, y], 1).detach(), _concept=None)

    def reset_reference(self, variates: int) -> None:
        """The reference before the first mini-batch of training: zeros (1, L + H, N)."""
        parameter = next(self.parameters())
        self._reference = parameter.new_zeros(1, self.lookback + self.horizon, variates)
        self._average = self._concept = None

    def reference_concept(self) -> Tensor:
        r"""The concept of the reference, :math:`E(X_{t-H}, Y_{t-H})`, (d_c,).

        Raises:
            ValueError: there is no reference yet.
        """
        if self._reference is None:
            raise ValueError("there is no reference pair yet: call set_reference(x, y) before forecasting")
        if self._concept is not None:
            return self._concept
        if self.drift_kind == "one-encoder":
            concepts = self.current_encoder.forward(self._reference[:, : self.lookback])
        else:
            concepts = self.reference_encoder.forward(self._reference)
        concept = concepts.mean(0) if len(concepts) > 1 else concepts[0]
        if self._average is not None:
            concept = (1 - self.ema) * concept + self.ema * self._average
        if not self._encoders_learn:
            vars(self)["_concept"] = concept  # the encoders are frozen: the concept holds until the reference changes
        return concept

    # Drift, coefficients, forecast.

    def drift(self, x: Tensor) -> Tensor:
        r"""The estimated drift :math:`\delta_t` of each window, (B, d_c), clipped if `clip` is set.

        Args:
            x: windows (B, L, N + C).

        Raises:
            ValueError: the windows are not (B, L, ...), or there is no reference yet.
        """
        drift = self.estimated_drift(x)
        return clip_norm(drift) if self.clip else drift

    def estimated_drift(self, x: Tensor) -> Tensor:
        """The same before the clip, whose norm says how large the drift is."""
        series = self._series(x)
        if self.drift_kind == "none":
            return series.new_zeros(len(series), self.current_encoder.second.out_features)
        drift = self._current_concept(series)
        return drift if self.drift_kind == "current" else drift - self.reference_concept()

    def _current_concept(self, series: Tensor) -> Tensor:
        """Concepts (B, d_c) of windows (B, L, N).

        Online every window is met twice: when it is forecast from, and again H steps later, when its label is complete.
        The encoders are frozen in between, so the concept that was kept with the window the first time serves again.
        """
        if self._encoders_learn or torch.is_grad_enabled() or len(series) > 1:
            return self.current_encoder.forward(series)
        if self.training:
            if self._kept and torch.equal(self._kept[0][0], series):
                return self._kept[0][1]
            return self.current_encoder.forward(series)
        concept = self.current_encoder.forward(series)
        self._kept.append((series.clone(), concept))  # a copy, since the caller may reuse its memory
        return concept

    def coefficients(self, drift: Tensor) -> dict[str, AdaptationCoefficients]:
        """Scales and shifts of every adapted layer, by name, for drifts (d_c,) or (B, d_c)."""
        return self.generator.split(self.generator.forward(drift))

    def forward(self, x: Tensor, drift: Tensor | None = None) -> Tensor:
        """Forecast (B, H, N) from windows (B, L, N + C), each adapted to its own drift.

        A single window runs through merged weights, a batch through scaled activations.

        Args:
            x: windows.
            drift: takes the place of the estimated drift, (B, d_c).

        Raises:
            ValueError: as `drift`.
        """
        drift = self.drift(x) if drift is None else drift
        if len(x) == 1:
            return self._merged.run(self._merged.merge(self.generator.forward(drift[0])), x)
        return scaled_forward(self.backbone, self._layers, self.coefficients(drift), x)

    def online_loss_gradients(self, x: Tensor, y: Tensor, drift: Tensor | None = None) -> Tensor:
        """Set the gradients of one online step, those of the mean squared error of one adapted forecast.

        As `forward` and autograd would give them, but at less cost: in the online phase the drift is a constant, and
        the chain rule through the scales is known (`MergedLayers.pull_back`).

        Args:
            x: the window (L, N + C).
            y: its label (H, N).
            drift: takes the place of the estimated drift, (1, d_c).

        Returns:
            The error of the forecast, (H, N). The gradients of `online_parameters` are set.

        Raises:
            ValueError: encoders and generator are not frozen, so that the drift is no constant.
        """
        if self._encoders_learn:
            raise ValueError("the generator must be frozen: call freeze_generator() first")
        window = x.unsqueeze(0)
        with torch.no_grad():
            drift = self.drift(window) if drift is None else drift
            merged = self._merged.merge(self.generator.forward(drift[0]))
        for layer in merged:
            layer.weight.requires_grad_()
            if layer.bias is not None:
                layer.bias.requires_grad_()
        forecast = self._merged.run(merged, window)
        error = forecast.detach() - y
        forecast.backward(error * (2 / error.numel()))
        for offset, gradient in zip(self.generator.offsets(), self._merged.pull_back(merged), strict=True):
            if offset.requires_grad:
                offset.grad = gradient
        return error.squeeze(0)

    def _series(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[1] != self.lookback:
            raise ValueError(f"x must be (batch, lookback, columns) = (B, {self.lookback}, ...), got {tuple(x.shape)}")
        if self.variates is None or x.shape[-1] == self.variates:
            return x
        if x.shape[-1] < self.variates:
            raise ValueError(f"x must have at least {self.variates} columns, got shape {tuple(x.shape)}")
        return x[..., : self.variates]

    # Who learns when.

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the backbone except the biases of adapted layers."""
        fixed = {id(layer.bias) for layer in self._layers.values()}
        return (parameter for parameter in self.backbone.parameters() if id(parameter) not in fixed)

    def generator_parameters(self) -> list[nn.Parameter]:
        """Encoders and generator without its offsets: what maps a pair of windows to scales."""
        offsets = {id(offset) for offset in self.generator.offsets()}
        modules = (self.current_encoder, self.reference_encoder, self.generator)
        return [p for module in modules for p in module.parameters() if id(p) not in offsets]

    def online_parameters(self) -> list[nn.Parameter]:
        """What keeps learning online: the backbone and the offsets; only the offsets of a frozen backbone."""
        backbone = [] if self.freeze_backbone else list(self.backbone_parameters())
        return backbone + self.generator.offsets()

    def train_only(self, *, backbone: bool, generator: bool) -> None:
        """Say what learns: backbone and offsets, encoders and generator, or both. Adapted biases never do."""
        self.backbone.requires_grad_(False)
        for parameter in self.online_parameters():
            parameter.requires_grad_(backbone)
        for parameter in self.generator_parameters():
            parameter.requires_grad_(generator)
        self._encoders_learn = generator
        self._forget_concepts()

    def freeze_generator(self) -> None:
        """The online phase: encoders and generator are fixed, backbone and offsets learn.

        What the encoders gave is kept while they are fixed: whoever changes them by hand calls this afterwards.
        """
        self.train_only(backbone=True, generator=False)

    def _forget_concepts(self) -> None:
        """The encoders may have changed."""
        self._concept = None
        self._kept.clear()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """The reference goes where the parameters go."""
        super()._apply(fn, recurse)
        self._forget_concepts()
        self._reference, self._average = (None if t is None else fn(t) for t in (self._reference, self._average))
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """The reference and the running average, which `state_dict` holds too."""
        return {"reference": self._reference, "average": self._average}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self._reference, self._average = state["reference"], state["average"]
        self._forget_concepts()
