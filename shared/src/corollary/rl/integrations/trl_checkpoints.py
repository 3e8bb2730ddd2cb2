"""What a checkpoint of TRL must hold beside TRL's own files: the algorithm's state, of each process its own."""

from pathlib import Path

import torch

from corollary.rl.algorithm import Algorithm


def save_state(folder: Path, process: int, algorithm: Algorithm, generator: torch.Generator, step: int) -> None:
    """Write the state of a process.

    Args:
        folder: Of the checkpoint.
        process: Its rank.
        algorithm: What it trains with.
        generator: The randomness that the algorithm draws from.
        step: Micro-batches so far, which say how far the batch is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "identity": _identity(algorithm),
        "step": step,
        "generator": generator.get_state(),
        "algorithm": algorithm.state_dict(),
    }
    torch.save(state, _file(folder, process))


def load_state(folder: Path, process: int, algorithm: Algorithm, generator: torch.Generator) -> int:
    """Take back what `save_state` wrote, and return the number of micro-batches.

    Raises:
        ValueError: there is no such state, or it is that of another algorithm or configuration.
    """
    file = _file(folder, process)
    if not file.exists():
        raise ValueError(f"{folder} must hold {file.name}, the state of the algorithm, got a folder without it")
    state = torch.load(file, weights_only=True)
    if state["identity"] != _identity(algorithm):
        raise ValueError(f"the checkpoint was made with {state['identity']}, got {_identity(algorithm)}")
    generator.set_state(state["generator"])
    algorithm.load_state_dict(state["algorithm"])
    return state["step"]


def _file(folder: Path, process: int) -> Path:
    return folder / f"algorithm_{process}.pt"


def _identity(algorithm: Algorithm) -> str:
    return f"{type(algorithm).__name__}({algorithm.config})"
