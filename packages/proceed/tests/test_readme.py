"""The tables of the README that are typed by hand say what the runs used."""

from pathlib import Path

from corollary.papers import Budget
from corollary_proceed.experiments import SEEDS, etth2_runs, stream_runs, tcn_runs
from corollary_proceed.forecaster import ProceedForecaster
from corollary_proceed.method import ProceedMethod

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


def test_the_trace_is_in_the_glossary():
    assert "`drift_norm`" in README
    assert ProceedForecaster.observe.__doc__
