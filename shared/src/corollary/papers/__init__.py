"""Papers as objects: claims with gates and computed verdicts, and the discovery of installed papers."""

from corollary.papers.claims import Claim, Measurement, Paper, PlotInputs
from corollary.papers.discovery import PaperLoadError, PaperSource, paper, paper_slugs, paper_source, papers
from corollary.papers.verdicts import MIN_SEEDS, Budget, Finding, Gate, Level, Verdict, worst

__all__ = [
    "MIN_SEEDS",
    "Budget",
    "Claim",
    "Finding",
    "Gate",
    "Level",
    "Measurement",
    "Paper",
    "PaperLoadError",
    "PaperSource",
    "PlotInputs",
    "Verdict",
    "paper",
    "paper_slugs",
    "paper_source",
    "papers",
    "worst",
]
