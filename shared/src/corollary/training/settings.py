"""What a user's own run is: everything that decides its numbers."""

from dataclasses import dataclass, field

from corollary.rl import Shortcuts, TrainConfig

MAY_GROW = ("steps", "checkpoint_every")
"""Settings that may differ when a run goes on."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A run of `corollary train rlvr`.

    Raises:
        ValueError: a number is out of its range.
    """

    algorithm: str
    """A name from `corollary.rl.algorithm_names`."""
    options: tuple[str, ...] = ()
    """Fields of its configuration as ``name=value``."""
    model: str
    """A folder, or an id on the model hub."""
    task: str
    """``gsm8k``, ``math``, ``math-500``, ``jsonl:PATH``, or an installed procedural task."""
    evaluation_task: str | None = None
    """What the evaluation asks, likewise; None for the held-out questions of the task."""
    question_field: str = "question"
    """Field of the questions in a file of the user's."""
    answer_field: str = "answer"
    """Field of the answers in it."""
    grader: str = "auto"
    """``number``, ``math``, ``exact``; ``auto`` takes the task's own, and for a file of the user's ``number`` if all
    its answers are numbers, else ``math``."""
    prompt: str | None = None
    """Template of the prompt, with one ``{question}``; None for the task's own."""
    chat: bool = True
    """Whether the tokenizer's chat template is used, if it has one."""
    stop: str | None = None
    """The token that ends a completion; None for the tokenizer's end-of-sequence token."""
    max_prompt_length: int = 512
    """Tokens; questions with longer prompts are left out, and counted."""
    max_completion_length: int = 512
    """Tokens; longer completions are cut off."""
    train: TrainConfig = field(default_factory=TrainConfig)
    rollout_batch: int | None = None
    """Completions that are sampled together; None for all of a step."""
    shortcuts: Shortcuts = field(default_factory=Shortcuts)
    """Less work for the same result but for rounding."""
    evaluation_prompts: int = 200
    """Held-out prompts of an evaluation: the first ones. 0 for no evaluation."""
    evaluation_every: int = 0
    """Steps between evaluations; 0 for one before and one after training."""
    evaluation_samples: int = 1
    """Completions of each."""
    evaluation_temperature: float = 1.0
    dtype: str = "float32"
    """Of the weights, the gradients and the optimiser's state."""
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("max_prompt_length", 1),
            ("max_completion_length", 1),
            ("evaluation_prompts", 0),
            ("evaluation_every", 0),
            ("evaluation_samples", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.rollout_batch is not None and self.rollout_batch < 1:
            raise ValueError(f"rollout_batch must be at least 1, got {self.rollout_batch}")
        if not 0 < self.evaluation_temperature < float("inf"):
            raise ValueError(
                f"evaluation_temperature must be finite and larger than 0, got {self.evaluation_temperature}"
            )
