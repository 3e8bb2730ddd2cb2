"""The tables of the README that are typed by hand say what the runs used."""

import json
import math
import statistics
from pathlib import Path

from corollary.papers import Budget
from corollary_proceed.experiments import SEEDS, etth2_runs, stream_runs, tcn_runs
from corollary_proceed.forecaster import ProceedForecaster
from corollary_proceed.method import ProceedMethod

RESULTS = Path(__file__).parents[1] / "results"
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def row(start):
    """The cells of the table row that starts so."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def settings():
    """TCN, NLinear and the embedded stream, as the runs have them."""
    return [runs(Budget.FULL, 5)["proceed"].recipe.setting for runs in (tcn_runs, etth2_runs, stream_runs)]


def test_sizes():
    expected = [f"{setting.lookback}, {setting.horizon}" for setting in settings()]
    assert row("lookback L, horizon H")[1:] == expected


def test_concepts_and_bottlenecks():
    tcn, linear, stream = (ProceedMethod.preset(setting) for setting in settings())
    assert row("`d_c`, `r`")[1:] == [f"{tcn.concept_dim}, {tcn.bottleneck_dim}", "the same", "16, 16"]
    assert (linear.concept_dim, linear.bottleneck_dim) == (tcn.concept_dim, tcn.bottleneck_dim)
    assert (stream.concept_dim, stream.bottleneck_dim) == (16, 16)


def test_rates():
    methods = [ProceedMethod.preset(setting) for setting in settings()]
    assert row("online rate")[1:] == ["3e-5", "1e-4", "1e-3"]
    assert [method.online_rate for method in methods] == [3e-5, 1e-4, 1e-3]
    assert row("tuning rate, batch, epochs")[1:] == ["3e-3, 16, 25 with patience 3", "the same", "1e-3, 16, 30"]
    fits = [method.tuning(setting).fit for method, setting in zip(methods, settings(), strict=True)]
    assert [(fit.rate, fit.batch_size, fit.epochs, fit.patience) for fit in fits] == [
        (3e-3, 16, 25, 3),
        (3e-3, 16, 25, 3),
        (1e-3, 16, 30, None),
    ]


def test_pre_training():
    fits = [setting.fit for setting in settings()]
    assert [(fit.optimizer, fit.rate, fit.batch_size) for fit in fits] == [
        ("adamw", 1e-3, 32),
        ("adam", 0.05, 32),
        ("adam", 1e-3, 32),
    ]
    assert row("pre-training")[1:3] == ["AdamW 1e-3, batch 32, patience 3", "Adam 0.05, batch 32, patience 3"]


def test_seeds():
    assert f"the seeds of the verdicts ({SEEDS[Budget.FULL][0]} to {SEEDS[Budget.FULL][-1]})" in README


def values_of(claim, quantity):
    """One value a seed in the recorded result."""
    content = json.loads((RESULTS / f"{claim}.json").read_text(encoding="utf-8"))
    (finding,) = [item for item in content["findings"] if item["quantity"] == quantity]
    return finding["values"]


def measured(claim, quantity):
    """Mean over seeds."""
    values = values_of(claim, quantity)
    return sum(values) / len(values)


def test_the_figures_beside_the_reference_values_are_the_recorded_ones():
    text = " ".join(README.split())
    for words, claim, quantity, digits in (
        ("Proceed {} (1.568 there)", "C2-ETTh2", "mse proceed", 3),
        ("drift set to zero {} (1.561)", "C2-ETTh2", "mse none", 3),
        ("gradient descent at 1e-4 {} (1.869)", "C2-ETTh2", "mse gd 0.0001", 3),
        ("leaky {} (1.649)", "C2-ETTh2", "mse leaky", 3),
        ("frozen {} [", "C2-ETTh2", "mse frozen", 2),
        ("gradient descent {} (3.215)", "C2-TCN", "mse gd", 3),
        ("Proceed {} (2.933)", "C2-TCN", "mse proceed", 3),
        ("frozen {} (3.396)", "C2-TCN", "mse frozen", 3),
    ):
        assert words.format(f"{measured(claim, quantity):.{digits}f}") in text
    for quantity, interval in (
        ("mse gd", "[3.06, 3.31]"),
        ("mse proceed", "[2.88, 3.27]"),
        ("mse frozen", "[3.01, 3.34]"),
    ):
        values = values_of("C2-TCN", quantity)
        half = 2.776445 * statistics.stdev(values) * math.sqrt(1 + 1 / len(values))  # Student's t, 4 degrees of freedom
        centre = statistics.fmean(values)
        assert f"[{centre - half:.2f}, {centre + half:.2f}]" == interval
        assert interval in text
    for claim in ("C2-ETTh2", "C2-ETTh1"):
        assert measured(claim, "clipped") == 1  # "active at every step"
        assert measured(claim, "drift adds") < 0  # "the error is slightly lower"
    assert measured("C2-ETTh1", "mse ridge") < measured("C2-ETTh1", "mse proceed")


def test_the_trace_is_in_the_glossary():
    assert "`drift_norm`" in README
    assert ProceedForecaster.observe.__doc__
