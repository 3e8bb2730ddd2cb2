"""The suite `rlvr`: methods of the GRPO family from one warm-started policy, over verifiable tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console
from rich.text import Text

from corollary.benchmarks.method_rows import print_remarks, print_table, remarks
from corollary.benchmarks.rlvr import page, rows
from corollary.benchmarks.suite import Content, Selection, Suite
from corollary.runs import RunRecord, RunStore

if TYPE_CHECKING:
    from corollary.benchmarks.rlvr.plan import RLVRPlan

CAPTION = (
    "Brackets: 95 % Student-t intervals over seeds, all from one starting policy. Entropy: nats. Times: median, beside "
    "other runs."
)


class RLVRSuite(Suite["RLVRPlan"]):
    """See `budgets` for what runs, `page` for the protocol. Heavy imports wait until something runs."""

    name: ClassVar[str] = "rlvr"
    selects: ClassVar[tuple[str, ...]] = ("tasks",)

    def plan(self, selection: Selection) -> "RLVRPlan":
        """Decide what runs."""
        from corollary.benchmarks.rlvr.plan import make_plan

        return make_plan(selection)

    def measure(
        self, plan: "RLVRPlan", store: RunStore, records: Mapping[str, RunRecord], errors: Mapping[str, str]
    ) -> Content:
        """Scores, differences, entropies and times of every task."""
        from corollary.benchmarks.rlvr.measured import measure

        return measure(plan, store, records, errors)

    def plot(self, plan: "RLVRPlan", content: Content, store: RunStore, folder: Path) -> list[str]:
        """One figure per task."""
        from corollary.benchmarks.rlvr.plots import plot

        return plot(plan, content, store, folder)

    def show(self, content: Content, console: Console) -> None:
        """Three tables per task."""
        for task in content["tasks"]:
            console.print()
            about = f"{task['steps']} steps, {rows.seeds(task)}, {task['held_out_prompts']} held-out prompts"
            console.print(Text.assemble((task["task"], "bold"), (f"  ({about})", "dim")))
            for table in rows.tables(task, content["baseline"]):
                if table.rows:
                    console.print()
                    console.print(Text(table.title, style="bold"))
                    print_table(table.head, table.rows, console)
            lines = [*rows.idle(task, content["baseline"]), *remarks(task["rows"])]
            print_remarks([f"  {line}" for line in lines], console)
        console.print()
        console.print(Text(CAPTION, style="dim"), soft_wrap=True)

    def page(self, content: Content) -> str:
        """The page of a record."""
        return page.page(content)

    def failures(self, content: Content) -> list[str]:
        """Methods whose runs failed."""
        return [
            f"{row['method']} on {task['task']}: {row['failed']}"
            for task in content["tasks"]
            for row in task["rows"]
            if "failed" in row
        ]


SUITE = RLVRSuite()
