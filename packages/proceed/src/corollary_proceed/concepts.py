"""Concepts of a window, their drift over the label's delay, and the clip of its norm."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConceptEncoder(nn.Module):
    r"""A two-layer perceptron along time, shared by all variates and averaged over them (arXiv:2412.08435).

    .. math:: E(u) = \frac1N \sum_i A_2\, \mathrm{gelu}(A_1 u^{(i)} + a_1) + a_2

    The second layer is affine, so the mean over variates is taken before it: the same value for N times less work.

    Args:
        length: rows of the window: L for the current concept, L + H for the reference.
        concept_dim: :math:`d_c`.
    """

    def __init__(self, length: int, concept_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(length, concept_dim)
        self.second = nn.Linear(concept_dim, concept_dim)
        vars(self).update(self._modules)  # found at once, without nn.Module.__getattr__, which an online step notices

    def forward(self, window: Tensor) -> Tensor:
        """Concepts (B, d_c) of windows (B, length, N); any number of variates.

        Raises:
            ValueError: the windows have another length.
        """
        first, second = self.first, self.second
        if window.shape[-2] != first.in_features:
            raise ValueError(f"windows must be (batch, {first.in_features}, variates), got shape {tuple(window.shape)}")
        return apply_linear(second, functional.gelu(apply_linear(first, window.mT)).mean(-2))


def apply_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """What the layer computes. To call it as a module takes longer than a product as small as those of one window."""
    parameters: dict[str, Any] = layer._parameters
    return functional.linear(x, parameters["weight"], parameters["bias"])


def clip_norm(drift: Tensor) -> Tensor:
    r"""Scale drifts (B, d_c) back into the unit ball: :math:`\delta \min(1, 1 / \lVert\delta\rVert_2)`, per sample.

    The identity inside the ball, at zero too. Part of the official code, not of the paper's text.

    Example:
        >>> clip_norm(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.30000001192092896, 0.4000000059604645], [0.0, 0.0]]
    """
    return drift / torch.linalg.vector_norm(drift, dim=-1, keepdim=True).clamp_min(1.0)
