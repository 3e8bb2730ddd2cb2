"""Figures of a record against results whose figures are known."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from corollary.benchmarks import find_suite
from corollary.benchmarks.online_forecasting.measured import measure
from corollary.benchmarks.online_forecasting.plan import Cell, OnlinePlan
from corollary.evaluation import paired_block_bootstrap
from corollary.runs import Run, RunRecord, RunStore


def rows_of(content: dict) -> dict[str, dict]:
    (setting,) = content["settings"]
    return {row["method"]: row for row in setting["rows"]}


def test_figures_per_seed_and_their_means(plan: OnlinePlan, store: RunStore, records: dict[str, RunRecord]) -> None:
    content = measure(plan, store, records, {})
    frozen = rows_of(content)["frozen"]
    assert (frozen["mse"], frozen["mae"], frozen["step_ms"]) == (5.0, 2.5, 0.75)
    assert [(entry["mse"], entry["mae"]) for entry in frozen["per_seed"]] == [(4.0, 2.0), (6.0, 3.0)]
    assert [(entry["update_ms"], entry["forecast_ms"]) for entry in frozen["per_seed"]] == [(0.25, 0.5)] * 2
    assert content["run_cpus"] == ["Abacus"]
    assert content["methods"]["frozen"] == "The pre-trained backbone, never updated."
    assert content["run_commits"] == ["0123456789abcdef"]
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_differences_are_paired_by_seed_and_origin(
    plan: OnlinePlan, cell: Cell, store: RunStore, put: Callable, make_result: Callable
) -> None:
    # Noise that all methods share is large, and leaves the difference alone.
    shared = np.random.default_rng(0).exponential(5.0, (2, len(make_result(0.0).origins)))
    own = np.random.default_rng(1).standard_normal(shared.shape)
    for seed in cell.seeds:
        put(cell.recipes["gd"], seed, make_result(shared[seed]))
        put(cell.recipes["frozen"], seed, make_result(shared[seed] + 0.5))
        put(cell.recipes["er"], seed, make_result(shared[seed] + own[seed]))
    rows = rows_of(measure(plan, store, {}, {}))
    assert "difference" not in rows["gd"]
    assert rows["frozen"]["difference"] == pytest.approx({"mean": 0.5, "low": 0.5, "high": 0.5})
    expected = paired_block_bootstrap(shared + own, shared, block=350)
    assert rows["er"]["difference"] == {"mean": expected.mean, "low": expected.low, "high": expected.high}


def test_a_method_without_all_its_runs_has_failed(
    plan: OnlinePlan, cell: Cell, store: RunStore, records: dict[str, RunRecord]
) -> None:
    errors = {Run(cell.recipes["er"], 1).key: "ValueError: no luck"}
    content = measure(plan, store, records, errors)
    assert rows_of(content)["er"] == {"method": "er", "options": {}, "failed": "ValueError: no luck"}
    assert find_suite("online-forecasting").failures(content) == [
        "er on switching-levels, linear, H = 12: ValueError: no luck"
    ]
    assert rows_of(content)["fsnet"] == {"method": "fsnet", "not_run": "needs convolutions"}


def test_a_method_that_diverged_keeps_its_row(
    plan: OnlinePlan, cell: Cell, store: RunStore, records: dict[str, RunRecord], put: Callable, make_result: Callable
) -> None:
    put(cell.recipes["er"], 1, make_result(np.inf))
    er = rows_of(measure(plan, store, records, {}))["er"]
    assert er["mse"] is None
    assert er["difference"] is None
    assert [entry["mse"] for entry in er["per_seed"]] == [1.0, None]
