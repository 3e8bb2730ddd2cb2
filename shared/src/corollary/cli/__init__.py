"""The `corollary` command."""

from corollary.cli.main import main

__all__ = ["main"]
