"""Measurements of the claims on data: what is read from the errors of complete online runs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from corollary.forecasting import make_problem, read_result, switching_levels
from corollary.papers import Measurement
from corollary_proceed.experiments import GD_RATES, HORIZONS


def errors(runs: Mapping[str, Path]) -> dict[str, float]:
    """Mean squared error of every run, by name."""
    return {name: read_result(folder).mse for name, folder in runs.items()}


def cost_of_delay(measurement: Measurement) -> Mapping[str, float]:
    """C1 on the embedded stream: relative gap of the delayed to the leaky protocol, by horizon."""
    mse = errors(measurement.runs)
    gaps = {h: mse[f"delayed {h}"] / mse[f"leaky {h}"] - 1 for h in HORIZONS}
    return {
        **{f"gap {h}": gap for h, gap in gaps.items()},
        "growth 1 to 6": gaps[6] - gaps[1],
        "growth 6 to 24": gaps[24] - gaps[6],
    }


def oracle_error(seed: int) -> float:
    """Error of the forecaster that knows the concept, on the test origins, standardised scale."""
    problem = make_problem("switching-levels", lookback=24, horizon=12, seed=seed)
    known = switching_levels(seed)
    origins = np.asarray(problem.test_origins)
    deviation = known.values[: problem.split.train].std(0)
    truth = np.stack([known.values[origins + h] for h in range(1, 13)], 1)
    return float(np.square((known.oracle(origins, 12) - truth) / deviation).mean())


def closed_gap(measurement: Measurement) -> Mapping[str, float]:
    """C2 and C4 on the embedded stream: shares of the gap between frozen and oracle that are closed."""
    mse = errors(measurement.runs)
    oracle = oracle_error(measurement.seed)
    gap = mse["frozen"] - oracle
    share = {
        name: (mse["frozen"] - mse[name]) / gap
        for name in ("proceed", "none", "current", "one-encoder", "official pass")
    }
    return {
        "above oracle": mse["proceed"] - oracle,
        "below frozen": mse["frozen"] - mse["proceed"],
        "below gd": mse["gd"] - mse["proceed"],
        "control": mse["control proceed"] / mse["control frozen"] - 1,
        "drift adds": share["proceed"] - share["none"],
        "shuffling helps": mse["chronological"] - mse["proceed"],
        "mse oracle": oracle,
        **{f"mse {name}": mse[name] for name in ("frozen", "gd", "proceed", "chronological")},
        **{f"share {name}": value for name, value in share.items()},
    }


def other_times(measurement: Measurement) -> Mapping[str, float]:
    """C4 on the embedded stream: the share of the gap that is closed with the drift of a random other time."""
    mse = errors(measurement.runs)
    gap = mse["frozen"] - oracle_error(measurement.seed)
    share = {name: (mse["frozen"] - mse[name]) / gap for name in ("proceed", "other times")}
    return {
        "own time adds": share["proceed"] - share["other times"],
        "share other times": share["other times"],
        "share proceed": share["proceed"],
        "mse other times": mse["other times"],
    }


def real_data(measurement: Measurement) -> Mapping[str, float]:
    """C1, C2 and C4 with NLinear on a real data set. Gradient descent has its best rate on the test rows."""
    mse = errors(measurement.runs)
    best = min(mse[f"gd {rate:g}"] for rate in GD_RATES)
    norms = read_result(measurement.runs["proceed"]).traces["drift_norm"]
    return {
        "drift norm": float(np.median(norms)),
        "clipped": float((norms > 1).mean()),
        "below best gd": best - mse["proceed"],
        "gd below frozen": mse["frozen"] - best,
        "relative": 1 - mse["proceed"] / best,
        "relative at equal rate": 1 - mse["proceed"] / mse["gd 0.0001"],
        "delay costs": mse["gd 0.0001"] - mse["leaky"],
        "relative delay": mse["gd 0.0001"] / mse["leaky"] - 1,
        "drift adds": mse["none"] - mse["proceed"],
        "below persistence": mse["persistence"] - mse["proceed"],
        "below ridge": mse["ridge"] - mse["proceed"],
        "mse best gd": best,
        **{f"mse {name}": value for name, value in mse.items()},
    }


def paper_setting(measurement: Measurement) -> Mapping[str, float]:
    """C2 and C4 with the TCN on ETTh2."""
    mse = errors(measurement.runs)
    return {
        "below gd": mse["gd"] - mse["proceed"],
        "below frozen": mse["frozen"] - mse["proceed"],
        "relative": 1 - mse["proceed"] / mse["gd"],
        "drift adds": mse["none"] - mse["proceed"],
        **{f"mse {name}": value for name, value in mse.items()},
    }


def latency(measurement: Measurement) -> Mapping[str, float]:
    """C8: median milliseconds of updates and forecasts, as they were when the runs were trained."""
    results = {name: read_result(measurement.runs[name]) for name in ("gd", "proceed")}
    times = {
        f"{name} {what}": float(np.median(values))
        for name, result in results.items()
        for what, values in (("update", result.update_ms), ("forecast", result.forecast_ms))
    }
    step = {name: times[f"{name} update"] + times[f"{name} forecast"] for name in results}
    return {**times, "ratio": step["proceed"] / step["gd"]}
