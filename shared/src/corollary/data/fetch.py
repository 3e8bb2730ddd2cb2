"""A checked local copy of a data set: from the user's folder, from the cache, or downloaded into it.

The variable `COROLLARY_DATA` names a folder with files that the user already has, plain or as `.gz`, in it or in a
folder directly below (`timeseries/ETTh2.csv.gz`, `ETT-small/ETTh2.csv`). Nothing is ever written there.
"""

import contextlib
import gzip
import hashlib
import os
import warnings
import zlib
from collections.abc import Callable, Generator
from pathlib import Path

from corollary.data.questions import find_file
from corollary.data.registry import DataFile

FOLDER_VARIABLE = "COROLLARY_DATA"
"""The environment variable that names the user's folder of data sets."""

CONNECT_TIMEOUT_S = 10.0
"""How long a server may take to answer; short, so that a machine without network says so at once."""
READ_TIMEOUT_S = 30.0
"""How long a server may pause during a download."""

_CHUNK = 2**20


class CorruptFileError(ValueError):
    """A file is not the registered one: damaged, incomplete, edited, or another version."""


class DataUnavailable(OSError):
    """A data set is on this machine nowhere that is known, and cannot be downloaded."""


def cache_folder() -> Path:
    """Where downloads are kept: `corollary/data` in the user's cache."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("corollary", appauthor=False)) / "data"


def fetch(
    dataset: str | DataFile,
    *,
    folder: str | os.PathLike[str] | None = None,
    download: bool = True,
    progress: bool = True,
) -> Path:
    """A local file of a data set whose digest has just been checked.

    The first of these that has the file wins: `folder`, or without it the folder that `COROLLARY_DATA` names;
    the cache; the origin, which is downloaded into the cache. A wrong file is an error, never a reason to look
    further. Processes that need the same file at once download it once.

    Args:
        dataset: A name in `DATASETS` or `QUESTIONS`, in any case, or an entry of your own.
        folder: A folder to look in before the cache.
        download: Whether a file that is not on this machine may be downloaded.
        progress: Whether a download shows a line, and a bar on a terminal. Both go to the error stream.

    Returns:
        Path of the file, plain or compressed: the name then ends in `.gz`.

    Raises:
        ValueError: The name is not known, or the folder does not exist.
        CorruptFileError: The file found or downloaded is not the registered one. Of a download nothing is kept.
        DataUnavailable: The file is not on this machine, and `download` is off, the entry has no URL or the
            download failed.

    Warns:
        UserWarning: No digest is on record for this data set. The warning names the digest of the file.
    """
    entry = find_file(dataset) if isinstance(dataset, str) else dataset
    own = _own_folder(folder)
    cache = cache_folder()
    found = (_look_up(entry, own) if own is not None else None) or _look_up(entry, cache)
    if found is None:
        if not download:
            raise DataUnavailable(_unavailable(entry, "downloading is switched off"))
        if entry.url is None:
            raise DataUnavailable(_unavailable(entry, "there is no address to download it from"))
        found = _download(entry, entry.url, cache, progress)
    digest = _check(entry, found, compressed=found.suffix == ".gz", label=str(found))
    if entry.sha256 is None:
        text = f"no digest of {entry.name} is on record, so {found} is used as it is; its SHA-256 is {digest}"
        warnings.warn(text, stacklevel=2)
    return found


def _check(entry: DataFile, path: Path, *, compressed: bool, label: str) -> str:
    """Compare a file with its entry; `label` is what an error calls it. Returns its SHA-256, decompressed."""
    expected = f"expected SHA-256 {entry.sha256 or 'not on record'}"
    if entry.bytes is not None:
        expected += f" ({entry.bytes} bytes)"
    digest, size = hashlib.sha256(), 0
    try:
        with gzip.open(path) if compressed else open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptFileError(
            f"{label} is not the registered {entry.name}: {expected} after decompression, got a damaged archive "
            f"({error}) with SHA-256 {digest.hexdigest()} of the {size} bytes that can be read"
        ) from None
    got = digest.hexdigest()
    if got != (entry.sha256 or got) or size != (entry.bytes or size):
        raise CorruptFileError(f"{label} is not the registered {entry.name}: {expected}, got {got} ({size} bytes)")
    return got


def _own_folder(folder: str | os.PathLike[str] | None) -> Path | None:
    """The folder that the user names, which must exist: a typing error must not turn into a download."""
    origin = "folder"
    if folder is None:
        folder, origin = os.environ.get(FOLDER_VARIABLE) or None, FOLDER_VARIABLE
    if folder is None:
        return None
    path = Path(folder).expanduser()
    if not folder or not path.is_dir():
        raise ValueError(f"{origin} must name an existing folder, got {str(folder)!r}")
    return path


def _look_up(entry: DataFile, folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        for name in (entry.file, f"{entry.file}.gz"):
            if (place / name).is_file():
                return place / name
    return None


def _unavailable(entry: DataFile, reason: str) -> str:
    name = f"{entry.file} or {entry.file}.gz"
    return (
        f"{entry.name} is not on this machine and {reason} (URL: {entry.url}); place {name} in a folder and set "
        f"{FOLDER_VARIABLE} to it"
    )


def _download(entry: DataFile, url: str, cache: Path, progress: bool) -> Path:
    import pooch
    from filelock import FileLock

    name = f"{entry.file}.gz" if url.endswith(".gz") else entry.file

    def save(url: str, output_file: str, pooch_: object) -> None:
        with _progress_bar(entry, progress) as bar:
            timeouts = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
            pooch.HTTPDownloader(progressbar=bar or False, chunk_size=2**16, timeout=timeouts)(url, output_file, pooch_)
        # Here and not by pooch, whose digests are those of the compressed file. It removes the temporary file
        # when this raises, and renames it when this returns.
        _check(entry, Path(output_file), compressed=name.endswith(".gz"), label=f"the download from {url}")

    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{name}.lock"), _log_of_pooch(progress):
        # Without a digest of its own pooch takes a file that another process has just put there for the right one.
        store = pooch.create(path=cache, base_url="", registry={name: None}, urls={name: url})
        try:
            return Path(store.fetch(name, downloader=save))
        except OSError as error:
            # Errors of the network library are OSErrors without a number; a full disk or a forbidden folder has one.
            if error.errno is not None:
                raise
            raise DataUnavailable(_unavailable(entry, f"its download failed: {_root(error)}")) from error


def _root(error: Exception) -> str:
    """What went wrong, in one line, without the layers that the network library puts around it."""
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    return " ".join(str(getattr(inner, "reason", inner)).split()) or type(error).__name__


@contextlib.contextmanager
def _log_of_pooch(shown: bool) -> Generator[None]:
    """Let pooch name the file and its address, or keep it quiet."""
    import pooch

    # Not by its level: this logger stands outside the hierarchy, and remembers the level it had at first.
    logger = pooch.get_logger()
    before = logger.disabled
    logger.disabled = before or not shown
    try:
        yield
    finally:
        logger.disabled = before


class _Bar:
    """What pooch asks of a progress bar, drawn by rich."""

    def __init__(self, update: Callable[[int, int], None]) -> None:
        self._update = update
        self._done = 0
        self.total = 0

    def update(self, amount: int) -> None:
        self._done += amount
        self._update(self._done, self.total)

    def reset(self) -> None:
        """Start over: pooch counts whole chunks, then resets and reports the true size."""
        self._done = 0

    def close(self) -> None:
        """Nothing: the display ends with its context, also when a download fails."""


@contextlib.contextmanager
def _progress_bar(entry: DataFile, shown: bool) -> Generator[_Bar | None]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as display:
        task = display.add_task(entry.name, total=None)
        yield _Bar(lambda done, total: display.update(task, completed=done, total=total or None))
