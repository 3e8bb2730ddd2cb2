"""Entry point of the `corollary` command: parse, run, turn errors into one line and an exit status."""

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Sequence

import tyro

import corollary
from corollary.cli.bench import Bench
from corollary.cli.cite import Cite
from corollary.cli.errors import UsageError
from corollary.cli.listing import List
from corollary.cli.reproduce import Reproduce
from corollary.cli.tables import Tables
from corollary.cli.train import Train
from corollary.papers.matching import unknown

DESCRIPTION = """Research papers you can install, run and check.

Each installed paper carries its claims as code. `corollary reproduce SLUG` measures them and computes a verdict for
each; `corollary bench SUITE` compares methods; `corollary train rlvr` trains a model of yours.
`corollary COMMAND --help` explains a command; `corollary --version` prints the version.

Exit status: 0 = ran, and every exact claim holds; 1 = a claim that must hold failed, or something could not be run;
2 = bad usage or unreadable files, with one line that says which; 130 = stopped by Ctrl-C."""

COMMANDS = {"list": List, "reproduce": Reproduce, "bench": Bench, "train": Train, "tables": Tables, "cite": Cite}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the command's name; those of this process if not given.

    Returns:
        The exit status; see `DESCRIPTION`.
    """
    _never_fail_to_print()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"corollary {corollary.__version__}")
        return 0
    if not words:
        words = ["--help"]
    try:
        status = parse(words).run()
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


def parse(words: Sequence[str]) -> List | Reproduce | Bench | Train | Tables | Cite:
    """The command that these words ask for.

    Raises:
        UsageError: They ask for nothing that there is; one line instead of the parser's framed paragraphs.
        SystemExit: They ask for help, which is printed.
    """
    if words[0] not in COMMANDS and not words[0].startswith("-"):
        raise UsageError(unknown("command", words[0], list(COMMANDS)))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(  # ty: ignore[no-matching-overload]
                COMMANDS,
                prog="corollary",
                description=DESCRIPTION,
                args=words,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if not end.code:
            raise
        help_line = " ".join(["corollary", *[word for word in words[:1] if word in COMMANDS], "--help"])
        raise UsageError(f"{_essence(complaint.getvalue())} (`{help_line}` explains)") from None


def _essence(framed: str) -> str:
    """What the parser complains about: the first paragraph inside its frame, and the options it suggests."""
    lines = [line.strip("│|╭╰╮╯+ ") for line in framed.splitlines()[1:]]
    inside = itertools.dropwhile(_is_rule, lines)  # a stream without box characters has a rule below the title
    first = list(itertools.takewhile(lambda line: line and not _is_rule(line), inside))
    meant = re.findall(r"--[a-z][a-z-]*", framed.partition("Perhaps you meant")[2])
    suggested = [name for name in dict.fromkeys(meant) if name != "--help"][:2]
    return " ".join(first).rstrip(".") + (f"; perhaps you meant {' or '.join(suggested)}" if suggested else "")


def _complain(text: str) -> None:
    """One line on the error stream, whatever the message holds."""
    print(f"corollary: {' '.join(text.split())}", file=sys.stderr)


def _is_rule(line: str) -> bool:
    return bool(line) and not line.strip("─-")


def _never_fail_to_print() -> None:
    """Print a question mark where the terminal's encoding lacks a character, rather than fail over it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
