"""The column of hyper-parameters that the recorded runs used is typed by hand: it must be what the runs used."""

import re
from pathlib import Path

from corollary.models import SmallModel
from corollary.papers import Budget
from corollary.rl import make_algorithm
from corollary.tasks import make_task
from corollary_adora import AdoraConfig
from corollary_adora.experiments import CODE, PAPER, SEEDS, SIZES, main_runs

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
RUNS = {name: run.recipe for name, run in main_runs(Budget.FULL, 0).items()}
TRAIN = RUNS["grpo"].train
TASK = make_task("parity")


def row(start):
    """The cells of the one table row that starts so."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_batches_and_steps():
    assert {recipe.train for recipe in RUNS.values()} == {TRAIN}
    assert row("group size")[-1] == str(TRAIN.group_size)
    assert row("prompts a step, mini-batches")[-1] == f"{TRAIN.prompts_per_step}, {TRAIN.mini_batches}"
    assert row("steps")[-1] == str(TRAIN.steps) == str(SIZES[Budget.FULL].steps)
    assert float(row("learning rate")[-1]) == TRAIN.learning_rate


def test_the_recorded_runs_use_the_presets():
    code, paper = (make_algorithm("adora", **options) for options in (CODE, PAPER))
    assert paper.rule == AdoraConfig.llm_2026()
    assert code.rule == AdoraConfig(correct_threshold=0.5, max_length=16)
    assert row("weights")[-1] == "1, 0.1 and 2, 1"
    assert [(rule.w_tas, rule.w_tds) for rule in (code.rule, paper.rule)] == [(1, 0.1), (2, 1)]
    assert float(row("tau")[-1]) == paper.rule.tau
    assert row("length limit")[-1].startswith(f"{code.rule.max_length} for 1, 0.1")
    assert int(row("longest response")[-1]) == TASK.max_completion_length
    assert dict(RUNS["grpo"].options) == {"dual_clip": None}
    config = paper.config
    assert row("clip range, dual clip, aggregation")[-1] == f"{config.clip_low:g}, none, {config.aggregation}"
    assert config.clip_low == config.clip_high
    assert config.dual_clip is None


def test_presets():
    for name in ("llm_2025", "vl", "llm_2026"):
        (line,) = [line for line in README.splitlines() if line.startswith(f"| `{name}`: ")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rule = getattr(AdoraConfig, name)()
        assert cells[1] == f"{rule.w_tas:g}, {rule.w_tds:g}"
        assert cells[2] == {"length": "LA", "and": "LA and DA"}[rule.criteria]
        assert cells[3] == {"neg_inf": "LA holds", "pos_inf": "LA does not hold"}[rule.empty_failure]
        assert cells[4] == {"tds": "LA does not hold", "neutral": "LA holds"}[rule.no_success]
        assert cells[5].endswith(f"above {rule.correct_threshold:g}")


def test_model_seeds_and_held_out_prompts():
    parameters = sum(p.numel() for p in SmallModel().build(TASK.vocab_size, seed=0).parameters())
    assert set(re.findall(r"(\d+,\d+)[ -]param", README)) == {f"{parameters:,}"}
    seeds = SEEDS[Budget.FULL]
    assert f"seeds {seeds[0]} to {seeds[-1]}" in README
    assert {len(make_task(name).prompts("held_out")) for name in ("parity", "parity-long")} == {30}
    assert "rests on 30 prompts of 6 to 10 bits and 30 of 12" in README
