"""Writing files so that a reader sees the old content or the new one, never a part."""

import os
import secrets
from pathlib import Path

TEMPORARIES = ".*.tmp"
"""Pattern of the files that a killed process may leave behind."""


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replace `path` by a file with this content in one step.

    The content goes to a temporary file in the same folder, reaches the disk, and is then renamed over
    `path`. A process that is killed at any point, or a disk that fills up, leaves the previous file intact.

    Args:
        path: The file to write. Missing parent folders are created.
        content: Text (written as UTF-8, line ends unchanged) or bytes.
        durable: Whether to wait until the disk has the content. Progress files, which are written often and
            may be lost, pass `False`.

    Raises:
        OSError: The file cannot be written; the temporary file is gone and `path` is as it was.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable, where the system allows it (Windows does not open folders)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
