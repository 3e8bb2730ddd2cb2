"""What ends a command with one line and exit status 2."""

from collections.abc import Generator
from contextlib import contextmanager


class UsageError(Exception):
    """The command cannot do what was asked; the message is one line for the user."""


@contextmanager
def as_usage_error(*kinds: type[Exception]) -> Generator[None, None, None]:
    """Report these exceptions as bad usage."""
    try:
        yield
    except kinds as error:
        if isinstance(error, OSError) and error.strerror and error.filename:
            raise UsageError(f"{error.filename}: {error.strerror}") from error
        raise UsageError(str(error)) from error
