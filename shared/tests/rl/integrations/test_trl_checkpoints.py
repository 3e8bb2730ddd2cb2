"""A resumed run is the run: policy, algorithm and log."""

import shutil

import pytest
import torch

pytest.importorskip("trl", reason='needs the extra "trl"')

from corollary.rl import AdaptiveEntropyBonus, AdaptiveEntropyBonusConfig, make_algorithm
from corollary.rl.integrations.trl import args_for
from corollary.rl.integrations.trl_checkpoints import load_state

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


def adaptive():
    return AdaptiveEntropyBonus(AdaptiveEntropyBonusConfig(target=5.0, step=0.01))


def run(trainer_of, options, *, resume=None, algorithm=None):
    algorithm = algorithm or adaptive()
    steps = {"save_strategy": "steps", "save_steps": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 1}
    trainer = trainer_of(args_for(algorithm, **{**options, **steps, "optim": "adamw_torch"}), algorithm)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_a_resumed_run_goes_on_to_the_same_numbers(trainer_of, options):
    whole = run(trainer_of, options)
    coefficient = whole.algorithm.coefficient
    shutil.rmtree(f"{options['output_dir']}/checkpoint-4")
    resumed = run(trainer_of, options, resume=f"{options['output_dir']}/checkpoint-2")
    assert resumed.algorithm.coefficient == coefficient == pytest.approx(0.02)
    weights = dict(whole.model.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in resumed.model.named_parameters())
    timed = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"}
    for ours, theirs in zip(resumed.state.log_history[:4], whole.state.log_history[:4], strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}


def test_a_checkpoint_of_another_algorithm_is_refused(trainer_of, options):
    run(trainer_of, {**options, "max_steps": 2})
    with pytest.raises(ValueError, match="was made with AdaptiveEntropyBonus"):
        run(trainer_of, options, resume=f"{options['output_dir']}/checkpoint-2", algorithm=make_algorithm("grpo"))


def test_a_checkpoint_without_the_state_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"algorithm_0\.pt"):
        load_state(tmp_path, 0, adaptive(), torch.Generator())
