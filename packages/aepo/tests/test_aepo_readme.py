"""What the README says of the runs is typed by hand: it must be what the runs used. Its code must run."""

import re
from pathlib import Path

import pytest

from corollary.models import SmallModel
from corollary.papers import Budget
from corollary.tasks import make_task
from corollary_aepo import AEPO, AEPOConfig
from corollary_aepo.experiments import (
    NETWORK_TARGETS,
    SEEDS,
    SHARE,
    SIZES,
    TABLE_TARGETS,
    network_runs,
    table_runs,
)

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FULL = SIZES[Budget.FULL]
TABLE = table_runs(Budget.FULL, 0)
NETWORK = network_runs(Budget.FULL, 0)


def row(start):
    """The cells of the table row that starts so."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_steps_and_step_sizes():
    table, network = TABLE["grpo"].recipe.train, NETWORK["grpo"].recipe.train
    assert row("steps")[2] == f"{table.steps} (tables), {network.steps} (transformer)"
    assert (table.learning_rate, table.weight_decay, network.learning_rate, network.weight_decay) == (
        0.05,
        0,
        9e-4,
        0.01,
    )
    assert row("AdamW")[2].startswith("0.05 and no decay (tables), 9e-4 and 0.01 (transformer)")
    assert row("prompts a step")[2] == f"{network.prompts_per_step}, {network.group_size}"
    assert row("mini-batches")[2] == str(network.mini_batches)
    assert row("top_p")[2] == f"{network.top_p:g}"


def test_targets_and_shares():
    def listed(targets):
        return ", ".join(f"{target:g}" for target in targets)

    assert row("target `H`")[2] == f"{listed(TABLE_TARGETS)} (tables), {listed(NETWORK_TARGETS)} (transformer)"
    assert row("target `H`")[1].startswith(f"{AEPOConfig().target:g};")
    assert row("`T_high`, `T_low`")[1] == f"{AEPOConfig().t_high:g}, {AEPOConfig().t_low:g}"
    assert SHARE == 0.25
    for runs in (TABLE, NETWORK):
        options = dict(runs["H=1"].recipe.options)
        assert options == {"target": 1.0, "select": "reward", "reinforce_fraction": SHARE}


def test_model_seeds_and_held_out_prompts():
    parameters = sum(p.numel() for p in SmallModel().build(14, seed=0).parameters())
    assert set(re.findall(r"(\d+,\d+)[ -]param", README)) == {f"{parameters:,}"}
    seeds = SEEDS[Budget.FULL]
    assert re.search(rf"verdicts use seeds {seeds[0]}\s+to {seeds[-1]}", README)
    assert f"rest on {len(make_task('digit-sum').prompts('held_out'))} prompts" in README


def test_every_metric_is_in_the_glossary():
    assert set(re.findall(r"^\| `(aepo/\w+)`", README, re.MULTILINE)) == set(AEPO.metrics)


def test_every_deviation_names_a_test_that_exists():
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    section = README.split("## Deviations")[1].split("## Limits")[0]
    named = re.findall(r"`(test_\w+)` \|$", section, re.MULTILINE)
    assert len(named) == len([line for line in section.splitlines() if line.startswith("| ")]) - 1
    assert all(f"def {name}(" in tests for name in named)


@pytest.mark.parametrize("code", re.findall(r"<!-- runs -->\n```python\n(.*?)```", README, re.DOTALL))
def test_the_code_runs(code):
    exec(compile(code, "README.md", "exec"), {})
