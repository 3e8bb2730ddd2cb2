"""Public data sets: where each comes from, under which licence, and a local copy whose digest was checked."""

from corollary.data.fetch import FOLDER_VARIABLE, CorruptFileError, DataUnavailable, cache_folder, fetch
from corollary.data.registry import DATASETS, Dataset, describe, find_dataset
from corollary.data.tables import load_table

__all__ = [
    "DATASETS",
    "FOLDER_VARIABLE",
    "CorruptFileError",
    "DataUnavailable",
    "Dataset",
    "cache_folder",
    "describe",
    "fetch",
    "find_dataset",
    "load_table",
]
