"""The online runs behind the claims on data, for each budget.

All runs use published or specified options; nothing was tuned on the seeds of the verdicts. While this was built, seeds
0 to 2 were compared with reference values and a prototype; verdicts use seeds 5 to 9.
"""

from dataclasses import replace
from typing import Any

from corollary.forecasting import SYNTHETIC_SETTING, Online, OnlineMethod, Setting, make_setting
from corollary.papers import Budget
from corollary.runs import Run, options_of
from corollary_proceed.method import ProceedMethod

SEEDS = {Budget.SMOKE: (5,), Budget.QUICK: (5, 6, 7, 8, 9), Budget.FULL: (5, 6, 7, 8, 9)}
FULL_ONLY = {Budget.FULL: (5, 6, 7, 8, 9)}

GD_RATES = (1e-5, 3e-5, 1e-4)
"""Online rates of gradient descent on ETTh2 and ETTh1 with NLinear; the best one on the test rows is compared."""

HORIZONS = (1, 6, 24)
"""Of the claim on the cost of delay."""

SMOKE = replace(SYNTHETIC_SETTING, fit=replace(SYNTHETIC_SETTING.fit, epochs=1))


def stream(budget: Budget, *, horizon: int = 12, data: str = "switching-levels") -> Setting:
    """The embedded stream."""
    return replace(SMOKE if budget is Budget.SMOKE else SYNTHETIC_SETTING, horizon=horizon, data=data)


def real(data: str, backbone: str, budget: Budget) -> Setting:
    """A real data set, H = 24; at budget smoke one epoch of pre-training."""
    setting = make_setting(data, backbone, 24)
    return replace(setting, fit=replace(setting.fit, epochs=1)) if budget is Budget.SMOKE else setting


def run(setting: Setting, method: str, seed: int, *, leaky: bool = False, **options: Any) -> Run:
    """One method on one setting."""
    return Run(Online(setting=setting, method=method, options=options_of(options), leaky=leaky), seed)


def proceed(setting: Setting, seed: int, **options: Any) -> Run:
    """Proceed with the published options of the setting, some of them changed."""
    method: OnlineMethod = replace(ProceedMethod.preset(setting), **options)
    return Run(Online(setting=setting, method="proceed", options=method.options), seed)


def delay_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """Gradient descent on the embedded stream under both protocols, at several horizons (C1)."""
    runs = {}
    for horizon in HORIZONS:
        setting = stream(budget, horizon=horizon)
        runs[f"delayed {horizon}"] = run(setting, "gd", seed, rate=1e-3)
        runs[f"leaky {horizon}"] = run(setting, "gd", seed, rate=1e-3, leaky=True)
    return runs


def stream_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """All columns of the embedded stream (C2, C4, C5)."""
    setting, level = stream(budget), stream(budget, data="constant-level")
    return {
        "frozen": run(setting, "frozen", seed),
        "gd": run(setting, "gd", seed, rate=1e-3),
        "proceed": proceed(setting, seed),
        "none": proceed(setting, seed, drift="none"),
        "current": proceed(setting, seed, drift="current"),
        "one-encoder": proceed(setting, seed, drift="one-encoder"),
        "chronological": proceed(setting, seed, shuffle=False),
        "official pass": proceed(setting, seed, validation_pass="alternate"),
        "control frozen": run(level, "frozen", seed),
        "control proceed": proceed(level, seed),
    }


def other_times_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The embedded stream with Proceed adapted to the drift of its own and of a random other time (C4)."""
    setting = stream(budget)
    return {
        "frozen": run(setting, "frozen", seed),
        "proceed": proceed(setting, seed),
        "other times": proceed(setting, seed, other_times=True),
    }


def linear_runs(data: str, budget: Budget, seed: int) -> dict[str, Run]:
    """NLinear on a real data set (C1, C2, C4)."""
    setting = real(data, "nlinear", budget)
    return {
        "frozen": run(setting, "frozen", seed),
        **{f"gd {rate:g}": run(setting, "gd", seed, rate=rate) for rate in GD_RATES},
        "leaky": run(setting, "gd", seed, rate=1e-4, leaky=True),
        "proceed": proceed(setting, seed),
        "none": proceed(setting, seed, drift="none"),
        "persistence": run(setting, "persistence", seed),
        "seasonal-naive": run(setting, "seasonal-naive", seed),
        "ridge": run(setting, "ridge", seed),
    }


def etth2_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """NLinear on ETTh2."""
    return linear_runs("ETTh2", budget, seed)


def etth1_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """NLinear on ETTh1."""
    return linear_runs("ETTh1", budget, seed)


def tcn_runs(budget: Budget, seed: int) -> dict[str, Run]:
    """The paper's own setting: TCN with RevIN on ETTh2, H = 24."""
    setting = real("ETTh2", "tcn", budget)
    return {
        "frozen": run(setting, "frozen", seed),
        "gd": run(setting, "gd", seed, rate=1e-5),
        "proceed": proceed(setting, seed),
        "none": proceed(setting, seed, drift="none"),
    }
