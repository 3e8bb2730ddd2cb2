import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from corollary.papers import Budget, Gate, Level, Verdict
from corollary.reproduce import ClaimResult
from corollary.reproduce.display import LiveDisplay, PlainDisplay, make_display
from corollary.reproduce.summary import print_summary, wide_enough
from corollary.runs import Progress

VALUES = [0.41234, 0.43, 0.39, 0.44, 0.38]
GATE = Gate("gain", "gain [bold]", above=0.05, unit="nats")
CLAIM = ClaimResult(
    paper="toy",
    claim="C12",
    statement="A statement that is long enough to wrap in every table, however wide the reader's window may be [1].",
    source="Table 1",
    reference="+2.81 points on AIME24",
    level=Level.SCALED,
    budget=Budget.QUICK,
    verdict=Verdict.REPRODUCED,
    seeds=(0, 1, 2, 3, 4),
    findings=(GATE.evaluate(VALUES, Level.SCALED), Gate("n", "count").evaluate([12345.0] * 5, Level.SCALED)),
    seconds=123.4,
)
EXACT = replace(
    CLAIM,
    claim="C1",
    level=Level.EXACT,
    seeds=(0,),
    findings=(Gate("e", "largest error", below=1e-8).evaluate([3e-12], Level.EXACT),),
)
WAITING = replace(CLAIM, claim="C5", level=Level.PAPER, verdict=Verdict.NOT_RUN, findings=(), needs="8 GPUs")
BROKEN = replace(CLAIM, claim="C6", verdict=Verdict.NOT_RUN, findings=(), error="grpo, seed 3: ValueError: [x] is 3")


def summary(width: int, *results: ClaimResult) -> str:
    stream = io.StringIO()
    print_summary(results, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tables_show_every_number_whole(width: int) -> None:
    text = summary(width, EXACT, CLAIM, BROKEN, WAITING)
    for number in ("0.410 [0.379, 0.442] nats", "12345 [12345, 12345]", "3e-12", "123"):
        assert number in text
    assert width < 100 or ("≤ 1e-8" in text and "> 0.05" in text)
    assert "…" not in text
    assert "4 claims: 2 reproduced, 2 not run" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= max(width, 100)


def test_each_level_has_a_table_that_says_budget_and_seeds() -> None:
    text = summary(100, EXACT, CLAIM, WAITING)
    titles = ["exact claims, budget quick", "scaled claims, budget quick, 5 seeds: 0, 1, 2, 3, 4", "paper-scale claims"]
    assert [line for line in text.splitlines() if "claims, budget" in line] == [
        titles[0],
        titles[1],
        f"{titles[2]}, budget quick, 5 seeds: 0, 1, 2, 3, 4",
    ]
    assert text.count("ours [95 % CI]") == 2
    assert text.count("ours (worst case)") == 1
    assert "needs 8 GPUs" in text


def test_few_seeds_are_said_to_be_the_reason() -> None:
    text = summary(100, replace(CLAIM, verdict=Verdict.NO_VERDICT))
    assert "No verdict on C12: budget quick has too few seeds for one; --budget full decides." in text


def test_a_claim_that_only_reports_is_not_said_to_lack_seeds():
    reported = replace(CLAIM, verdict=Verdict.NO_VERDICT, findings=CLAIM.findings[1:])
    assert "No verdict on" not in summary(100, reported)


def test_pipe_gets_a_wide_table() -> None:
    assert wide_enough(Console(file=io.StringIO(), width=40)).width == 120
    assert wide_enough(Console(file=io.StringIO(), width=40, force_terminal=True)).width == 40


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A monotonic clock of the display that the test moves by hand."""
    now = [0.0]
    monkeypatch.setattr("corollary.reproduce.display.time.monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_plain_display_says_little(clock: Callable[[float], None]) -> None:
    stream = io.StringIO()
    with make_display(Console(file=stream, width=100)) as display:
        assert isinstance(display, PlainDisplay)
        display.started("grpo, seed 0")
        for _ in range(100):
            display.tick({"grpo, seed 0": Progress(done=1, total=2)}, 1, 4, 0.375, 100.0)
            clock(0.31)
        display.ended("grpo, seed 0", 3.2, None)
        display.ended("grpo, seed 1", None, "ValueError: [x]")
        display.claim(CLAIM)
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["  start  grpo, seed 0", "  1 of 4 runs done, 38% of the work, about 1 min 40 s left"]
    assert len([line for line in lines if "of the work" in line]) == 2
    assert lines[-3:-1] == ["  done   grpo, seed 0  (3.2 s)", "  failed grpo, seed 1: ValueError: [x]"]
    assert lines[-1] == (
        "  + C12   reproduced       123 s  0.410 [0.379, 0.442] nats (> 0.05)  gain [bold], and 1 more"
    )


def frames(text: str) -> Iterator[str]:
    yield from re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")


def test_live_display_has_a_bar_per_run_and_leaves_only_results() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, height=30, force_terminal=True, legacy_windows=False)
    with make_display(console) as display:
        assert isinstance(display, LiveDisplay)
        display.started("grpo, seed 0")
        display.tick(
            {"grpo, seed 0": Progress(done=3, total=12, note="reward [0.3]"), "clip, seed 1": None}, 1, 4, 0.3, 65.0
        )
        display._live.refresh()
        display.ended("grpo, seed 0", 3.0, None)
        display.ended("clip, seed 1", None, "ValueError: [x]")
        display.claim(CLAIM)
    lines = list(frames(stream.getvalue()))
    assert any(re.search(r"grpo, seed 0 .*━.* 3/12 reward \[0\.3\]", line) for line in lines)
    assert any(re.search(r"clip, seed 1 .*starting", line) for line in lines)
    assert any(re.search(r"all runs .*━.* 1/4 about 1 min 05 s left", line) for line in lines)
    assert any("failed clip, seed 1: ValueError: [x]" in line for line in lines)
    assert any("C12   reproduced" in line for line in lines)
