"""Names of the measured quantities, for those who measure them and those who show them."""

TRAJECTORY = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of a run at which its entropy is recorded: the first batch is the starting policy's own."""


def pass_at(k: int) -> str:
    """The name of pass@k."""
    return f"pass@{k}"


def entropy_at(share: float) -> str:
    """The name of the entropy after this share of the run."""
    return f"entropy {share:.0%}"
