"""`corollary list`: papers, claims and recorded verdicts at a glance."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class List:
    """List the installed papers with their claims and recorded verdicts."""

    def run(self) -> int:
        """Print the table; status 2 when a paper or one of its result files cannot be read."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from corollary.papers import Level, PaperLoadError, paper, paper_slugs, paper_source
        from corollary.reproduce.display import STYLES
        from corollary.reproduce.recorded import recorded_results
        from corollary.reproduce.results import ResultFileError
        from corollary.reproduce.summary import count_verdicts, wide_enough

        slugs = paper_slugs()
        if not slugs:
            print("No paper is installed. Install a package such as corollary-entropy-dynamics.")
            return 0
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("paper", overflow="fold", ratio=3)
        for level in Level:
            table.add_column("paper scale" if level is Level.PAPER else level.value, overflow="fold", ratio=2)
        table.add_column("budget", no_wrap=True)
        status, problems = 0, []
        for slug in slugs:
            name = Text(slug, style="bold")
            try:
                listed = paper(slug)
                name.append(f"\n{listed.title} (arXiv:{listed.arxiv})", style="not bold dim")
                results = recorded_results(listed, paper_source(slug).results)
            except (ResultFileError, PaperLoadError) as error:
                status = 2
                table.add_row(name, Text("unreadable, see below", style="red"))
                problems.append(str(error))
                continue
            counts = [
                Text(", ").join(
                    Text(f"{count} {verdict}", style=STYLES[verdict])
                    for verdict, count in count_verdicts(result for result in results if result.level is level)
                )
                for level in Level
            ]
            budgets = dict.fromkeys(result.budget.value for result in results if result.findings)
            table.add_row(name, *counts, "/".join(budgets))
        wide_enough(Console()).print(table)
        for problem in problems:
            print(f"corollary: {problem}", file=sys.stderr)
        return status
