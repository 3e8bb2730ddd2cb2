"""Reproducing papers: training runs in parallel, measurements, verdicts, result files, tables."""

from corollary.reproduce.engine import DEFAULT_OUT, PlotError, exit_status, reproduce
from corollary.reproduce.results import ClaimResult, ResultFileError, read_result, read_results, write_result
from corollary.reproduce.training import Interrupted, OutputError
from corollary.reproduce.workers import StorageError

__all__ = [
    "DEFAULT_OUT",
    "ClaimResult",
    "Interrupted",
    "OutputError",
    "PlotError",
    "ResultFileError",
    "StorageError",
    "exit_status",
    "read_result",
    "read_results",
    "reproduce",
    "write_result",
]
