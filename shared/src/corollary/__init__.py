"""Research papers you can install, run and check: the shared core."""

__version__ = "0.1.0"
