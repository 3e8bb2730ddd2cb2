"""One meaning for the options that an algorithm's configuration and TRL's `GRPOConfig` share."""

from typing import TYPE_CHECKING, Any

from corollary.rl.algorithm import Algorithm, GRPOConfig
from corollary.rl.losses import TRL_AGGREGATIONS, Aggregation, aggregation_mode

if TYPE_CHECKING:
    import trl  # ty: ignore[import-not-found]

ADVANTAGE_EPS = 1e-4
"""What TRL adds to the standard deviation of the rewards; it is no option there."""

LOSS_TYPES: dict[Aggregation, str] = {
    "token-mean": "dapo",
    "seq-mean-token-mean": "grpo",
    "seq-mean-token-sum": "luspo",
    "seq-mean-token-sum-norm": "dr_grpo",
}
"""TRL's name of each aggregation."""

OFF: dict[str, tuple[Any, str]] = {
    "importance_sampling_level": ("token", "the loss of an algorithm has a ratio for each token"),
    "multi_objective_aggregation": ("sum_then_normalize", "an algorithm gets one reward for each completion"),
    "top_entropy_quantile": (1.0, 'use the algorithm "forking-tokens"'),
    "entropy_coef": (0.0, 'use the algorithm "entropy-bonus"'),
    "use_adaptive_entropy": (False, 'use the algorithm "entropy-bonus-adaptive"'),
    "off_policy_mask_threshold": (None, "no algorithm has this mask"),
    "use_liger_kernel": (False, "the loss is made by corollary's own kernels"),
    "cast_lm_head_to_fp32": (False, "the kernels take statistics in float32 whatever the head's dtype"),
}
"""Options of TRL that would do nothing here: the value that each must have, and what to know about it."""


def grpo_options(args: "trl.GRPOConfig") -> dict[str, Any]:
    """The fields of `corollary.rl.GRPOConfig` that say what ``args`` says: TRL's own GRPO.

    ``make_algorithm("grpo", **grpo_options(args))`` trains as `trl.GRPOTrainer` with ``args`` does, but for two things.
    TRL's ``dapo`` divides by the mean number of tokens of the generation batch's optimiser steps, and its ``bnpo`` by
    that of a micro-batch; ours is the step's own. They are the same for ``steps_per_generation ==
    gradient_accumulation_steps`` and for ``gradient_accumulation_steps == 1``, respectively.

    Raises:
        ValueError: ``args.loss_type`` is another loss than GRPO's.
    """
    return {
        "clip_low": args.epsilon,
        "clip_high": args.epsilon if args.epsilon_high is None else args.epsilon_high,
        "dual_clip": args.delta,
        "aggregation": aggregation_mode(args.loss_type),
        "advantage_scale": args.scale_rewards,
        "advantage_eps": ADVANTAGE_EPS,
    }


def args_for(algorithm: Algorithm, **options: Any) -> "trl.GRPOConfig":
    """TRL's arguments for ``algorithm``: its clip range, aggregation and scale under TRL's names, and ``options``.

    Args:
        algorithm: What `AlgorithmGRPOTrainer` will run.
        options: Other fields of `trl.GRPOConfig`.

    Raises:
        ImportError: TRL is not installed.
        ValueError: an option contradicts the algorithm or would be ignored: see `check_args`.
    """
    from corollary.rl.integrations.trl import GRPOConfig as Arguments

    config = algorithm.config
    ruled = {
        "epsilon": config.clip_low,
        "epsilon_high": config.clip_high,
        "delta": config.dual_clip,
        "loss_type": LOSS_TYPES[aggregation_mode(config.aggregation)],
        "scale_rewards": config.advantage_scale,
    }
    args = Arguments(**{**ruled, **options})
    check_args(args, algorithm)
    return args


def check_args(args: "trl.GRPOConfig", algorithm: Algorithm) -> None:
    """Refuse arguments of TRL that contradict the algorithm's configuration, or that would be ignored.

    Raises:
        ValueError: names each of them.
    """
    wrong = [*_contradictions(args, algorithm.config), *_ignored(args)]
    if args.steps_per_generation % args.gradient_accumulation_steps:
        wrong.append(
            f"steps_per_generation={args.steps_per_generation}, where a multiple of gradient_accumulation_steps="
            f"{args.gradient_accumulation_steps} is needed: an optimiser step takes rows of one generation batch"
        )
    if wrong:
        raise ValueError(
            f"TRL's arguments do not fit {type(algorithm).__name__}; args_for(algorithm, ...) makes some that do. "
            "Got " + "; ".join(wrong)
        )


def _contradictions(args: "trl.GRPOConfig", config: GRPOConfig) -> list[str]:
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    pairs = [
        (f"epsilon={args.epsilon}", args.epsilon == config.clip_low, f"clip_low={config.clip_low}"),
        (f"epsilon_high={args.epsilon_high}", high == config.clip_high, f"clip_high={config.clip_high}"),
        (f"delta={args.delta}", args.delta == config.dual_clip, f"dual_clip={config.dual_clip}"),
        (
            f"loss_type={args.loss_type!r}",
            TRL_AGGREGATIONS.get(args.loss_type) == aggregation_mode(config.aggregation),
            f"aggregation={config.aggregation!r}",
        ),
        (
            f"scale_rewards={args.scale_rewards!r}",
            args.scale_rewards == config.advantage_scale,
            f"advantage_scale={config.advantage_scale!r}",
        ),
    ]
    return [f"{theirs}, where the algorithm has {ours}" for theirs, same, ours in pairs if not same]


def _ignored(args: "trl.GRPOConfig") -> list[str]:
    found = [
        f"{name}={getattr(args, name)!r}, which must be {value!r}: {reason}"
        for name, (value, reason) in OFF.items()
        if getattr(args, name) != value
    ]
    if args.use_vllm and args.vllm_importance_sampling_correction:
        found.append(
            "vllm_importance_sampling_correction=True, which must be False: no algorithm's loss has these weights, and "
            "on a second sample at another temperature they would undo the method"
        )
    return found


def check_trainer(trainer: Any) -> None:
    """Refuse what a constructed `trl.GRPOTrainer` has that `AlgorithmGRPOTrainer` cannot work with.

    Raises:
        ValueError: names each of it.
    """
    adapter = getattr(trainer.model, "active_peft_config", None)
    plugin = trainer.args.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    local = trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation
    refused = {
        "tools or an environment_factory: completions must be the policy's own tokens": bool(trainer.tools)
        or trainer.environment_factories is not None,
        "a processor of images": trainer._is_vlm,
        "an auxiliary loss of the model, which would be left out: set router_aux_loss_coef=0": trainer.aux_loss_enabled,
        "prompt tuning": bool(getattr(adapter, "is_prompt_learning", False)),
        "FSDP or DeepSpeed ZeRO-3": trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3),
        f"{local} completions of a process and generation batch, where whole groups of {trainer.num_generations} are "
        "needed": trainer.accelerator.num_processes > 1 and local % trainer.num_generations != 0,
    }
    if any(refused.values()):
        got = "; ".join(name for name, found in refused.items() if found)
        raise ValueError(f"AlgorithmGRPOTrainer does not support {got}")
