"""The README's table of metrics is the glossary of the trainer."""

import re
from pathlib import Path

from corollary.rl import METRICS

README = Path(__file__).resolve().parents[2] / "README.md"


def metrics_in_the_table() -> list[str]:
    """What stands in backticks in the first column of the table of metrics."""
    _, _, section = README.read_text(encoding="utf-8").partition("\n## Metrics of the reference trainer\n")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    assert rows[0].split("|")[1].strip() == "metric"
    return [name for row in rows[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_every_metric_of_the_trainer_is_in_the_readme_once_and_nothing_else_is():
    assert sorted(metrics_in_the_table()) == sorted(METRICS)
