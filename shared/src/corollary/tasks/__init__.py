"""Verifiable tasks."""

from collections.abc import Callable

from corollary.tasks.digit_sum import DigitSum
from corollary.tasks.task import Prompt, Split, Task

TASKS: dict[str, Callable[[], DigitSum]] = {
    "digit-sum": lambda: DigitSum("digit-sum", n_digits=6, running_sums=False, targets=(5, 48)),
    "digit-sum-running": lambda: DigitSum("digit-sum-running", n_digits=5, running_sums=True, targets=(5, 40)),
}
"""The procedural tasks by name. A change of meaning raises the version of the recipes that use them."""


def make_task(name: str) -> DigitSum:
    """The task of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; there are: {', '.join(sorted(TASKS))}")
    return TASKS[name]()


__all__ = ["TASKS", "DigitSum", "Prompt", "Split", "Task", "make_task"]
