"""Names of the measured quantities, for those who measure them and those who show them."""

TRAJECTORY = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of a run at which its entropy is recorded: the first batch is the starting policy's own."""


AT_EQUAL_REWARD = "entropy at equal reward"
"""A difference only: see `corollary.rl.results.entropy_gain_at_equal_reward`."""

WINDOW = 10
"""Steps over which a curve is averaged, or a third of a shorter run."""


def pass_at(k: int) -> str:
    """The name of pass@k."""
    return f"pass@{k}"


def entropy_at(share: float) -> str:
    """The name of the entropy after this share of the run."""
    return f"entropy {share:.0%}"
