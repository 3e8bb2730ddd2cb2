"""`corollary list`: papers, claims and recorded verdicts at a glance."""

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

        from corollary.papers import PaperLoadError, paper, paper_slugs, paper_source
        from corollary.reproduce.display import STYLES
        from corollary.reproduce.recorded import recorded_results
        from corollary.reproduce.results import ResultFileError
        from corollary.reproduce.summary import count_verdicts, wide_enough

        slugs = paper_slugs()
        if not slugs:
            print("No paper is installed. Install a package such as corollary-entropy-dynamics.")
            return 0
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("paper", no_wrap=True, min_width=max(map(len, slugs)))
        table.add_column("title", overflow="fold", ratio=3)
        table.add_column("claims", justify="right", min_width=6)
        table.add_column("recorded verdicts", overflow="fold", ratio=3)
        table.add_column("budget", no_wrap=True)
        status = 0
        for slug in slugs:
            try:
                listed = paper(slug)
            except PaperLoadError as error:
                status = 2
                table.add_row(slug, "", "", Text(str(error), style="red"), "")
                continue
            row = [slug, Text(f"{listed.title} (arXiv:{listed.arxiv})"), str(len(listed.claims))]
            try:
                results = recorded_results(listed, paper_source(slug).results)
            except (ResultFileError, PaperLoadError) as error:
                status = 2
                table.add_row(*row, Text(str(error), style="red"), "")
                continue
            counts = [Text(f"{count} {verdict}", style=STYLES[verdict]) for verdict, count in count_verdicts(results)]
            budgets = dict.fromkeys(result.budget.value for result in results if result.findings)
            table.add_row(*row, Text(", ").join(counts), "/".join(budgets))
        wide_enough(Console()).print(table)
        return status
