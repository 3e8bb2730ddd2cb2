"""Running a benchmark, from Python: what the command `corollary bench` calls."""

import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from corollary.benchmarks.records import FOLDER, RecordError, page_of, read_record, write_record
from corollary.benchmarks.suite import Content, Selection, Suite
from corollary.papers import Budget
from corollary.reproduce.display import make_display
from corollary.reproduce.tables import workspace_root
from corollary.reproduce.training import Interrupted, OutputError, Training, check_writable, warnings_as_lines
from corollary.reproduce.workers import Workers, one_line, signals_as_interrupts
from corollary.runs import RunStore, describe_machine, usable_cores, write_atomically

DEFAULT_OUT = Path("reproductions") / "benchmarks"


class SelectionError(ValueError):
    """What was asked for does not exist, or its data are damaged; the message is one line."""


class NotRecorded(RuntimeError):
    """Something failed, so the record is as it was; the message says what, in one line."""


def bench(
    suite: Suite[Any],
    selection: Selection | None = None,
    *,
    workers: int | None = None,
    out: Path = DEFAULT_OUT,
    store: RunStore | None = None,
    fresh: bool = False,
    record: bool = False,
    join: bool = False,
    pool: Callable[..., Any] = Workers,
    console: Console | None = None,
) -> Content:
    """Train what is missing, measure, print the tables, and write record, page and plots.

    Runs are trained in worker processes with one torch thread each, so that errors do not depend on how many workers
    there are. A run that fails is named in its table, and the others go on.

    Args:
        suite: What to run.
        selection: How much of it.
        workers: Runs that train at the same time; one per usable core if not given.
        out: Folder of `<suite>.json`, `<suite>.md` and `<suite>/*.png`.
        store: Where complete runs are kept.
        fresh: Train again what the store has.
        record: Write into the `docs/benchmarks` folder of the checkout that the present folder lies in. The page
            there is written by `corollary tables`. Nothing is recorded when a run failed.
        join: Add the rows that the record there lacks of the selection's methods, and keep everything else. Refused
            where another method that runs beside them, as the baseline always does, has not its recorded errors.
            Runs of the store count as well; `fresh` trains them again.
        pool: What runs the jobs, such as `corollary.reproduce.workers.Workers`.
        console: Where the display goes; standard output if not given.

    Returns:
        What was recorded.

    Raises:
        ValueError: Bad number of workers, or no checkout to record in.
        SelectionError: A method, data set or option that does not exist, or a damaged data file; `join` with
            `record`, without methods, with a suite that is only recorded whole, or without a record of the budget.
        OutputError: The files cannot be written.
        StorageError: The run store cannot be written.
        NotRecorded: A run failed, or the methods do not fit into the record, and `record` or `join` was asked for.
        Interrupted: Stopped by Ctrl-C or a signal; all workers have ended.
    """
    selection = selection if selection is not None else Selection()
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    folder = recorded_folder(selection.budget) if record or join else out
    recorded = _joined_record(suite, selection, folder, record=record) if join else None
    console = console if console is not None else Console()
    display = make_display(console)
    training = Training(
        into=store if store is not None else RunStore(),
        fresh=fresh,
        workers=workers if workers is not None else usable_cores(),
        display=display,
        pool=pool,
    )
    with signals_as_interrupts():
        try:
            with warnings_as_lines(display):
                plan = _plan(suite, selection)
                if recorded is not None:
                    _check_join(suite, recorded, plan, selection)
                check_writable(folder)
                display.note(f"{suite.name}: budget {selection.budget}")
                jobs = training.plan(plan.runs)
                with display:
                    outcomes = training.execute(jobs)
                errors = {name: outcome.error for name, outcome in outcomes.items() if outcome.error is not None}
                content: Content = {
                    "suite": suite.name,
                    "budget": selection.budget.value,
                    "date": datetime.now(UTC).isoformat(timespec="seconds"),
                    "machine": describe_machine(),
                    "workers": training.workers,
                    **suite.measure(plan, training.into, training.records, errors),
                }
                suite.show(content, console)
                failures = suite.failures(content)
                if (record or join) and failures:
                    raise NotRecorded(f"nothing is recorded, since a run failed: {failures[0]}")
                if recorded is not None:
                    content = _write_joined(suite, content, selection, folder)
                else:
                    _write(suite, plan, content, training.into, folder, page=not record)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(training.describe_stop(), 128 + getattr(interrupt, "number", 2)) from None
    written = _describe_files(suite, folder, page=not (record or join), plots=not join)
    console.print(written, highlight=False, markup=False, soft_wrap=True)
    return content


def _plan(suite: Suite[Any], selection: Selection) -> Any:
    try:
        suite.check(selection)
        return suite.plan(selection)
    except ValueError as error:
        raise SelectionError(str(error)) from error


def recorded_folder(budget: Budget) -> Path:
    """The folder of records of the checkout that the present folder lies in.

    Raises:
        ValueError: Budget smoke, whose numbers mean nothing, or the present folder is in no checkout.
    """
    if budget is Budget.SMOKE:
        raise ValueError("budget smoke shows that everything is wired up and cannot be recorded")
    return workspace_root(Path.cwd()) / FOLDER


def _write(suite: Suite[Any], plan: Any, content: Content, store: RunStore, folder: Path, *, page: bool) -> None:
    """Plots first: a record never names a plot that is not there."""
    os.environ.setdefault("MPLBACKEND", "Agg")  # no window, and no need for a display
    plots = folder / suite.name
    try:
        plots.mkdir(parents=True, exist_ok=True)
        # Drawn aside and then moved: a plot that fails or is interrupted leaves no half image.
        with tempfile.TemporaryDirectory(dir=plots, prefix=".plots-") as drawing:
            content["plots"] = suite.plot(plan, content, store, Path(drawing))
            for old in plots.glob("*.png"):
                old.unlink()
            for name in content["plots"]:
                os.replace(Path(drawing) / name, plots / name)
        target = folder / f"{suite.name}.json"
        write_record(content, target)
        if page:
            write_atomically(target.with_suffix(".md"), page_of(suite, content, target))
    except OSError as error:
        raise OutputError(f"cannot write to {error.filename or folder}: {one_line(error)}") from error


def _joined_record(suite: Suite[Any], selection: Selection, folder: Path, *, record: bool) -> Content:
    """What methods are to be added to, looked at before anything is trained."""
    if record:
        raise SelectionError("a record is either written anew or joined: give one of --record and --join")
    if not suite.joins:
        raise SelectionError(f"{suite.name} is only recorded whole: --record, not --join")
    if not selection.methods:
        raise SelectionError("--join needs --methods: the methods to add to the record")
    path = folder / f"{suite.name}.json"
    try:
        content = read_record(path, suite=suite.name)
        page_of(suite, content, path)  # a record that gives no page is damaged
    except RecordError as error:
        raise SelectionError(str(error)) from error
    if content.get("budget") != selection.budget.value:
        raise SelectionError(f"the record is of budget {content.get('budget')}, got {selection.budget}")
    return content


def _check_join(suite: Suite[Any], recorded: Content, plan: Any, selection: Selection) -> None:
    try:
        suite.check_join(recorded, plan, selection.methods)
    except ValueError as error:
        raise SelectionError(str(error)) from error


def _write_joined(suite: Suite[Any], content: Content, selection: Selection, folder: Path) -> Content:
    path = folder / f"{suite.name}.json"
    try:
        # Read again: hours may lie between, and another command may have added something.
        joined = suite.join(read_record(path, suite=suite.name), content, selection.methods)
        page_of(suite, joined, path)
    except ValueError as error:
        raise NotRecorded(f"the record stays as it is: {error}") from error
    try:
        write_record(joined, path)
    except OSError as error:
        raise OutputError(f"cannot write to {error.filename or folder}: {one_line(error)}") from error
    return joined


def _describe_files(suite: Suite[Any], folder: Path, *, page: bool, plots: bool) -> str:
    names = f"{suite.name}.json{f', {suite.name}.md' if page else ''}{' and plots' if plots else ''}"
    return f"Written to {folder}{os.sep}: {names}" + ("" if page else "; `corollary tables` writes the page")
