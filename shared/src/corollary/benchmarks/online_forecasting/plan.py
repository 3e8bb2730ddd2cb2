"""What runs: settings, seeds and methods, with the reason for everything that does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from corollary.benchmarks.online_forecasting.budgets import (
    ALWAYS,
    BASELINE,
    FIRST_SEED,
    OTHER_HORIZONS,
    PERIODS_PER_BLOCK,
    STREAM,
    STREAM_BLOCK,
    WORK,
)
from corollary.benchmarks.suite import Selection, known_names
from corollary.data import DataUnavailable, fetch, find_dataset
from corollary.forecasting import (
    BACKBONES,
    SYNTHETIC_SETTING,
    Online,
    Setting,
    make_setting,
    method_class,
    method_names,
)
from corollary.forecasting.synthetic import SWITCHING
from corollary.papers.matching import unknown
from corollary.reproduce.workers import one_line
from corollary.runs import Run


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One table: a setting with its seeds, and the methods that can run there."""

    setting: Setting
    seeds: tuple[int, ...]
    recipes: Mapping[str, Online] = field(default_factory=dict)
    """By method, in the order of the selection."""
    not_run: Mapping[str, str] = field(default_factory=dict)
    """Methods that do not fit this setting, or this budget, with the reason."""

    @property
    def block(self) -> int:
        """Origins per block of the bootstrap over time."""
        if self.setting.data in SWITCHING:
            return STREAM_BLOCK
        return max(PERIODS_PER_BLOCK * self.setting.problem(0).period, self.setting.horizon)


@dataclass(frozen=True, kw_only=True)
class OnlinePlan:
    """All tables, and the settings that cannot be run here."""

    baseline: str
    cells: tuple[Cell, ...]
    not_run: Mapping[str, str]
    """Settings, data sets and methods, with the reason."""

    @property
    def runs(self) -> Sequence[Run]:
        """Seed by seed within a table, so that early runs already cover all methods."""
        return [Run(recipe, seed) for cell in self.cells for seed in cell.seeds for recipe in cell.recipes.values()]


def make_plan(selection: Selection) -> OnlinePlan:
    """Decide what runs.

    Raises:
        ValueError: an unknown method, data set or backbone, a horizon or number of seeds that is not positive, or a
            data file that is not the registered one.
    """
    installed = method_names()
    work = WORK[selection.budget]
    methods = known_names("online method", selection.methods, installed)
    baseline = known_names("online method", (selection.baseline or BASELINE,), installed)[0]
    always = [name for name in ALWAYS if name in installed]
    chosen = dict.fromkeys([*always, baseline, *(methods or installed)])
    if selection.seeds is not None and selection.seeds < 1:
        raise ValueError(f"seeds must be 1 or more, got {selection.seeds}")
    settings, not_run = _settings(selection)
    reason = f"takes too long for budget {selection.budget}, unless --methods names it"
    cells = []
    for setting in settings:
        count = selection.seeds or (work.stream_seeds if setting.data in SWITCHING else work.seeds)
        seeds = tuple(range(FIRST_SEED, FIRST_SEED + count))
        skipped = () if methods else work.left_out.get(setting.backbone, ())
        slow = {name: reason for name in chosen if name in skipped and name != baseline}
        named = [name for name in chosen if name not in slow]
        cells.append(_with_methods(Cell(setting=setting, seeds=seeds, not_run=slow), named))
    return OnlinePlan(baseline=baseline, cells=tuple(cells), not_run=not_run)


def _settings(selection: Selection) -> tuple[list[Setting], dict[str, str]]:
    work = WORK[selection.budget]
    if any(horizon < 1 for horizon in selection.horizons):
        raise ValueError(f"horizons must be positive, got {', '.join(map(str, selection.horizons))}")
    backbones = known_names("backbone", selection.backbones, list(BACKBONES)) or tuple(work.horizons)
    streams, tables = [STREAM], []
    for name in selection.data or work.data:
        if name in SWITCHING:
            streams.append(name)
        elif name.casefold() in {known.casefold() for known in SWITCHING}:
            raise ValueError(unknown("data set", name, list(SWITCHING)))
        else:
            tables.append(find_dataset(name).name)
    settings = [replace(SYNTHETIC_SETTING, data=name) for name in dict.fromkeys(streams)]
    not_run: dict[str, str] = {}
    for data in dict.fromkeys(tables):
        try:
            fetch(data)
        except DataUnavailable as error:
            not_run[data] = str(error)
            continue
        for backbone in backbones:
            for horizon in selection.horizons or work.horizons.get(backbone, OTHER_HORIZONS):
                setting = make_setting(data, backbone, horizon)
                try:
                    setting.problem(0)
                except ValueError as error:  # too short, or no calendar for a backbone that reads it
                    not_run[setting.label] = str(error)
                else:
                    settings.append(setting)
    return settings, not_run


def _with_methods(cell: Cell, methods: Sequence[str]) -> Cell:
    recipes, not_run = {}, dict(cell.not_run)
    for name in methods:
        try:
            options = method_class(name).preset(cell.setting).options
            recipe = Online(setting=cell.setting, method=name, options=options)
            Run(recipe, 0).requires()
        except Exception as error:  # one method that does not fit, or cannot be imported, must not stop the others
            not_run[name] = str(error) if isinstance(error, ValueError) else one_line(error)
        else:
            recipes[name] = recipe
    return replace(cell, recipes=recipes, not_run=not_run)
