"""The bang-bang controller: hot while the entropy is at most the target, cold above it."""

import math
import warnings
from collections.abc import Mapping


class EntropyController:
    r"""Chooses the temperature of the second sample from the last measured entropy.

    .. math:: T = T_\text{high} \text{ if } H \le H^* \text{ else } T_\text{low}

    Symbols: :math:`H` the entropy that `update` was given last, :math:`H^*` ``target``, :math:`T_\text{high}`
    ``t_high``, :math:`T_\text{low}` ``t_low``.

    Args:
        target: :math:`H^*`, nats a token, at least 0. The shipped script has 0.5; 0.75 is the best reported setting.
        t_high: Temperature that raises the entropy, larger than 1.
        t_low: Temperature that lowers it, in (0, 1).
        vocab_size: If given, a target above its logarithm, which no policy can reach, warns.

    Raises:
        ValueError: an argument is out of range.

    Implementation notes:
        * Before the first measurement the entropy is 0, as in the released code: the first step is hot.
        * An entropy equal to the target is heated (the code's ``<=``; the README of the code writes ``<``).

    Example:
        >>> controller = EntropyController(0.75)
        >>> controller.temperature()
        1.2
        >>> controller.update(0.9)
        >>> controller.temperature()
        0.8
    """

    def __init__(
        self, target: float, t_high: float = 1.2, t_low: float = 0.8, *, vocab_size: int | None = None
    ) -> None:
        check_controller_options(target, t_high, t_low)
        if vocab_size is not None:
            if vocab_size < 2:
                raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")
            if target > math.log(vocab_size):
                warnings.warn(
                    f"the target entropy {target} is above log({vocab_size}) = {math.log(vocab_size):.4g} nats, "
                    "which no policy can reach",
                    stacklevel=2,
                )
        self.target = target
        self.t_high = t_high
        self.t_low = t_low
        self.entropy = 0.0

    @property
    def heating(self) -> bool:
        """Whether the next second sample is hot."""
        return self.entropy <= self.target

    def temperature(self) -> float:
        """The temperature of the next second sample."""
        return self.t_high if self.heating else self.t_low

    def update(self, entropy: float) -> None:
        """Take in a new measurement, in nats a token.

        Raises:
            ValueError: it is not finite.
        """
        if not math.isfinite(entropy):
            raise ValueError(f"entropy must be finite, got {entropy}")
        self.entropy = float(entropy)

    def state_dict(self) -> dict[str, float]:
        """What a resumed run must know."""
        return {"entropy": self.entropy}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take back what `state_dict` gave."""
        self.update(state["entropy"])


def check_controller_options(target: float, t_high: float, t_low: float) -> None:
    """Refuse options that `EntropyController` does not take.

    Raises:
        ValueError: ``target`` is negative or not finite, ``t_high`` is not above 1, or ``t_low`` not in (0, 1).
    """
    if not 0 <= target < math.inf:
        raise ValueError(f"target must be finite and at least 0, got {target}")
    if not 1 < t_high < math.inf:
        raise ValueError(f"t_high must be finite and larger than 1, got {t_high}")
    if not 0 < t_low < 1:
        raise ValueError(f"t_low must be in (0, 1), got {t_low}")
