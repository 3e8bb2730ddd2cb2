"""A model of two thousand parameters that reads and writes a few words, and questions it can learn to answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = ["<unk>", "<end>", "say", "0", "1", "2", "3", "4", "5", "####", "\\boxed", "{", "}"]


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>", unk_token="<unk>")


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with its tokenizer, as `transformers` saves them."""
    from transformers.utils import logging

    from corollary.models import SmallModel

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shape = SmallModel(hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=64)
    shape.build(len(WORDS), seed=0).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the file `questions.jsonl`: twenty questions whose answer is 1."""
    rows = [{"question": f"say {number % 6}", "answer": "1"} for number in range(20)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COROLLARY_DATA", raising=False)
    return tmp_path


@pytest.fixture
def words(model_folder: Path) -> Callable[..., list[str]]:
    """The words of a small run, with others in place of some or added: `words(steps="4", option="clip_high=0.3")`."""

    def make(**changes: str | None) -> list[str]:
        options = {
            "model": str(model_folder),
            "task": "jsonl:questions.jsonl",
            "grader": "exact",
            "prompt": "{question}",
            "max-completion-length": "1",
            "steps": "6",
            "prompts-per-step": "4",
            "group-size": "8",
            "mini-batches": "2",
            "learning-rate": "0.01",
            "checkpoint-every": "2",
            "eval-samples": "4",
            "out": "out",
        }
        options |= {name.replace("_", "-"): value for name, value in changes.items()}
        return [
            "train",
            "rlvr",
            *[word for name, value in options.items() if value is not None for word in (f"--{name}", value)],
        ]

    return make
