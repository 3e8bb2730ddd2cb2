"""Entry point of the `corollary` command: parse, run, turn errors into one line and an exit status."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

import corollary
from corollary.cli.cite import Cite
from corollary.cli.errors import UsageError
from corollary.cli.listing import List
from corollary.cli.reproduce import Reproduce
from corollary.cli.tables import Tables

DESCRIPTION = """Research papers you can install, run and check.

Each installed paper carries its claims as code. `corollary reproduce SLUG` measures them and computes a verdict for
each. `corollary COMMAND --help` explains a command; `corollary --version` prints the version.

Exit status: 0 = ran, and every exact claim holds; 1 = a claim that must hold failed, or something could not be run;
2 = bad usage or unreadable files, with one line that says which; 130 = stopped by Ctrl-C."""

Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Tables, tyro.conf.subcommand("tables")]
    | Annotated[Cite, tyro.conf.subcommand("cite")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the command's name; those of this process if not given.

    Returns:
        The exit status; see `DESCRIPTION`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"corollary {corollary.__version__}")
        return 0
    if not words:
        words = ["--help"]
    command = tyro.cli(Command, prog="corollary", description=DESCRIPTION, args=words)
    try:
        status = command.run()
        sys.stdout.flush()
        return status
    except UsageError as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:
        # The reader of our output has gone, as in `corollary list | head -1`; Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as interrupt:
        _complain(str(interrupt) or "stopped")
        return getattr(interrupt, "status", 130)


def _complain(text: str) -> None:
    """One line on the error stream, whatever the message holds."""
    print(f"corollary: {' '.join(text.split())}", file=sys.stderr)
