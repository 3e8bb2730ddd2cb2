"""Checkpoints of torch state that survive a kill at any moment."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corollary.runs.files import write_atomically


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` so that ``path`` holds either all of it or what was there before."""
    import torch  # the store of runs itself does without

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU.

    Raises:
        ValueError: the file is no checkpoint of ours.
    """
    import torch

    try:
        # The generator's state must stay on the CPU; the model's tensors go where the model is.
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); delete it to start over"
        ) from error
