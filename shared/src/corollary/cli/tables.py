"""`corollary tables`: regenerate what README and docs say about results."""

from dataclasses import dataclass
from pathlib import Path

from corollary.cli.errors import UsageError, as_usage_error


@dataclass(frozen=True)
class Tables:
    """Regenerate the tables of README and docs from the recorded results. Run it inside a checkout."""

    check: bool = False
    """Change nothing, and end with status 1 when something is stale."""

    def run(self) -> int:
        """Write or check; nothing is written unless everything can be generated."""
        from corollary.papers import PaperLoadError
        from corollary.reproduce.tables import generate, workspace_root
        from corollary.runs import write_atomically

        with as_usage_error(ValueError, PaperLoadError, OSError):
            root = workspace_root(Path.cwd())
            stale = {path: text for path, text in generate(root).items() if _content(path) != text}
        names = ", ".join(str(path.relative_to(root)) for path in stale)
        if self.check:
            print(f"stale: {names}; run `corollary tables`" if stale else "Tables are up to date.")
            return int(bool(stale))
        for path, text in stale.items():
            try:
                write_atomically(path, text)
            except OSError as error:
                raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
        print(f"Written: {names}" if stale else "Tables are up to date.")
        return 0


def _content(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
