"""Recipes and runs: what is trained, and the key under which the store knows it."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from corollary.runs.store import RunDirectory


class Recipe:
    """Base of frozen dataclasses whose fields say everything that a training run depends on, except the seed.

    A subclass sets `name` and `version` and overrides `execute`. Its fields may be strings, integers, floats,
    booleans, `None`, enumerations, tuples and mappings of these, and nested frozen dataclasses.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class CoinFlips(Recipe):
        ...     name: ClassVar[str] = "coin-flips"
        ...     version: ClassVar[int] = 1
        ...     count: int = 100
        >>> Run(CoinFlips(), seed=0).label
        'coin-flips, seed 0'
    """

    name: ClassVar[str]
    """What is trained, in lower case with hyphens. Part of the key and of the folder's name."""
    version: ClassVar[int]
    """Raised by hand when the code changes what the same fields mean. Part of the key."""

    @property
    def label(self) -> str:
        """What the display calls this recipe; the name unless a subclass says more."""
        return self.name

    def requires(self, seed: int) -> "tuple[Run, ...]":
        """Runs that must be complete before this one, for example a warm start."""
        return ()

    def execute(self, seed: int, directory: "RunDirectory") -> None:
        """Train, and leave the results in `directory.path`.

        An earlier attempt may have been killed at any point: `execute` looks for its own checkpoints there
        and goes on from them, with the same final numbers as an uninterrupted run.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Run:
    """A recipe with a seed: one training run. Runs with the same key are equal.

    Raises:
        TypeError: The recipe is no frozen dataclass, lacks a name or version, or has a field that has no
            canonical form; the message names the field.
        ValueError: The seed is negative, or a float field is not finite.
    """

    recipe: Recipe
    seed: int

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an int, got {self.seed!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        kind = type(self.recipe)
        if not isinstance(self.recipe, Recipe) or not _is_frozen_dataclass(self.recipe):
            raise TypeError(f"recipe must be a frozen dataclass derived from Recipe, got {kind.__name__}")
        if not isinstance(getattr(kind, "name", None), str) or not isinstance(getattr(kind, "version", None), int):
            raise TypeError(f"{kind.__name__} must set the class variables name: str and version: int")
        _ = self.key  # a field without canonical form is reported here, not in a worker

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Run) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """SHA-256 (hexadecimal) over name, version, fields and seed; independent of where the code lives."""
        content = {
            "name": self.recipe.name,
            "version": self.recipe.version,
            "config": canonical_config(self.recipe),
            "seed": self.seed,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    @property
    def label(self) -> str:
        """What the display calls this run."""
        return f"{self.recipe.label}, seed {self.seed}"

    def requires(self) -> "tuple[Run, ...]":
        """Runs that must be complete before this one."""
        return tuple(self.recipe.requires(self.seed))


def options_of(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Options of a method as a recipe holds them: sorted pairs, so that their order does not change the key."""
    return tuple(sorted(options.items()))


def with_requirements(runs: Iterable[Run]) -> list[Run]:
    """All these runs and everything they require, each key once, requirements before what needs them.

    Raises:
        ValueError: Runs require each other in a circle.
    """
    ordered: dict[str, Run] = {}
    open_keys: dict[str, None] = {}

    def visit(run: Run) -> None:
        if run.key in ordered:
            return
        if run.key in open_keys:
            raise ValueError(f"{run.label} requires itself, by way of {len(open_keys)} runs")
        open_keys[run.key] = None
        for required in run.requires():
            visit(required)
        del open_keys[run.key]
        ordered[run.key] = run

    for run in runs:
        visit(run)
    return list(ordered.values())


def canonical_config(config: object) -> dict[str, object]:
    """The fields of a frozen dataclass as JSON values, the same on every machine and Python version.

    Nested dataclasses carry their class name, since two algorithms may have the same fields and mean
    different things.

    Raises:
        TypeError: A field holds something without canonical form; the message names it.
        ValueError: A float field is not finite.
    """
    return {
        field.name: _canonical(getattr(config, field.name), f"{type(config).__name__}.{field.name}")
        for field in dataclasses.fields(config)  # ty: ignore[invalid-argument-type]
    }


def _canonical(value: object, where: str) -> object:
    if isinstance(value, Enum):
        return _canonical(value.value, where)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} must be finite, got {value}")
        return float(value)
    if isinstance(value, tuple):
        return [_canonical(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} must have strings as keys, got {key!r}")
        return {str(key): _canonical(item, f"{where}[{key!r}]") for key, item in value.items()}
    if _is_frozen_dataclass(value):
        return {"type": type(value).__name__, "fields": canonical_config(value)}
    raise TypeError(
        f"{where} must be a str, int, float, bool, None, enumeration, tuple, mapping or frozen dataclass, "
        f"got {type(value).__name__}"
    )


def _is_frozen_dataclass(value: object) -> bool:
    parameters = getattr(type(value), "__dataclass_params__", None)
    return parameters is not None and parameters.frozen
