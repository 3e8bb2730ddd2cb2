"""How results are measured: pass@k, the interquartile mean, and intervals over seeds, runs, tasks and time."""

from corollary.evaluation.block_bootstrap import paired_block_bootstrap
from corollary.evaluation.intervals import (
    Interval,
    Statistic,
    bootstrap_interval,
    iqm,
    mean_interval,
    paired_bootstrap,
)
from corollary.evaluation.pass_at_k import distinct_correct, pass_at_k
from corollary.evaluation.prequential import (
    OnlineForecaster,
    OnlineResult,
    Prequential,
    prequential,
)
from corollary.evaluation.stream import LeakageError, LeakageWarning, LeakyStream, Stream

__all__ = [
    "Interval",
    "LeakageError",
    "LeakageWarning",
    "LeakyStream",
    "OnlineForecaster",
    "OnlineResult",
    "Prequential",
    "Statistic",
    "Stream",
    "bootstrap_interval",
    "distinct_correct",
    "iqm",
    "mean_interval",
    "paired_block_bootstrap",
    "paired_bootstrap",
    "pass_at_k",
    "prequential",
]
