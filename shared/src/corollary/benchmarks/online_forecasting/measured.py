"""What the runs of a plan say: errors, differences with intervals, and times, as the record holds them."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corollary.benchmarks.online_forecasting.plan import Cell, OnlinePlan
from corollary.benchmarks.provenance import distributions, first_paragraph, provenance
from corollary.evaluation import OnlineResult, paired_block_bootstrap
from corollary.forecasting import Online, method_class, read_result
from corollary.forecasting.experiment import ENTRY_POINTS
from corollary.runs import Run, RunRecord, RunStore

Results = Mapping[int, OnlineResult]
"""By seed."""


def read_results(recipe: Online, cell: Cell, store: RunStore) -> dict[int, OnlineResult]:
    """The results of a method on a setting whose runs are complete."""
    return {seed: read_result(store.open(Run(recipe, seed))) for seed in cell.seeds}


def complete_results(cell: Cell, store: RunStore) -> dict[str, dict[int, OnlineResult]]:
    """Results by method, of the methods whose runs are all complete."""
    return {
        name: read_results(recipe, cell, store)
        for name, recipe in cell.recipes.items()
        if all(store.is_complete(Run(recipe, seed)) for seed in cell.seeds)
    }


def measure(
    plan: OnlinePlan, store: RunStore, records: Mapping[str, RunRecord], errors: Mapping[str, str]
) -> dict[str, Any]:
    """The record of a plan, without what all suites record."""
    used = {name for cell in plan.cells for name in cell.recipes}
    return {
        "baseline": plan.baseline,
        **provenance(plan.runs, records, also=distributions(ENTRY_POINTS, used)),
        "methods": {name: _about(name) for cell in plan.cells for name in (*cell.recipes, *cell.not_run)},
        "settings": [_measure_cell(cell, plan.baseline, store, records, errors) for cell in plan.cells],
        "not_run": dict(plan.not_run),
    }


def _measure_cell(
    cell: Cell, baseline: str, store: RunStore, records: Mapping[str, RunRecord], errors: Mapping[str, str]
) -> dict[str, Any]:
    results = complete_results(cell, store)
    rows: list[dict[str, Any]] = []
    for name, recipe in cell.recipes.items():
        row: dict[str, Any] = {"method": name, "options": dict(recipe.options)}
        if name in results:
            row |= _measure_method(recipe, results[name], records)
            if name != baseline and baseline in results:
                row["difference"] = _difference(results[name], results[baseline], cell.block)
        else:
            reasons = [errors[key] for seed in cell.seeds if (key := Run(recipe, seed).key) in errors]
            row["failed"] = reasons[0] if reasons else "its runs are not complete"
        rows.append(row)
    rows += [{"method": name, "not_run": reason} for name, reason in cell.not_run.items()]
    problem, setting = cell.setting.problem(0), cell.setting
    return {
        "data": setting.data,
        "backbone": setting.backbone,
        "lookback": setting.lookback,
        "horizon": setting.horizon,
        "variates": problem.variates,
        "origins": len(problem.test_origins),
        "block": cell.block,
        "seeds": list(cell.seeds),
        "rows": rows,
    }


def _measure_method(recipe: Online, results: Results, records: Mapping[str, RunRecord]) -> dict[str, Any]:
    """Figures per seed, and their means; a mean that is not finite is left out with a word why."""
    seeds: list[dict[str, Any]] = []
    for seed, result in results.items():
        run = Run(recipe, seed)
        step = result.update_ms + result.forecast_ms
        seeds.append(
            {
                "seed": seed,
                "run": run.key,
                "mse": _number(result.mse),
                "mae": _number(result.mae),
                "update_ms": _milliseconds(result.update_ms),
                "forecast_ms": _milliseconds(result.forecast_ms),
                "step_ms": _milliseconds(step),
                "run_s": records[run.key].seconds if run.key in records else None,
            }
        )
    finite = [entry for entry in seeds if entry["mse"] is not None]
    return {
        "mse": statistics.fmean(entry["mse"] for entry in finite) if len(finite) == len(seeds) else None,
        "mae": statistics.fmean(entry["mae"] for entry in finite) if len(finite) == len(seeds) else None,
        "step_ms": statistics.median(entry["step_ms"] for entry in seeds),
        "per_seed": seeds,
    }


def _difference(results: Results, reference: Results, block: int) -> dict[str, Any] | None:
    """Squared error minus that of the baseline, origin by origin and seed by seed."""
    first, second = (np.stack([result.squared for result in side.values()]) for side in (results, reference))
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    interval = paired_block_bootstrap(first, second, block=block)
    low, high = (_number(bound) for bound in (interval.low, interval.high))
    return {"mean": interval.mean, "low": low, "high": high}


def _about(name: str) -> str:
    """The first paragraph of a method's description."""
    try:
        return first_paragraph(method_class(name))
    except Exception:  # a method that cannot be imported is listed as not run, with the reason
        return ""


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _milliseconds(values: NDArray[np.float64]) -> float:
    return round(float(np.median(values)), 5)
