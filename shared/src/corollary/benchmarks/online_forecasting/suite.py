"""The suite `online-forecasting`: methods on one protocol, over data sets, backbones and horizons."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console
from rich.text import Text

from corollary.benchmarks.method_rows import print_remarks, print_table, remarks
from corollary.benchmarks.online_forecasting import page, rows
from corollary.benchmarks.suite import Content, Selection, Suite
from corollary.runs import RunRecord, RunStore

if TYPE_CHECKING:
    from corollary.benchmarks.online_forecasting.plan import OnlinePlan

CAPTION = (
    "MSE and MAE: standardised scale, mean over seeds (standard deviation). Intervals: over time, not over seeds or "
    "series. Times: median of update and forecast, beside other runs."
)


class OnlineForecasting(Suite["OnlinePlan"]):
    """See `budgets` for what runs, `page` for the protocol. Heavy imports wait until something runs."""

    name: ClassVar[str] = "online-forecasting"
    selects: ClassVar[tuple[str, ...]] = ("data", "backbones", "horizons")
    joins: ClassVar[bool] = True

    def plan(self, selection: Selection) -> "OnlinePlan":
        """Decide what runs."""
        from corollary.benchmarks.online_forecasting.plan import make_plan

        return make_plan(selection)

    def measure(
        self, plan: "OnlinePlan", store: RunStore, records: Mapping[str, RunRecord], errors: Mapping[str, str]
    ) -> Content:
        """Errors, differences and times of every setting."""
        from corollary.benchmarks.online_forecasting.measured import measure

        return measure(plan, store, records, errors)

    def plot(self, plan: "OnlinePlan", content: Content, store: RunStore, folder: Path) -> list[str]:
        """One figure per setting."""
        from corollary.benchmarks.online_forecasting.plots import plot

        return plot(plan, content, store, folder)

    def show(self, content: Content, console: Console) -> None:
        """One table per setting."""
        for setting in content["settings"]:
            console.print()
            seeds = len(setting["seeds"])
            sizes = f"{setting['origins']} origins, {seeds} seed{'s' * (seeds != 1)}, blocks of {setting['block']}"
            console.print(Text.assemble((rows.title(setting), "bold"), (f"  ({sizes})", "dim")))
            print_table(rows.columns(content), rows.rows(setting, content["baseline"]), console)
            print_remarks([f"  {remark}" for remark in remarks(setting["rows"])], console)
        console.print()
        print_remarks([f"{name} not run: {why}" for name, why in content["not_run"].items()], console)
        console.print(Text(CAPTION, style="dim"), soft_wrap=True)

    def page(self, content: Content) -> str:
        """The page of a record."""
        return page.page(content)

    def check_join(self, recorded: Content, plan: "OnlinePlan", methods: Sequence[str]) -> None:
        """See `joining.check`."""
        from corollary.benchmarks.online_forecasting import joining

        joining.check(recorded, plan, methods)

    def join(self, recorded: Content, content: Content, methods: Sequence[str]) -> Content:
        """See `joining.join`."""
        from corollary.benchmarks.online_forecasting import joining

        return joining.join(recorded, content, methods)

    def failures(self, content: Content) -> list[str]:
        """Methods whose runs failed."""
        return [
            f"{row['method']} on {rows.title(setting)}: {row['failed']}"
            for setting in content["settings"]
            for row in setting["rows"]
            if "failed" in row
        ]


SUITE = OnlineForecasting()
