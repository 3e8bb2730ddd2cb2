"""Cells and results that were made by hand instead of trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from corollary.benchmarks.online_forecasting.measured import measure
from corollary.benchmarks.online_forecasting.plan import Cell, OnlinePlan
from corollary.evaluation import OnlineResult
from corollary.forecasting import SYNTHETIC_SETTING, Online
from corollary.runs import Run, RunRecord, RunStore, canonical_config, write_atomically

MakeResult = Callable[..., OnlineResult]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def cell() -> Cell:
    """The embedded stream with three methods and two seeds."""
    recipes = {name: Online(setting=SYNTHETIC_SETTING, method=name) for name in ("frozen", "gd", "er")}
    return Cell(setting=SYNTHETIC_SETTING, seeds=(0, 1), recipes=recipes, not_run={"fsnet": "needs convolutions"})


@pytest.fixture
def plan(cell: Cell) -> OnlinePlan:
    return OnlinePlan(baseline="gd", cells=(cell,), not_run={"ETTh2": "it is on the moon | far <away>"})


@pytest.fixture
def make_result() -> MakeResult:
    origins = np.asarray(SYNTHETIC_SETTING.problem(0).test_origins)

    def make(squared: object, *, drift_norm: float | None = None) -> OnlineResult:
        values = np.broadcast_to(np.asarray(squared, dtype=np.float64), origins.shape).copy()
        return OnlineResult(
            origins=origins,
            squared=values,
            absolute=values / 2,
            update_ms=np.full(len(origins), 0.25),
            forecast_ms=np.full(len(origins), 0.5),
            traces={} if drift_norm is None else {"drift_norm": np.full(len(origins), drift_norm)},
            forecasts=np.zeros((len(origins), SYNTHETIC_SETTING.horizon), np.float32),
        )

    return make


@pytest.fixture
def put(store: RunStore) -> Callable[[Online, int, OnlineResult], RunRecord]:
    """Put a result into the store as if its run had been executed."""

    def put_result(recipe: Online, seed: int, result: OnlineResult) -> RunRecord:
        run = Run(recipe, seed)
        record = RunRecord(
            key=run.key,
            recipe=recipe.name,
            version=recipe.version,
            config=canonical_config(recipe),
            seed=seed,
            seconds=1.5,
            started="2026-01-01T00:00:00+00:00",
            finished="2026-01-01T00:00:02+00:00",
            environment={"machine": {"cpu": "Abacus"}, "commit": "0123456789abcdef"},
        )
        result.save(store.path(run) / "result.npz")
        write_atomically(store.path(run) / "done.json", record.to_json())
        return record

    return put_result


@pytest.fixture
def records(cell: Cell, make_result: MakeResult, put: Callable[..., RunRecord]) -> dict[str, RunRecord]:
    """Complete runs: frozen errs by 4 on seed 0 and 6 on seed 1, gd by 2 and 3; er has only seed 0."""
    made = [
        put(cell.recipes["frozen"], 0, make_result(4.0)),
        put(cell.recipes["frozen"], 1, make_result(6.0)),
        put(cell.recipes["gd"], 0, make_result(2.0)),
        put(cell.recipes["gd"], 1, make_result(3.0)),
        put(cell.recipes["er"], 0, make_result(1.0)),
    ]
    return {record.key: record for record in made}


@pytest.fixture
def content(plan: OnlinePlan, store: RunStore, records: dict[str, RunRecord]) -> dict:
    """A record of that plan: `er` failed, and `fsnet` did not run."""
    return {
        "suite": "online-forecasting",
        "budget": "full",
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"cpu": "Abacus", "cores": 2, "memory_gib": None},
        "workers": 2,
        **measure(plan, store, records, {}),
        "plots": ["switching-levels-linear-12.png"],
    }
