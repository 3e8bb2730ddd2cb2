"""Draws docs/benchmarks/kernels.md and its plot from the CSVs that `kernels.py` wrote."""


def write_page() -> None:
    """Draw the page and the plot."""
    raise SystemExit("not written yet")
