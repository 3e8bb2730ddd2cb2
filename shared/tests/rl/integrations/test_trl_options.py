"""What TRL's arguments and an algorithm's configuration must agree on."""

from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason='needs the extra "trl"')

from trl import GRPOConfig

from corollary.rl import GRPO, DrGRPO, algorithm_names, make_algorithm
from corollary.rl import GRPOConfig as Options
from corollary.rl.integrations.trl import AlgorithmGRPOTrainer, args_for, check_args, grpo_options
from corollary.rl.integrations.trl_options import check_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
CPU = {"output_dir": "out", "use_cpu": True, "bf16": False, "report_to": "none"}


@pytest.mark.parametrize("name", algorithm_names())
def test_arguments_can_be_made_for_every_algorithm(name):
    algorithm = make_algorithm(name)
    args = args_for(algorithm, **CPU)
    check_args(args, algorithm)
    assert args.epsilon == algorithm.config.clip_low


def test_the_options_of_trl_make_an_algorithm_that_fits_them():
    args = GRPOConfig(**CPU, epsilon=0.1, epsilon_high=0.3, delta=2.0, loss_type="dr_grpo", scale_rewards="none")
    algorithm = GRPO(Options(**grpo_options(args)))
    check_args(args, algorithm)
    assert (algorithm.config.clip_high, algorithm.config.dual_clip, algorithm.config.advantage_eps) == (0.3, 2.0, 1e-4)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epsilon": 0.3}, "clip_low=0.2"),
        ({"epsilon_high": 0.3}, "clip_high=0.2"),
        ({"delta": None}, "dual_clip=3.0"),
        ({"loss_type": "grpo"}, "aggregation='token-mean'"),
        ({"loss_type": "sapo"}, "aggregation='token-mean'"),
        ({"scale_rewards": "batch"}, "advantage_scale='group'"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level='sequence'"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "multi_objective_aggregation"),
        ({"top_entropy_quantile": 0.2}, "forking-tokens"),
        ({"entropy_coef": 0.1}, "entropy-bonus"),
        ({"use_adaptive_entropy": True}, "entropy-bonus-adaptive"),
        ({"off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold"),
        ({"use_vllm": True}, "vllm_importance_sampling_correction"),
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "multiple of gradient_accumulation_steps=2"),
    ],
)
def test_what_contradicts_or_would_be_ignored_is_refused(options, named):
    with pytest.raises(ValueError, match="do not fit GRPO") as refused:
        args_for(GRPO(), **CPU, **options)
    assert named in str(refused.value)


def test_the_plain_arguments_of_trl_do_not_fit_another_method():
    with pytest.raises(ValueError, match="loss_type='dapo', where the algorithm has aggregation='seq-mean"):
        check_args(GRPOConfig(**CPU), DrGRPO())


def test_missing_arguments_are_refused():
    with pytest.raises(ValueError, match="args must be given"):
        AlgorithmGRPOTrainer("model", algorithm=GRPO())


def test_a_trainer_of_more_than_plain_completions_is_refused():
    args = args_for(GRPO(), **CPU)
    plain = {
        "model": None,
        "args": args,
        "is_deepspeed_enabled": False,
        "is_fsdp_enabled": False,
        "tools": [],
        "environment_factories": None,
        "_is_vlm": False,
        "aux_loss_enabled": False,
        "num_generations": 8,
        "accelerator": SimpleNamespace(num_processes=1),
    }
    check_trainer(SimpleNamespace(**plain))
    several = {"accelerator": SimpleNamespace(num_processes=2), "num_generations": 7}
    for change, named in [
        ({"tools": [print]}, "tools"),
        ({"_is_vlm": True}, "images"),
        ({"aux_loss_enabled": True}, "router_aux_loss_coef"),
        ({"is_fsdp_enabled": True}, "FSDP"),
        ({"model": SimpleNamespace(active_peft_config=SimpleNamespace(is_prompt_learning=True))}, "prompt tuning"),
        (several, "whole groups of 7"),
    ]:
        with pytest.raises(ValueError, match=named):
            check_trainer(SimpleNamespace(**{**plain, **change}))
