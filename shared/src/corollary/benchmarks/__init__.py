"""Benchmarks: methods side by side on the same data, budget and seeds, and the pages that are written from them."""

from corollary.benchmarks.engine import DEFAULT_OUT, NotRecorded, SelectionError, bench
from corollary.benchmarks.records import RecordError, pages, read_record
from corollary.benchmarks.suite import SUITES, Selection, Suite, find_suite

__all__ = [
    "DEFAULT_OUT",
    "SUITES",
    "NotRecorded",
    "RecordError",
    "Selection",
    "SelectionError",
    "Suite",
    "bench",
    "find_suite",
    "pages",
    "read_record",
]
