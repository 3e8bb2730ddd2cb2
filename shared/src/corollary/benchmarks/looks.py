"""How methods look in the figures of all suites."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart with any colour vision, without its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLES = ("-", "--", "-.", ":")
TRUTH = "#000000"
"""For what the methods are measured against."""


def looks_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a line style for every method, the same in all panels of a figure."""
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i // len(COLOURS) % len(STYLES)]}
        for i, name in enumerate(names)
    }


def finish(axes: "Axes", *, legend: bool = True) -> None:
    """A light grid, no box, and the legend beside the panel."""
    axes.grid(color="0.92")
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(9.5)
    if legend:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8.5)
