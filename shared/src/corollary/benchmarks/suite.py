"""A suite: which runs a benchmark compares, what is measured on them, and how its page reads."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rich.console import Console

from corollary.papers import Budget
from corollary.papers.matching import unknown
from corollary.runs import Run, RunRecord, RunStore

SUITES = {
    "online-forecasting": "corollary.benchmarks.online_forecasting:SUITE",
    "rlvr": "corollary.benchmarks.rlvr:SUITE",
}
"""Names of the suites, and where each is; they are imported when they are asked for."""

Content = dict[str, Any]
"""A record: JSON values with string keys."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a user asks a suite for; what is empty is the suite's choice for the budget."""

    budget: Budget = Budget.QUICK
    methods: tuple[str, ...] = ()
    """Beside those that are always there; all installed ones if empty."""
    baseline: str | None = None
    """The method that the others are compared with."""
    data: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    horizons: tuple[int, ...] = ()
    tasks: tuple[str, ...] = ()
    seeds: int | None = None
    """How many seeds every setting has; the suite says which."""


DIMENSIONS = ("data", "backbones", "horizons", "tasks")
"""Fields of a selection that only some suites have."""


class Plan(Protocol):
    """What is to be done, decided before anything is trained."""

    @property
    def runs(self) -> Sequence[Run]:
        """The training runs that are compared."""


P = TypeVar("P", bound=Plan)


class Suite(ABC, Generic[P]):
    """A benchmark. Its runs go through the store, so that claims that ask for the same runs share them."""

    name: ClassVar[str]
    """As the command line has it, and the stem of its files."""
    selects: ClassVar[tuple[str, ...]]
    """Which of `DIMENSIONS` it has."""
    joins: ClassVar[bool] = False
    """Whether `join` adds methods to a record; other suites are only recorded whole."""

    def check(self, selection: Selection) -> None:
        """Refuse what this suite would have to ignore.

        Raises:
            ValueError: the selection names something that the suite does not have.
        """
        for name in DIMENSIONS:
            if getattr(selection, name) and name not in self.selects:
                known = " and ".join(f"--{other}" for other in self.selects)
                raise ValueError(f"{self.name} has no --{name}; beside methods and seeds it has {known}")

    @abstractmethod
    def plan(self, selection: Selection) -> P:
        """Decide what runs.

        Raises:
            ValueError: an unknown method, data set or option; the message names near matches.
        """

    @abstractmethod
    def measure(self, plan: P, store: RunStore, records: Mapping[str, RunRecord], errors: Mapping[str, str]) -> Content:
        """Everything that the page says, from complete runs.

        Args:
            plan: What `plan` decided.
            store: Where the complete runs are.
            records: What the store knows of them, by key.
            errors: Why the others failed, by key.
        """

    @abstractmethod
    def plot(self, plan: P, content: Content, store: RunStore, folder: Path) -> list[str]:
        """Draw what was measured; names of the files in the order of the page."""

    @abstractmethod
    def show(self, content: Content, console: Console) -> None:
        """Print the tables."""

    @abstractmethod
    def page(self, content: Content) -> str:
        """The page, from a record alone."""

    def check_join(self, recorded: Content, plan: P, methods: Sequence[str]) -> None:
        """Whether rows of these methods can be added to a record, as far as a plan tells.

        Raises:
            ValueError: they cannot.
        """
        raise NotImplementedError(f"{self.name} is only recorded whole")

    def join(self, recorded: Content, content: Content, methods: Sequence[str]) -> Content:
        """A record with the rows that it lacks of some methods, from a later measurement.

        Raises:
            ValueError: the two do not fit together.
        """
        raise NotImplementedError(f"{self.name} is only recorded whole")

    @abstractmethod
    def failures(self, content: Content) -> list[str]:
        """What could not be run although it should have, one line each."""


def known_names(kind: str, names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ValueError: one is not known; the message names near matches.
    """
    for name in names:
        if name not in known:
            raise ValueError(unknown(kind, name, known))
    return tuple(dict.fromkeys(names))


def find_suite(name: str) -> Suite[Any]:
    """The suite of this name.

    Raises:
        ValueError: there is none; the message names near matches.
    """
    if name not in SUITES:
        raise ValueError(unknown("suite", name, list(SUITES)))
    module, _, attribute = SUITES[name].partition(":")
    return getattr(import_module(module), attribute)
