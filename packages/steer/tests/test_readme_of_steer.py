"""The column of hyper-parameters that the recorded runs used is typed by hand: it must be what the runs used."""

import re
from pathlib import Path

from corollary.models import SmallModel
from corollary.papers import Budget
from corollary.rl import make_algorithm
from corollary.tasks import make_task
from corollary_steer import SteerConfig
from corollary_steer.experiments import (
    BASELINES,
    DOSES,
    EXTREME,
    LINEAR,
    PAPER_DOSE,
    SEEDS,
    SIZES,
    TABLE_SEEDS,
    baseline_runs,
    dose_runs,
    extreme_runs,
    method_runs,
)

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FULL = SIZES[Budget.FULL]
USUAL = method_runs(Budget.FULL, 0)["steer"].recipe.train
EXTREME_TRAIN = extreme_runs(Budget.FULL, 0)["steer"].recipe.train
OPO = baseline_runs(Budget.FULL, 0)["opo + steer"].recipe.train


def row(start):
    """The cells of the table row that starts so."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_steps_and_batches():
    assert row("steps")[2] == (
        f"{USUAL.steps}, no choice of checkpoints; {EXTREME_TRAIN.steps} (C8); {OPO.steps} (OPO)"
    )
    assert row("prompts a step")[2] == f"{USUAL.prompts_per_step}, {USUAL.group_size}"
    expected = f"{USUAL.mini_batches}; {EXTREME_TRAIN.mini_batches} (C8); 1 of {OPO.prompts_per_step} prompts (OPO)"
    assert row("mini-batches |")[2] == expected


def test_opo_is_strictly_on_policy_with_as_many_samples_and_optimiser_steps():
    assert (OPO.mini_batches, OPO.epochs) == (1, 1)
    assert OPO.steps * OPO.prompts_per_step == USUAL.steps * USUAL.prompts_per_step
    assert OPO.steps == USUAL.steps * USUAL.mini_batches


def test_step_sizes():
    assert (USUAL.learning_rate, EXTREME_TRAIN.learning_rate, OPO.learning_rate) == (4e-4, 2e-4, 4e-4)
    assert row("AdamW")[2].startswith("4e-4; 2e-4 (C8);")


def test_clips():
    c = SteerConfig()
    assert row("clip range")[1] == f"{c.clip_low:g} and {c.clip_high:g}, {c.dual_clip:g}, {c.aggregation}"
    assert row("extreme clip")[1] == f"{EXTREME['clip_low']:g} and {EXTREME['clip_high']:g}"


def test_doses():
    assert SteerConfig().lambda_min == PAPER_DOSE
    assert row("`lambda_min` | 0.7 (paper")[2] == f"{PAPER_DOSE:g} (C7: {', '.join(f'{dose:g}' for dose in DOSES)})"
    assert row("linear mapping | 0.8 to")[1].startswith(f"{LINEAR['lambda_min']:g} to {LINEAR['weight_max']:g} ")
    assert {run.recipe.task for run in dose_runs(Budget.FULL, 0).values()} == {"digit-sum"}


def test_baselines_are_the_cores_with_their_defaults():
    runs = method_runs(Budget.FULL, 0)
    for name in BASELINES:
        assert runs[name].recipe.algorithm == name
        assert runs[name].recipe.options == ()
        assert type(make_algorithm(name)).__module__.startswith("corollary.rl")


def test_model_seeds_and_held_out_prompts():
    parameters = sum(p.numel() for p in SmallModel().build(14, seed=0).parameters())
    assert set(re.findall(r"(\d+,\d+)[ -]param", README)) == {f"{parameters:,}"}
    seeds, tables = SEEDS[Budget.FULL], TABLE_SEEDS[Budget.FULL]
    assert f"seeds {seeds[0]} to {seeds[-1]} ({tables[0]} to {tables[-1]} without training)" in README
    assert f"rests on {len(make_task('digit-sum').prompts('held_out'))} prompts" in README
