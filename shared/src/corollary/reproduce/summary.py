"""The last thing a reproduction prints: a table per level, claim by claim, and the counts of verdicts."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from corollary.papers import Budget, Finding, Level, Verdict
from corollary.reproduce.display import STYLES
from corollary.reproduce.numbers import format_bound, format_measured, format_seconds
from corollary.reproduce.results import ClaimResult

CAPTION = "Seconds: the measurement plus its training runs as recorded; a run that claims share counts in each."


MAX_WIDTH = 120
NARROWING = (("paper", 11, 40), ("paper", 8, 20), ("ours", 16, 16))
"""Where the table is narrow, in this order: the column gives way down to the first number of characters while the
claim has fewer than the second."""
PIPE_WIDTH = 120
"""Width of tables in files and pipes, where nobody says how wide they may be."""


def wide_enough(console: Console) -> Console:
    """The console, made wide enough for the tables when it is no terminal."""
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    return console


def print_summary(results: Sequence[ClaimResult], console: Console) -> None:
    """Print a table for each level that occurs, all with the same columns, and count the verdicts."""
    widths = column_widths(results, min(console.width, MAX_WIDTH))
    for level in Level:
        of_level = [result for result in results if result.level is level]
        if of_level:
            console.print()
            console.print(Text(table_title(of_level, level), style="bold"))
            console.print(summary_table(of_level, level, widths))
    if any(result.level is not Level.EXACT for result in results):
        console.print(Text(CAPTION, style="dim"))
        console.print()
    console.print(Text.assemble(*_counted(results)))
    # A claim whose quantities are only reported has no verdict on any budget.
    gated = [result for result in results if any(finding.verdict is not None for finding in result.findings)]
    few = [result for result in gated if result.verdict is Verdict.NO_VERDICT]
    if any(result.budget is not Budget.FULL for result in few):
        ids = ", ".join(result.claim for result in few)
        reason = "never gives one" if few[0].budget is Budget.SMOKE else "has too few seeds for one"
        hint = f"No verdict on {ids}: budget {few[0].budget} {reason}; --budget full decides."
        console.print(Text(hint, style="dim"), soft_wrap=True)


def column_widths(results: Sequence[ClaimResult], total: int) -> dict[str, int]:
    """Widths for all tables of a summary; what the other columns leave is the claim's."""
    measured = [len(_ours(result)) for result in results if result.findings]
    measured += [len(format_measured(item, result.level)) for result in results for item in result.findings]
    widths = {
        "paper": min(20, max([5, *(len(result.reference) for result in results)])),
        "ours": min(34, max([18, *measured])),
        "verdict": max(len(verdict) for verdict in Verdict),
        "seconds": len("seconds"),
    }
    widths["claim"] = total - sum(widths.values()) - 2 * (len(widths) + 1)
    for column, least, wish in NARROWING:
        taken = max(0, min(wish - widths["claim"], widths[column] - least))
        widths[column] -= taken
        widths["claim"] += taken
    widths["claim"] = max(8, widths["claim"])
    return widths


def summary_table(results: Sequence[ClaimResult], level: Level, widths: Mapping[str, int]) -> Table:
    """The table "claim | paper | ours [95 % CI] | verdict | seconds" of one level."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("claim", overflow="fold", width=widths["claim"])
    table.add_column("paper", overflow="fold", width=widths["paper"])
    table.add_column(
        "ours (worst case)" if level is Level.EXACT else "ours [95 % CI]", overflow="fold", width=widths["ours"]
    )
    table.add_column("verdict", no_wrap=True, width=widths["verdict"])
    table.add_column("seconds", no_wrap=True, justify="right", width=widths["seconds"])
    for result in results:
        _add_rows(table, result, widths["claim"])
        table.add_section()
    return table


def table_title(results: Sequence[ClaimResult], level: Level) -> str:
    """Level, budget and seeds, for example `scaled claims, budget full, 5 seeds (0, 1, 2, 3, 4)`."""
    budgets = "/".join(dict.fromkeys(result.budget.value for result in results))
    if level is Level.EXACT:
        return f"exact claims, budget {budgets}"
    kind = "paper-scale" if level is Level.PAPER else level.value
    return f"{kind} claims, budget {budgets}{describe_seeds(results)}"


def describe_seeds(results: Iterable[ClaimResult]) -> str:
    """The seeds of several results: the list when they agree, otherwise how many; empty if there are none."""
    used = {result.seeds for result in results if result.seeds}
    if not used:
        return ""
    if len(used) == 1:
        seeds = next(iter(used))
        word = "seed" if len(seeds) == 1 else f"{len(seeds)} seeds:"
        return f", {word} {', '.join(map(str, seeds))}"
    counts = sorted(len(seeds) for seeds in used)
    return f", {counts[0]} to {counts[-1]} seeds" if counts[0] != counts[-1] else f", {counts[0]} seeds per claim"


def count_verdicts(results: Iterable[ClaimResult]) -> list[tuple[Verdict, int]]:
    """How often each verdict occurs, in the order of the definition, without zeros."""
    counts = Counter(result.verdict for result in results)
    return [(verdict, counts[verdict]) for verdict in Verdict if counts[verdict]]


def describe_counts(results: Iterable[ClaimResult]) -> str:
    """Counts of verdicts in words: `3 reproduced, 1 not run`; a dash if there is no result."""
    return ", ".join(f"{count} {verdict}" for verdict, count in count_verdicts(results)) or "-"


def _counted(results: Sequence[ClaimResult]) -> list[tuple[str, str]]:
    parts: list[tuple[str, str]] = [(f"{len(results)} claim{'s' * (len(results) != 1)}: ", "bold")]
    for index, (verdict, count) in enumerate(count_verdicts(results)):
        parts += [(", ", "")] * bool(index) + [(f"{count} {verdict.value}", STYLES[verdict])]
    return parts


def _ours(result: ClaimResult) -> str:
    """What the row of the claim itself says; several gates have rows of their own."""
    if result.error is not None:
        return result.error
    if result.verdict is Verdict.NOT_RUN:
        return f"needs {result.needs}" if result.needs else ""
    return format_measured(result.findings[0], result.level) if len(result.findings) == 1 else ""


def _add_rows(table: Table, result: ClaimResult, width: int) -> None:
    verdict = Text(result.verdict.value, style=STYLES[result.verdict])
    ours = Text(_ours(result), style="red" if result.error else "dim" if result.verdict is Verdict.NOT_RUN else "")
    seconds = format_seconds(result.seconds) if result.findings else ""
    claim = Text(_hanging(f"{result.claim}  {result.statement}", width))
    claim.stylize("bold", 0, len(result.claim))
    if len(result.findings) == 1:
        claim.append("\n" + _hanging(f"- {_labelled(result.findings[0], result)}", width), style="dim")
    table.add_row(claim, Text(result.reference), ours, verdict, seconds)
    for finding in result.findings if len(result.findings) > 1 else ():
        own = Text(finding.verdict.value, style=STYLES[finding.verdict]) if finding.verdict else Text("-")
        label = Text(_hanging(f"- {_labelled(finding, result)}", width), style="dim")
        table.add_row(label, "", Text(format_measured(finding, result.level)), own, "")


def _hanging(text: str, width: int) -> str:
    """The text in lines of this width, with all but the first indented."""
    return textwrap.fill(text, width, subsequent_indent="  ", break_on_hyphens=False)


def _labelled(finding: Finding, result: ClaimResult) -> str:
    bound = format_bound(finding, result.level)
    return f"{finding.label} {bound}" if bound else f"{finding.label} (reported)"
