"""A content-addressed store of training runs, shared by claims and benchmarks."""

from corollary.runs.checkpoint import load_checkpoint, save_checkpoint
from corollary.runs.environment import (
    commit_of,
    describe_environment,
    describe_machine,
    describe_versions,
    usable_cores,
)
from corollary.runs.files import write_atomically
from corollary.runs.recipe import Recipe, Run, canonical_config, options_of, with_requirements
from corollary.runs.store import Progress, RunDirectory, RunError, RunRecord, RunStore, default_root

__all__ = [
    "Progress",
    "Recipe",
    "Run",
    "RunDirectory",
    "RunError",
    "RunRecord",
    "RunStore",
    "canonical_config",
    "commit_of",
    "default_root",
    "describe_environment",
    "describe_machine",
    "describe_versions",
    "load_checkpoint",
    "options_of",
    "save_checkpoint",
    "usable_cores",
    "with_requirements",
    "write_atomically",
]
