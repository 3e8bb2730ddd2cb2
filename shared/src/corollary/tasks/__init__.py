"""Verifiable tasks.

A package offers a task under a name by an entry point of the group ``corollary.tasks``: a function without arguments
that makes it. A change of its meaning raises the version of the recipes that use it.
"""

from importlib.metadata import entry_points

from corollary.tasks.countdown import Countdown
from corollary.tasks.digit_sum import DigitSum
from corollary.tasks.task import DemonstratedTask, Demonstrations, Prompt, Split, Task

ENTRY_POINTS = "corollary.tasks"


def task_names() -> list[str]:
    """The tasks that the installed packages offer."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})


def make_task(name: str) -> Task:
    """The installed task of this name.

    Raises:
        ValueError: there is none.
    """
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise ValueError(f"unknown task {name!r}; installed: {', '.join(sorted(found))}")
    return found[name].load()()


__all__ = [
    "Countdown",
    "DemonstratedTask",
    "Demonstrations",
    "DigitSum",
    "Prompt",
    "Split",
    "Task",
    "make_task",
    "task_names",
]
