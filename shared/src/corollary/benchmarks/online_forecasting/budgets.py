"""How much the suite does per budget. Everything that may be adjusted stands here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from corollary.papers import Budget

ALWAYS = ("persistence", "seasonal-naive", "ridge", "frozen")
"""Methods that no selection leaves out: what a new method must beat before anything else."""

BASELINE = "gd"
"""The method that the others are compared with; always there as well."""

FIRST_SEED = 5
"""Seeds count from here: those of the verdicts of `proceed`, so that both share their runs."""

STREAM = "switching-levels"
"""The embedded data set, part of every run of the suite, so that it needs no network."""


SLOW = {"linear": ("fsnet", "onenet"), "nlinear": ("fsnet", "onenet")}
"""They bring networks of their own, the same whatever the backbone: 4 and 14 core-minutes a run, beside seconds."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one budget runs: every data set with every backbone, on the horizons of the backbone."""

    stream_seeds: int
    """Seeds of the embedded stream."""
    data: tuple[str, ...] = ()
    """Data sets beside the embedded stream."""
    horizons: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"nlinear": (24,)})
    """Horizons by backbone."""
    seeds: int = 1
    """Seeds of these data sets."""
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: SLOW)
    """Methods that take too long for this budget on a backbone, unless they are asked for by name."""


WORK = {
    Budget.SMOKE: Work(stream_seeds=1),
    Budget.QUICK: Work(stream_seeds=3, data=("ETTh2",)),
    Budget.FULL: Work(
        stream_seeds=5,
        data=("ETTh2", "ETTh1"),
        horizons={"nlinear": (24, 48, 96), "tcn": (24,)},
        seeds=3,
        left_out={**SLOW, "tcn": ("onenet",)},
    ),
}

OTHER_HORIZONS = (24,)
"""Horizons of a backbone that a selection names and the budget does not."""

PERIODS_PER_BLOCK = 7
"""Blocks of the bootstrap over time are so many seasonal periods (a week of hourly data), at least the horizon."""

STREAM_BLOCK = 350
"""Blocks of the embedded stream, which has no season: its longest regime."""
