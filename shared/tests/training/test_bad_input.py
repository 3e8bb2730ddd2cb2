"""What `corollary train rlvr` refuses: one line, status 2, before anything is trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from corollary.cli import main
from corollary.rl import Trainer

Words = Callable[..., list[str]]


@pytest.fixture
def refused(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[str]], str]:
    """Runs a command that must be refused, and returns its complaint."""

    def trained(*_: object) -> None:
        raise AssertionError("something was trained")

    def run(words: list[str]) -> str:
        monkeypatch.setattr(Trainer, "step", trained)
        capsys.readouterr()
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("corollary: ")
        assert captured.err.count("\n") == 1
        assert captured.out == ""
        return captured.err

    return run


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"algorithm": "gpro"}, "unknown algorithm 'gpro'; did you mean 'grpo'?"),
        ({"option": "clip_hihg=0.3"}, "unknown option of grpo 'clip_hihg'; did you mean 'clip_high'"),
        ({"option": "clip_high"}, "an option must be given as NAME=VALUE, got 'clip_high'"),
        ({"option": "clip_high=high"}, "option clip_high of grpo must be a number, got 'high'"),
        ({"option": "clip_high=-1"}, "grpo: clip_high must be"),
        ({"option": "advantage_scale=grop"}, "must be 'group' or 'batch' or 'none', got 'grop'"),
        ({"task": "gms8k"}, "unknown task 'gms8k'; did you mean 'gsm8k'"),
        ({"task": "jsonl:none.jsonl"}, "cannot read none.jsonl: No such file or directory"),
        ({"grader": "mats"}, "unknown grader 'mats'; did you mean 'math'?"),
        ({"prompt": "no place"}, "a prompt template must have one {question}, got 0"),
        ({"stop": "<stop>"}, "the tokenizer has no token '<stop>' to stop at"),
        ({"max-prompt-length": "1"}, "all 18 prompts of jsonl:questions.jsonl are longer than 1 tokens"),
        ({"max-completion-length": "80"}, "do not fit into the model's context of 64"),
        ({"group-size": "0"}, "group_size must be at least 1, got 0"),
        ({"mini-batches": "99"}, "mini_batches must be at most the batch's 32 completions, got 99"),
        ({"eval-prompts": "-1"}, "evaluation_prompts must be at least 0, got -1"),
        ({"rollout-batch": "0"}, "rollout_batch must be at least 1, got 0"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"device": "gpu"}, "device gpu cannot be used"),
        ({"tracker": "wandbb"}, "unknown tracker 'wandbb'; did you mean 'wandb'?"),
        ({"eval-task": "digit-sum"}, "a task of questions cannot be evaluated on digit-sum"),
        ({"question-field": "prompt"}, "questions.jsonl:1: has no field 'prompt'; it has: 'question', 'answer'"),
        ({"model": "./nowhere"}, "there is no model folder ./nowhere"),
        ({"task": "digit-sum", "model-vocab": "small"}, "the task digit-sum has 14 tokens, the model only 13"),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_an_unusable_setting(refused, work: Path, words: Words, changes: dict[str, str], complaint: str) -> None:
    changes.pop("model-vocab", None)
    assert complaint in refused(words(**changes))
    assert not (work / "out").exists() or not list((work / "out").iterdir())


def test_another_kind_of_training(refused, words: Words) -> None:
    assert "unknown kind of training 'rlvf'; did you mean 'rlvr'?" in refused(["train", "rlvf", *words()[2:]])


def test_a_missing_model_or_task(refused, words: Words) -> None:
    assert "--model" in refused(words(model=None))
    assert "--task" in refused(words(task=None))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "questions.jsonl holds no question"),
        ('{"question": "say 1", "answer": "1"}\n{"question": "say', "questions.jsonl:2: no JSON"),
        ('{"question": "say 1", "answer": "1"}\n\n{"question": "say 1"}', "questions.jsonl:3: has no field 'answer'"),
        ('{"question": "say 1", "answer": ["1"]}', "questions.jsonl:1: answer must be a string or a number, got list"),
        ('{"question": "say 1", "answer": " "}', "questions.jsonl:1: answer is empty"),
        ("[1]", "questions.jsonl:1: must be a JSON object, got list"),
        (
            '{"id": 7, "question": "say 1", "answer": 1}\n{"id": 7, "question": "say 1", "answer": 1}',
            "questions.jsonl:2: id 7 stands in line 1 already",
        ),
        ('{"question": "say 1", "answer": "1"}', "has 1 questions, too few to hold every 10th out"),
    ],
)
def test_a_file_of_questions_that_is_broken(refused, work: Path, words: Words, text: str, complaint: str) -> None:
    (work / "questions.jsonl").write_text(text)
    assert complaint in refused(words())


def test_an_answer_that_is_no_number_names_its_line(refused, work: Path, words: Words) -> None:
    (work / "questions.jsonl").write_text('{"question": "say 1", "answer": "1"}\n' * 11)
    with (work / "questions.jsonl").open("a") as file:
        file.write('{"question": "say 1", "answer": "one"}\n')
    complaint = refused(words(grader="number"))
    assert "questions.jsonl:12: the answer must be a number, got 'one' (grader number)" in complaint


def test_bytes_that_are_no_utf_8(refused, work: Path, words: Words) -> None:
    (work / "questions.jsonl").write_bytes(b'{"question": "say \xff", "answer": "1"}')
    assert "questions.jsonl:1: no UTF-8" in refused(words())


@pytest.mark.parametrize(
    ("removed", "complaint"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no weights"),
        ("tokenizer*", "has no tokenizer"),
    ],
)
def test_a_model_folder_that_lacks_a_part(
    refused, work: Path, words: Words, model_folder: Path, removed: str, complaint: str
) -> None:
    shutil.copytree(model_folder, work / "part")
    for path in (work / "part").glob(removed):
        path.unlink()
    assert complaint in refused(words(model="part"))


def test_weights_of_another_model(refused, work: Path, words: Words, model_folder: Path) -> None:
    shutil.copytree(model_folder, work / "part")
    config = json.loads((work / "part/config.json").read_text())
    (work / "part/config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    assert "the model part lacks 9 of its weights" in refused(words(model="part"))
    (work / "part/model.safetensors").write_bytes(b"nothing")
    assert "cannot load the model part: " in refused(words(model="part"))


def test_a_tokenizer_of_another_model(refused, work: Path, words: Words, model_folder: Path, tokenizer) -> None:
    shutil.copytree(model_folder, work / "part")
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(work / "part")
    assert "the tokenizer of part has 14 tokens, its model only 13" in refused(words(model="part"))


def test_a_folder_that_is_a_file(refused, work: Path, words: Words) -> None:
    (work / "out").touch()
    assert "cannot write to the folder out" in refused(words())
    assert "cannot write to the folder out/inner" in refused(words(out="out/inner"))


def test_a_metrics_file_that_is_a_folder(refused, work: Path, words: Words) -> None:
    (work / "out/metrics.jsonl").mkdir(parents=True)
    assert "out/metrics.jsonl is a folder" in refused(words())


def test_a_folder_with_another_run(refused, work: Path, words: Words, model_folder: Path) -> None:
    assert main(words(steps="2")) == 0
    assert "out holds another run (learning_rate 0.01 there, 0.02 here)" in refused(words(learning_rate="0.02"))
    assert "out holds another run (seed 0 there, 1 here)" in refused(words(seed="1"))
    questions = (work / "questions.jsonl").read_text()
    (work / "questions.jsonl").write_text(questions.replace("say 3", "say 4"))
    assert "out holds another run (questions " in refused(words())
    (work / "questions.jsonl").write_text(questions)
    (work / "out/checkpoint.pt").write_bytes(b"nothing")
    assert "out/checkpoint.pt is not a readable checkpoint" in refused(words())
    (work / "out/run.json").unlink()
    assert "out holds a run without run.json" in refused(words())


def test_a_folder_in_which_another_process_trains(refused, work: Path, words: Words) -> None:
    from filelock import FileLock

    (work / "out").mkdir()
    with FileLock(work / "out/.lock"):
        assert main(words(steps="1")) == 2
    assert not (work / "out/metrics.jsonl").exists()
