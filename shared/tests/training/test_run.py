"""`corollary train rlvr` from start to end, in this process."""

import dataclasses
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from corollary.cli import main
from corollary.cli.train import Train
from corollary.rl import Shortcuts, TrainConfig
from corollary.training import Settings

Words = Callable[..., list[str]]


def test_a_run_learns_and_leaves_a_model_that_transformers_loads(
    work: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main([*words(steps="20", learning_rate="0.03", checkpoint_every="20"), "--csv"]) == 0
    out = capsys.readouterr().out
    assert "training: 18 prompts of jsonl:questions.jsonl, grader exact" in out
    assert "step 0: pass@1 " in out
    assert "step 20: pass@1 " in out
    before, after = [json.loads(line) for line in (work / "out/evaluations.jsonl").read_text().splitlines()]
    assert (before["step"], after["step"], after["prompts"], after["samples"]) == (0, 20, 2, 4)
    metrics = pd.read_json(work / "out/metrics.jsonl", lines=True)
    assert metrics["reward/mean"][0] < 0.3
    assert metrics["reward/mean"].iloc[-1] > 0.9

    model = AutoModelForCausalLM.from_pretrained(work / "out/model")
    tokenizer = AutoTokenizer.from_pretrained(work / "out/model")
    ids = tokenizer("say 4", return_tensors="pt").input_ids
    assert tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()) == "1"
    state = torch.load(work / "out/checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    table = pd.read_csv(work / "out/metrics.csv")
    pd.testing.assert_frame_equal(table.drop(columns="step"), metrics, check_dtype=False)
    assert list(table["step"]) == list(range(1, 21))
    assert json.loads((work / "out/result.json").read_text())["pass_at_1"] == after["pass_at_1"]


def test_a_complete_run_is_not_trained_again_and_goes_on_to_more_steps(
    work: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(steps="2")) == 0
    kept = {path: path.read_bytes() for path in (work / "out").rglob("*") if path.is_file()}
    assert main(words(steps="2")) == 0
    assert "out holds this run, complete" in capsys.readouterr().out
    assert kept == {path: path.read_bytes() for path in (work / "out").rglob("*") if path.is_file()}

    assert main(words(steps="5", checkpoint_every="1")) == 0
    assert "going on after step 2" in capsys.readouterr().out
    assert main(words(steps="5", out="at-once")) == 0
    assert (work / "out/metrics.jsonl").read_bytes() == (work / "at-once/metrics.jsonl").read_bytes()
    assert main(words(steps="4")) == 2
    assert "out is at step 5 already, got steps 4" in capsys.readouterr().err


def test_evaluations_change_nothing_in_training(work: Path, words: Words) -> None:
    assert main(words(eval_every="1")) == 0
    assert main(words(eval_prompts="0", out="none")) == 0
    assert (work / "out/metrics.jsonl").read_bytes() == (work / "none/metrics.jsonl").read_bytes()
    steps = [json.loads(line)["step"] for line in (work / "out/evaluations.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4, 5, 6]
    assert not (work / "none/evaluations.jsonl").exists()


def test_a_dry_run_writes_no_file(work: Path, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words(), "--dry-run"]) == 0
    assert "Everything is there; nothing was trained." in capsys.readouterr().out
    assert not [path for path in (work / "out").rglob("*") if path.is_file()]


def test_options_reach_the_algorithm_and_the_batch_of_sampling_is_part_of_the_run(
    work: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(algorithm="rloo", rollout_batch="8", steps="1"), "--option", "clip-high=0.3"]) == 0
    identity = torch.load(work / "out/checkpoint.pt", weights_only=True)["identity"]
    assert "clip_high=0.3" in identity["algorithm"]
    assert identity["algorithm"].startswith("RLOO")
    assert identity["rollout_batch"] == "8"
    assert main([*words(algorithm="rloo", steps="1"), "--option", "clip-high=0.3"]) == 2
    assert "out holds another run (rollout_batch 8 there, None here)" in capsys.readouterr().err


def test_shortcuts_reach_the_trainer_and_are_part_of_the_run(
    work: Path, words: Words, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from corollary.rl import trainer

    asked = []
    own = trainer.sample_completions
    monkeypatch.setattr(
        trainer, "sample_completions", lambda *a, **options: asked.append(options) or own(*a, **options)
    )
    assert main([*words(steps="2"), "--share-prompts", "--sampler-stats"]) == 0
    assert asked[0]["share_prompts"]
    assert "log_prob" in asked[0]["stats"]
    assert not asked[0]["compiled"]
    assert main([*words(steps="2"), "--share-prompts"]) == 2
    assert "holds another run (sampler_stats True there, False here)" in capsys.readouterr().err

    # A folder from before there were shortcuts holds a run without them.
    assert main(words(steps="2", out="old")) == 0
    saved = json.loads((work / "old/run.json").read_text())
    for name in ("share_prompts", "sampler_stats", "compiled"):
        del saved["settings"][name]
    (work / "old/run.json").write_text(json.dumps(saved))
    assert main(words(steps="3", out="old")) == 0


def test_an_installed_procedural_task_needs_no_tokenizer(work: Path, words: Words) -> None:
    from corollary.models import SmallModel

    SmallModel(hidden_size=16, layers=1, heads=2, intermediate_size=32).build(14, seed=0).save_pretrained("digits")
    options = {"model": "digits", "task": "digit-sum", "grader": None, "prompt": None, "steps": "1"}
    assert main(words(**options)) == 0
    assert sorted(path.name for path in (work / "out/model").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]


def test_long_prompts_are_left_out_and_counted(work: Path, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": "say 1" + " 2" * (number == 3), "answer": "1"} for number in range(10)]
    (work / "questions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert main([*words(max_prompt_length="2"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "training: 8 prompts of jsonl:questions.jsonl, grader exact; 1 left out, longer than 2 tokens" in out


def test_weights_that_are_not_finite_end_with_one_line_and_status_1(
    work: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(learning_rate="1e30", max_grad_norm="1e9")) == 1
    error = capsys.readouterr().err
    assert error.startswith("corollary: step ")
    assert "training stopped" in error
    assert error.count("\n") == 1


def test_bfloat16_weights_stay_bfloat16(work: Path, words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(dtype="bfloat16", steps="1")) == 0
    assert "bfloat16 weights drop updates" in capsys.readouterr().out
    state = torch.load(work / "out/checkpoint.pt", weights_only=True)["model"]
    assert {value.dtype for value in state.values()} == {torch.bfloat16}


def test_the_command_has_every_option_of_training_with_its_default() -> None:
    ours = {field.name: field.default for field in dataclasses.fields(Train)}
    for field in dataclasses.fields(TrainConfig):
        assert ours[field.name] == field.default, field.name
    for field in dataclasses.fields(Shortcuts):
        assert ours[field.name] is field.default is False, field.name
    settings = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name in ("max_prompt_length", "max_completion_length", "grader", "dtype", "device", "seed", "stop", "chat"):
        assert ours[name] == settings[name], name


class Onlooker:
    """Stands in for the module `wandb`."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.started: list[dict[str, object]] = []
        self.finished = 0

    def init(self, **options: object) -> "Onlooker":
        self.started.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_is_shown_what_the_file_holds_and_keeps_its_run(
    work: Path, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Onlooker()
    module = types.ModuleType("wandb")
    module.init = seen.init  # ty: ignore[unresolved-attribute]
    monkeypatch.setitem(sys.modules, "wandb", module)
    assert main(words(steps="2", tracker="wandb")) == 0
    rows = [json.loads(line) for line in (work / "out/metrics.jsonl").read_text().splitlines()]
    assert [(step, values) for step, values in seen.logged if "reward/mean" in values] == list(enumerate(rows, 1))
    assert [step for step, values in seen.logged if "evaluation/pass_at_1" in values] == [0, 2]
    assert main(words(steps="3", tracker="wandb")) == 0
    assert seen.started[0]["id"] == seen.started[1]["id"]
    assert seen.finished == 2


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_names_its_extra(
    work: Path, words: Words, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(words(tracker=name)) == 2
    assert f'pip install "corollary[{name}]"' in capsys.readouterr().err
    assert not (work / "out/metrics.jsonl").exists()


def test_tensorboard_gets_event_files(work: Path, words: Words) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(words(steps="2", tracker="tensorboard")) == 0
    events = EventAccumulator(str(work / "out/tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (work / "out/metrics.jsonl").read_text().splitlines()]
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [
        (step, pytest.approx(row["reward/mean"])) for step, row in enumerate(rows, 1)
    ]
