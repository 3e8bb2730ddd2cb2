from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import pytest

from corollary.runs import Recipe, Run, with_requirements


class Mode(StrEnum):
    FAST = "fast"
    SLOW = "slow"


@dataclass(frozen=True)
class Optimiser:
    rate: float = 1e-4


@dataclass(frozen=True)
class OtherOptimiser:
    rate: float = 1e-4


@dataclass
class Mutable:
    rate: float = 1e-4


@dataclass(frozen=True)
class Walk(Recipe):
    name: ClassVar[str] = "walk"
    version: ClassVar[int] = 1
    steps: int = 10
    mode: Mode = Mode.FAST
    optimiser: object = Optimiser()
    layers: tuple[int, ...] = (1, 2)
    extra: object = None


@dataclass(frozen=True)
class LaterWalk(Walk):
    version: ClassVar[int] = 2


@dataclass(frozen=True)
class OtherWalk(Walk):
    name: ClassVar[str] = "other-walk"


def test_key_is_stable_across_releases() -> None:
    # Changing this literal throws away everybody's stored runs.
    assert Run(Walk(), 3).key == "a9fc6ce8d4c7cdb3323be157d75cf4902f4c3ddd0d1fd40d192d144c6cc6c6aa"


@pytest.mark.parametrize(
    "run",
    [
        Run(Walk(), 1),
        Run(Walk(steps=11), 0),
        Run(Walk(mode=Mode.SLOW), 0),
        Run(Walk(optimiser=Optimiser(rate=2e-4)), 0),
        Run(Walk(optimiser=OtherOptimiser()), 0),
        Run(Walk(layers=(2, 1)), 0),
        Run(Walk(extra={"a": 1}), 0),
        Run(LaterWalk(), 0),
        Run(OtherWalk(), 0),
    ],
    ids=lambda run: run.label,
)
def test_key_depends_on_every_part(run: Run) -> None:
    assert run.key != Run(Walk(), 0).key


def test_key_ignores_the_order_of_mappings() -> None:
    assert Run(Walk(extra={"a": 1, "b": 2}), 0).key == Run(Walk(extra={"b": 2, "a": 1}), 0).key


@pytest.mark.parametrize(
    ("extra", "error", "words"),
    [
        ([1], TypeError, r"Walk\.extra must be .* got list"),
        (Mutable(), TypeError, r"Walk\.extra must be .* got Mutable"),
        (((1, {1}),), TypeError, r"Walk\.extra\[0\]\[1\] must be .* got set"),
        ({1: 2}, TypeError, r"Walk\.extra must have strings as keys, got 1"),
        (float("nan"), ValueError, r"Walk\.extra must be finite, got nan"),
    ],
)
def test_field_without_canonical_form_is_named(extra: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Run(Walk(extra=extra), 0)


def test_recipe_must_be_a_frozen_dataclass() -> None:
    @dataclass
    class Loose(Recipe):
        name: ClassVar[str] = "loose"
        version: ClassVar[int] = 1

    with pytest.raises(TypeError, match="frozen dataclass derived from Recipe, got Loose"):
        Run(Loose(), 0)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (True, TypeError), (1.0, TypeError)])
def test_bad_seed_is_refused(seed: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="seed must be"):
        Run(Walk(), seed)


@dataclass(frozen=True)
class Chain(Recipe):
    name: ClassVar[str] = "chain"
    version: ClassVar[int] = 1
    after: tuple[str, ...] = ()
    own: str = ""

    def requires(self, seed: int) -> tuple[Run, ...]:
        return tuple(Run(Chain(own=name, after=("a",) if name != "a" else ()), seed) for name in self.after)


@dataclass(frozen=True)
class Circle(Recipe):
    name: ClassVar[str] = "circle"
    version: ClassVar[int] = 1

    def requires(self, seed: int) -> tuple[Run, ...]:
        return (Run(self, seed),)


def test_requirements_come_first_and_once() -> None:
    wanted = [Run(Chain(own="x", after=("b", "c")), 0), Run(Chain(own="y", after=("c",)), 0)]
    order = [run.recipe.own for run in with_requirements(wanted)]  # ty: ignore[unresolved-attribute]
    assert order == ["a", "b", "c", "x", "y"]


def test_circle_of_requirements_is_refused() -> None:
    with pytest.raises(ValueError, match="circle, seed 0 requires itself"):
        with_requirements([Run(Circle(), 0)])


def test_runs_with_the_same_key_are_equal() -> None:
    first, second = Run(Walk(extra={"a": 1, "b": 2}), 0), Run(Walk(extra={"b": 2, "a": 1}), 0)
    assert {first, second} == {first}
    assert first != Run(Walk(), 0)
