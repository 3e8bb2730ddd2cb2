"""Public data sets: where each comes from, under which licence, and a local copy whose digest was checked."""

from corollary.data.fetch import FOLDER_VARIABLE, CorruptFileError, DataUnavailable, cache_folder, fetch
from corollary.data.questions import QUESTIONS, QuestionFile, find_file
from corollary.data.registry import DATASETS, DataFile, Dataset, describe, find_dataset
from corollary.data.tables import load_table

__all__ = [
    "DATASETS",
    "FOLDER_VARIABLE",
    "QUESTIONS",
    "CorruptFileError",
    "DataFile",
    "DataUnavailable",
    "Dataset",
    "QuestionFile",
    "cache_folder",
    "describe",
    "fetch",
    "find_dataset",
    "find_file",
    "load_table",
]
