"""The released code's mixing step in plain lists, written apart from the package's own code: what C10 compares it with.

The rules are those of the fork of EasyR1 at https://github.com/597358816/AEPO after 2025-11-24, restated.
"""

from dataclasses import dataclass


@dataclass
class ReleasedController:
    """The switch: ``T_high if ent <= H else T_low``, with ``ent = 0.0`` before the first step."""

    target: float
    t_high: float
    t_low: float
    entropy: float = 0.0

    def temperature(self) -> float:
        """The temperature of the coming second sample."""
        if self.entropy <= self.target:
            return self.t_high
        return self.t_low

    def cooling(self) -> bool:
        """Whether the number of REINFORCE samples is halved."""
        return self.entropy > self.target


def released_step(
    advantages: list[float], second: list[float], reinforce_sample_num: int, controller: ReleasedController
) -> tuple[list[tuple[str, int]], list[float]]:
    """The mixed batch, as (sample, row) pairs, and its advantages.

    Args:
        advantages: Of GRPO's responses.
        second: Group advantages of the second sample.
        reinforce_sample_num: The cap.
        controller: The switch, with the last step's entropy.
    """
    keep = [row for row, advantage in enumerate(second) if advantage > 0.05]
    count = min(reinforce_sample_num, len(keep))
    if controller.cooling():
        count = count // 2
    rows = [("second", row) for row in keep[:count]]
    values = [1.0] * count
    for row in range(count, len(advantages)):
        rows.append(("grpo", row))
        values.append(advantages[row])
    return rows, values
