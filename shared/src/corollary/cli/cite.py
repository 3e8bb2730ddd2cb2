"""`corollary cite`: BibTeX of a paper and of its package."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from corollary.cli.errors import as_usage_error


@dataclass(frozen=True)
class Cite:
    """Print BibTeX of a paper and of the package that implements it."""

    slug: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SLUG")]
    """The paper, as `corollary list` names it."""

    def run(self) -> int:
        """Print both entries."""
        from corollary.papers import PaperLoadError, paper, paper_source

        with as_usage_error(ValueError, PaperLoadError):
            cited, source = paper(self.slug), paper_source(self.slug)
        print(cited.bibtex.strip())
        print()
        print(
            f"@software{{corollary_{self.slug.replace('-', '_')},\n"
            f"  title   = {{{source.distribution}: an implementation of ``{cited.title}''}},\n"
            f"  author  = {{{{The Corollary contributors}}}},\n"
            f"  version = {{{source.version}}},\n"
            f"  note    = {{Part of Corollary, research papers you can install, run and check}}\n"
            f"}}"
        )
        return 0
