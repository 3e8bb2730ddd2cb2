"""The column of hyper-parameters that the recorded runs used is typed by hand: it must be what the runs used."""

import re
from pathlib import Path

from corollary.models import SmallModel
from corollary.papers import Budget
from corollary.tasks import make_task
from corollary_entropy_dynamics import ClipBConfig, ClipVConfig
from corollary_entropy_dynamics.experiments import (
    CLIP_B_DOSES,
    CLIP_V,
    SEEDS,
    SIZES,
    masking_runs,
    method_runs,
    on_policy_runs,
)

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FULL = SIZES[Budget.FULL]


def row(start):
    """The cells of the table row that starts so."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def recipe(runs, name):
    return runs(Budget.FULL, 0)[name].recipe


def test_steps():
    assert FULL.on_policy_steps == recipe(on_policy_runs, "grpo").train.steps
    expected = f"{FULL.on_policy_steps} (C5, C7), {FULL.masking_steps} (C6), {FULL.training_steps} (C8 to C10)"
    assert row("steps")[2] == expected


def test_step_sizes():
    rates = [recipe(on_policy_runs, "grpo").train, recipe(masking_runs, "A>0, D>0").train]
    assert {rate.learning_rate for rate in rates} == {6e-4}
    assert recipe(method_runs, "grpo").train.learning_rate == 1e-4
    assert row("AdamW")[2].startswith("6e-4 (C5 to C7), 1e-4 (C8 to C10)")


def test_batches():
    train = recipe(method_runs, "grpo").train
    assert row("prompts a step")[2] == f"{train.prompts_per_step}, {train.group_size}"
    assert row("mini-batches |")[2].startswith(f"{train.mini_batches},")


def test_doses():
    assert row("Clip_B `mu`")[1].startswith(f"{ClipBConfig().mu:g} ")
    *others, chosen = (f"{dose:g}" for dose in CLIP_B_DOSES)
    assert row("Clip_B `mu`")[2] == f"{chosen} (sweep {', '.join([*others, chosen])})"
    assert row("Clip_V `mu`")[1].startswith(f"{ClipVConfig().mu:g}, 1e-4 ")
    assert ClipVConfig().max_fraction == 1e-4
    assert row("Clip_V `mu`")[2] == f"{CLIP_V['mu']:g}, {CLIP_V['max_fraction']:g}"


def test_model_seeds_and_held_out_prompts():
    parameters = sum(p.numel() for p in SmallModel().build(14, seed=0).parameters())
    assert set(re.findall(r"(\d+,\d+)[ -]param", README)) == {f"{parameters:,}"}
    seeds = SEEDS[Budget.FULL]
    assert f"seeds {seeds[0]} to {seeds[-1]}" in README
    held_out = len(make_task("digit-sum-running").prompts("held_out"))
    assert f"rests on {held_out} prompts" in README
