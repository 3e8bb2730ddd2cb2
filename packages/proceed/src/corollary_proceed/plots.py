"""Plots of the online runs behind the claims."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from corollary.forecasting import make_problem, read_result
from corollary.papers import PlotInputs

LABELS = {
    "frozen": "frozen",
    "gd": "gradient descent",
    "gd 0.0001": "gradient descent, 1e-4",
    "gd 3e-05": "gradient descent, 3e-5",
    "proceed": "Proceed",
    "none": "Proceed, drift set to zero",
    "current": "Proceed, current concept only",
    "leaky": "gradient descent, leaky labels",
}
COLOURS = dict(
    zip(LABELS, ("#7f7f7f", "#0072b2", "#0072b2", "#56b4e9", "#d55e00", "#cc79a7", "#009e73", "#e69f00"), strict=True)
)


def draw(inputs: PlotInputs) -> list[Path]:
    """What the measured claims allow."""
    drawn = []
    for claim, name, title in (
        ("C2-stream", "stream", "embedded stream, H = 12"),
        ("C2-ETTh2", "etth2", "ETTh2, NLinear, H = 24"),
        ("C2-TCN", "etth2-tcn", "ETTh2, TCN, H = 24"),
        ("C2-ETTh1", "etth1", "ETTh1, NLinear, H = 24"),
    ):
        if claim in inputs.runs:
            seed, runs = next(iter(inputs.runs[claim].items()))
            drawn.append(_cumulative(runs, f"{title}, seed {seed}", inputs.out / f"cumulative-{name}.png"))
            if claim == "C2-stream":
                drawn.append(_drift(runs, seed, inputs.out / "drift-stream.png"))
    return drawn


def _cumulative(runs: Mapping[str, Path], title: str, path: Path) -> Path:
    """Cumulative difference of squared errors to the frozen model, and the drift norm below."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    results = {name: read_result(folder) for name, folder in runs.items() if name in LABELS}
    reference = results["frozen"].squared
    for name, result in results.items():
        if name != "frozen":
            upper.plot(
                result.origins, np.cumsum(result.squared - reference), label=LABELS[name], color=COLOURS[name], lw=1.4
            )
    upper.axhline(0, color=COLOURS["frozen"], lw=1, label="frozen")
    upper.set_ylabel("cumulative squared error\nminus that of the frozen model")
    upper.set_title(title)
    upper.legend(frameon=False, fontsize=9)
    proceed = results["proceed"]
    lower.plot(proceed.origins, proceed.traces["drift_norm"], color=COLOURS["proceed"], lw=0.6)
    lower.set_ylabel("norm of\nthe drift")
    lower.set_xlabel("time step")
    return _save(figure, path)


def _drift(runs: Mapping[str, Path], seed: int, path: Path) -> Path:
    """Forecasts against the truth around the largest change of regime in the first third of the test."""
    problem = make_problem("switching-levels", lookback=24, horizon=12, seed=seed)
    truth = problem.values[:, -1].numpy()
    results = {name: read_result(runs[name]) for name in ("frozen", "gd", "proceed")}
    origins = results["proceed"].origins
    smooth = np.convolve(truth, np.ones(48) / 48, "same")
    candidates = origins[200 : len(origins) // 3]
    centre = int(candidates[np.argmax(np.abs(smooth[candidates + 30] - smooth[candidates - 30]))])
    shown = np.arange(centre - 80, centre + 120)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(shown, truth[shown], color="black", lw=0.9, label="truth")
    lead = 12
    for name, result in results.items():
        forecasts = result.forecasts
        if forecasts is not None:
            rows = shown - lead - origins[0]
            axes.plot(
                shown,
                forecasts[rows, lead - 1],
                color=COLOURS[name],
                lw=1.4,
                label=f"{LABELS[name]}, {lead} steps ahead",
            )
    axes.set_xlabel("time step")
    axes.set_ylabel("last variate, standardised")
    axes.set_title(f"around a change of regime, embedded stream, seed {seed}")
    axes.legend(frameon=False, fontsize=9)
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
