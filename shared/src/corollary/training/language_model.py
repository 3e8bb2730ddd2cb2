"""A causal language model and its tokenizer, from a folder or the model hub, refused where a part is missing."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer_config.json")


@dataclass(frozen=True)
class LanguageModel:
    """What is trained."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase | None"
    """None where none was asked for."""
    fingerprint: str
    """Tells one version of a model from another: a hub revision, or names and sizes of a folder's weights."""


def load_language_model(
    name: str, *, dtype: torch.dtype, device: torch.device, tokenizer: bool = True
) -> LanguageModel:
    """Load a model that `transformers` knows.

    Args:
        name: A folder, or an id on the model hub, such as ``Qwen/Qwen2.5-0.5B``.
        dtype: Of the weights, whatever the files hold.
        device: Where it goes.
        tokenizer: Whether its tokenizer is needed too.

    Raises:
        ImportError: `transformers` is not installed.
        ValueError: there is no such model, it lacks its configuration, weights or tokenizer, or it cannot be loaded.
    """
    try:
        import transformers
    except ImportError:
        raise ImportError('training needs transformers: pip install "corollary[rl]"') from None
    folder = _folder(name)
    if folder is not None:
        _check_folder(folder, tokenizer)
    # Its bar for the loading of weights would stand between our lines.
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = str(folder) if folder is not None else name
    try:
        words = transformers.AutoTokenizer.from_pretrained(source) if tokenizer else None
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True)
        model, info = loaded
    except ImportError:
        raise
    except Exception as error:  # of many kinds: files, network, JSON, configuration, shapes
        raise ValueError(f"cannot load the model {name}: {_first_sentence(error)}") from error
    if missing := sorted(info["missing_keys"]):
        # transformers would go on with random numbers in their place.
        raise ValueError(f"the model {name} lacks {len(missing)} of its weights, the first is {missing[0]}")
    if words is not None and len(words) > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer of {name} has {len(words)} tokens, its model only {model.config.vocab_size}: they do not "
            "belong together"
        )
    return LanguageModel(model.to(device), words, _fingerprint(folder, model))


def check_positions(model: "PreTrainedModel", longest: int) -> None:
    """See that prompt and completion fit into the model's context.

    Raises:
        ValueError: they do not.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if isinstance(context, int) and longest > context:
        raise ValueError(
            f"prompts and completions of up to {longest} tokens together do not fit into the model's context of "
            f"{context}; lower --max-prompt-length or --max-completion-length"
        )


def _folder(name: str) -> Path | None:
    """The folder that a name means; None if it is an id of the hub (``owner/name`` or ``name``)."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.startswith((".", "~", "/")) or name.count("/") > 1 or (os.sep != "/" and os.sep in name):
        raise ValueError(f"there is no model folder {name}")
    return None


def _check_folder(folder: Path, tokenizer: bool) -> None:
    if not folder.is_dir():
        raise ValueError(f"the model must be a folder or an id on the model hub, got the file {folder}")
    if not (folder / "config.json").is_file():
        raise ValueError(f"the model folder {folder} has no config.json")
    if not any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        raise ValueError(f"the model folder {folder} has no weights ({' or '.join(WEIGHTS)})")
    if tokenizer and not any((folder / name).is_file() for name in TOKENIZERS):
        raise ValueError(f"the model folder {folder} has no tokenizer (such as {TOKENIZERS[0]})")


def _fingerprint(folder: Path | None, model: "PreTrainedModel") -> str:
    if folder is None:
        return str(getattr(model.config, "_commit_hash", None) or "unknown revision")
    files = sorted((file.name, file.stat().st_size) for pattern in WEIGHTS for file in folder.glob(pattern))
    return ", ".join(f"{name} {size}" for name, size in files)


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    first = text.split(". ")[0]
    return first if len(first) <= 300 else first[:297] + "..."
