"""What a selection runs, and why some of it does not."""

from dataclasses import replace

import pytest

from corollary.benchmarks import Selection, find_suite
from corollary.benchmarks.online_forecasting import plan as planning
from corollary.benchmarks.online_forecasting.budgets import ALWAYS, FIRST_SEED, SLOW, WORK
from corollary.benchmarks.online_forecasting.plan import make_plan
from corollary.data import DataUnavailable
from corollary.forecasting import SYNTHETIC_SETTING, Online, make_setting, method_class, method_names
from corollary.papers import Budget
from corollary.runs import Run


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(name: str) -> None:
        raise DataUnavailable(f"{name} is on the moon")

    monkeypatch.setattr(planning, "fetch", unavailable)


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every data set is there; problems are those of the embedded stream."""
    monkeypatch.setattr(planning, "fetch", lambda name: None)
    problem = SYNTHETIC_SETTING.problem(0)
    monkeypatch.setattr("corollary.forecasting.Setting.problem", lambda self, seed: problem)


def test_smoke_is_the_embedded_stream_with_every_installed_method_on_one_seed() -> None:
    plan = make_plan(Selection(budget=Budget.SMOKE))
    assert [(cell.setting, cell.seeds) for cell in plan.cells] == [(SYNTHETIC_SETTING, (FIRST_SEED,))]
    (cell,) = plan.cells
    assert {*cell.recipes, *cell.not_run} == set(method_names())
    assert set(cell.not_run) == set(SLOW["linear"])


def test_a_slow_method_runs_when_it_is_named() -> None:
    for name in SLOW["linear"]:
        plan = make_plan(Selection(budget=Budget.SMOKE, methods=(name,)))
        assert name in plan.cells[0].recipes
        assert not plan.cells[0].not_run
        assert name in make_plan(Selection(budget=Budget.SMOKE, baseline=name)).cells[0].recipes


def test_runs_are_those_that_a_claim_asks_for_too() -> None:
    plan = make_plan(Selection(budget=Budget.SMOKE, methods=("gd",)))
    options = method_class("gd").preset(SYNTHETIC_SETTING).options
    assert Run(Online(setting=SYNTHETIC_SETTING, method="gd", options=options), FIRST_SEED) in plan.runs


def test_the_naive_methods_and_the_baseline_are_always_there() -> None:
    (cell,) = make_plan(Selection(budget=Budget.SMOKE, methods=("er",), baseline="gd")).cells
    assert set(cell.recipes) == {*ALWAYS, "gd", "er"}


def test_full_covers_the_data_backbones_horizons_and_seeds_of_its_work(at_hand: None) -> None:
    plan = make_plan(Selection(budget=Budget.FULL, methods=("gd",)))
    work = WORK[Budget.FULL]
    expected = [make_setting(data, name, h) for data in work.data for name, hs in work.horizons.items() for h in hs]
    assert [cell.setting for cell in plan.cells] == [SYNTHETIC_SETTING, *expected]
    assert [len(cell.seeds) for cell in plan.cells] == [work.stream_seeds, *[work.seeds] * len(expected)]


def test_a_selection_replaces_what_the_budget_says(at_hand: None) -> None:
    selection = Selection(
        budget=Budget.FULL, methods=("gd",), data=("etth1",), backbones=("tcn",), horizons=(48, 96), seeds=2
    )
    plan = make_plan(selection)
    assert [cell.setting for cell in plan.cells] == [
        SYNTHETIC_SETTING,
        make_setting("ETTh1", "tcn", 48),
        make_setting("ETTh1", "tcn", 96),
    ]
    assert {cell.seeds for cell in plan.cells} == {(FIRST_SEED, FIRST_SEED + 1)}


def test_data_that_are_not_there_are_listed_and_are_no_error(elsewhere: None) -> None:
    plan = make_plan(Selection(budget=Budget.FULL))
    assert [cell.setting for cell in plan.cells] == [SYNTHETIC_SETTING]
    assert plan.not_run == {"ETTh2": "ETTh2 is on the moon", "ETTh1": "ETTh1 is on the moon"}


def test_a_setting_that_the_data_cannot_carry_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "fetch", lambda name: None)

    def too_short(self: object, seed: int) -> None:
        raise ValueError("too short")

    monkeypatch.setattr("corollary.forecasting.Setting.problem", too_short)
    plan = make_plan(Selection(budget=Budget.SMOKE, data=("ETTh2",), methods=("gd",)))
    assert plan.not_run == {"ETTh2, nlinear, H = 24": "too short"}


def test_a_method_that_refuses_a_setting_is_listed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    real = planning.method_class

    def refuse(name: str):
        if name == "er":
            raise ValueError("no memory for this")
        return real(name)

    monkeypatch.setattr(planning, "method_class", refuse)
    (cell,) = make_plan(Selection(budget=Budget.SMOKE, methods=("er", "gd"))).cells
    assert cell.not_run == {"er": "no memory for this"}
    assert "gd" in cell.recipes


def test_blocks_are_a_week_and_at_least_the_horizon(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = replace(SYNTHETIC_SETTING.problem(0), period=24)
    monkeypatch.setattr("corollary.forecasting.Setting.problem", lambda self, seed: problem)
    blocks = [
        planning.Cell(setting=make_setting("ETTh2", "nlinear", horizon), seeds=(0,)).block for horizon in (24, 192)
    ]
    assert blocks == [168, 192]
    assert planning.Cell(setting=SYNTHETIC_SETTING, seeds=(0,)).block == 350  # the longest regime


@pytest.mark.parametrize(
    ("selection", "complaint"),
    [
        (Selection(methods=("gdd",)), r"unknown online method 'gdd'; did you mean 'gd'\?"),
        (Selection(baseline="nothing"), "unknown online method 'nothing'"),
        (Selection(data=("ETTh3",)), r"unknown data set 'ETTh3'; did you mean"),
        (Selection(data=("Switching-Levels",)), r"did you mean 'switching-levels'\?"),
        (Selection(backbones=("nlinar",)), r"unknown backbone 'nlinar'; did you mean 'nlinear'"),
        (Selection(horizons=(0,)), "horizons must be positive, got 0"),
        (Selection(seeds=0), "seeds must be 1 or more, got 0"),
    ],
)
def test_bad_selections_are_refused(selection: Selection, complaint: str, elsewhere: None) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_plan(selection)


def test_an_unknown_suite_is_refused_with_near_matches() -> None:
    with pytest.raises(ValueError, match=r"unknown suite 'online-forcasting'; did you mean 'online-forecasting'\?"):
        find_suite("online-forcasting")
