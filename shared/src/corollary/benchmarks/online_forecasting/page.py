"""The page of a record: what was run, what may be concluded, a table and a plot per setting."""

from collections.abc import Mapping
from typing import Any

from corollary.benchmarks.markdown import bullets, cell, header, named, table, where_from
from corollary.benchmarks.method_rows import options, remarks
from corollary.benchmarks.online_forecasting import rows
from corollary.benchmarks.online_forecasting.budgets import PERIODS_PER_BLOCK, STREAM_BLOCK

PROTOCOL = """\
**Protocol.** Every method walks through the test rows once, in order. At time *t* it learns once from the pair of
*t - H*, the freshest one whose label is complete, and then forecasts the next *H* rows from the last *L*; every origin
counts once. The backbone is pre-trained on the first part of the series and the same for all methods of a table and
seed; series are standardised with their training rows. MSE and MAE are means over origins, horizon and variates,
with the standard deviation over seeds in brackets."""

CONCLUSIONS = f"""\
**What the figures say, and what they do not.**

- Compare within a table only. The errors are on the standardised scale of the training rows, which the test rows may
  have drifted far from; levels say nothing across data sets.
- The interval of a difference is a paired block bootstrap over time: blocks of {PERIODS_PER_BLOCK} seasonal periods
  (a week of hourly data) and at least the horizon; {STREAM_BLOCK} rows, the longest regime, for the embedded stream.
  With several seeds these are drawn as well, but few seeds say little about another seed, and one series says nothing
  about other series. Below zero is better than the baseline.
- Options are those that the methods' authors publish for the setting, where there are any, and else defaults. Where
  no rate is published for gradient descent (linear backbones), it is the best of three on the test rows of ETTh2:
  generous to this baseline. No method was tuned for this page.
- `fsnet` and `onenet` bring networks of their own: about 4 and 14 core-minutes a run on these data, whatever the
  backbone, beside seconds for most others. A table says so where its budget leaves them out; `--methods` runs them,
  and `--join` adds them to this page if the other methods that run beside them have their recorded errors. They are
  then in the table and not in the plot.
- Milliseconds per step are medians of update and forecast on one thread, taken while other runs trained on the same
  machine: good for orders of magnitude. [`benchmarks/online.py`](../../benchmarks/README.md) times methods alone.
- The seeds of the embedded stream are different streams; those of the other data differ in initialisation, order of
  mini-batches and dropout. A method that draws nothing gives one figure there, however many seeds."""

PLOTS = """\
In each plot: forecasts of the last variate, *H* steps ahead, around the largest change of its level, first seed; the
squared error summed over time minus that of the baseline, mean over seeds (down is better; methods that learn nothing
may leave the frame); and, for methods that report one, the norm of their drift."""


def page(content: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [
        header(content["suite"]),
        "# Online forecasting: methods side by side",
        where_from(content),
        *[_joined(entry) for entry in content.get("joined", [])],
        PROTOCOL,
        CONCLUSIONS,
        "**Methods.**\n\n" + named(content["methods"], code=True),
        PLOTS,
    ]
    for setting in content["settings"]:
        parts += _section(setting, content)
    if content["not_run"]:
        parts += ["## Not run", named(content["not_run"])]
    return "\n\n".join(parts) + "\n"


def _joined(entry: Mapping[str, Any]) -> str:
    rows_added = "; ".join(f"{', '.join(methods)} in {title}" for title, methods in entry["rows"].items())
    return f"Added later: {rows_added}. {where_from(entry)}"


def _section(setting: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    figures = table(rows.columns(content), rows.rows(setting, content["baseline"]))
    sizes = (
        f"L = {setting['lookback']}, {setting['variates']} variates, {setting['origins']} origins, blocks of "
        f"{setting['block']}."
    )
    parts = [f"## {rows.title(setting)}", sizes, figures]
    if lines := remarks(setting["rows"]):
        parts.append(bullets(lines))
    if chosen := options(setting["rows"]):
        parts.append(f"Options beside the defaults: {cell('; '.join(chosen))}.")
    plot = f"{rows.stem(setting)}.png"
    if plot in content["plots"]:
        parts.append(f"![{rows.title(setting)}]({content['suite']}/{plot})")
    return parts
