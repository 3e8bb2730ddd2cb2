"""The command as a process: signals, what survives them, and what it imports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from corollary.cli import main

COMMAND = [sys.executable, "-c", "import sys; from corollary.cli import main; sys.exit(main())"]
WORDS = ["reproduce", "toy-paper", "--claim", "C3", "--workers", "2"]
PATIENCE_S = 60
STEP_S = 1.0
STOP_S = 40.0
"""Only a worker that hangs takes longer to end, however busy the machine is."""


def with_toy(source: Path) -> dict[str, str]:
    """The environment of a process that finds the toy paper."""
    path = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


class Command:
    """A started `corollary` in a process group of its own, as a terminal gives it."""

    def __init__(self, toy: Path, source: Path, *words: str, step_s: float) -> None:
        self.work = toy
        self.store = toy.parent / "runs"
        environment = {**with_toy(source), "TOY_STEP_S": str(step_s)}
        self.process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=toy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell that starts the tests in the background has SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait_for_steps(self, runs: int = 2, steps: int = 1) -> list[int]:
        """Wait until this many runs are some steps on; return the process ids of their workers."""
        limit = time.monotonic() + PATIENCE_S
        while time.monotonic() < limit:
            begun = [json.loads(file.read_text()) for file in self.store.glob("toy-count-*/checkpoint.json")]
            if len([history for history in begun if len(history) > steps]) >= runs:
                files = self.store.glob("toy-count-*/attempts")
                return [int(file.read_text().split()[-1]) for file in files]
            time.sleep(0.05)
        raise AssertionError(f"no progress: {self.process.communicate(timeout=1)}")

    def end(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, error


@pytest.fixture
def start(toy: Path, toy_source: Path) -> Generator[object, None, None]:
    started: list[Command] = []

    def start_command(*words: str, step_s: float = 0.0) -> Command:
        started.append(Command(toy, toy_source, *words, step_s=step_s))
        return started[-1]

    yield start_command
    for command in started:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(processes: list[int], limit_s: float) -> None:
    limit = time.monotonic() + limit_s
    while any(is_alive(process) for process in processes):
        assert time.monotonic() < limit, "a worker outlives its parent"
        time.sleep(0.05)


def histories(store: Path) -> dict[str, str]:
    return {file.parent.name: file.read_text() for file in sorted(store.glob("toy-count-*/history.json"))}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("number", "status", "whole_group"),
    [
        (signal.SIGINT, 130, True),  # as Ctrl-C at a terminal: workers get it as well
        (signal.SIGTERM, 143, False),
        (signal.SIGKILL, -9, False),
    ],
    ids=["ctrl-c", "terminated", "killed"],
)
def test_stopped_command_leaves_nothing_and_resumes(
    start: object, toy: Path, number: signal.Signals, status: int, whole_group: bool
) -> None:
    assert callable(start)
    command: Command = start(*WORDS, step_s=STEP_S)
    workers = command.wait_for_steps()
    begun = [file.parent for file in command.store.glob("toy-count-*/checkpoint.json")]
    for folder in begun:  # as a process leaves it that is killed while it writes
        (folder / ".checkpoint.json.1-a.tmp").touch()
    if whole_group:
        os.killpg(command.process.pid, number)
    else:
        command.process.send_signal(number)
    code, _, error = command.end()
    assert code == status
    if number is not signal.SIGKILL:
        assert error.startswith("corollary: stopped; ")
        assert "of 6 runs are done and kept, and the same command goes on where this one stopped" in error
        assert error.count("\n") == 1
        assert not any(is_alive(worker) for worker in workers)
        assert not list(command.store.rglob(".*.tmp"))
    wait_until_gone(workers, STOP_S)
    reached = {
        file.parent.name: len(json.loads(file.read_text()))
        for file in command.store.glob("toy-count-*/checkpoint.json")
    }

    # The same command in this process: stale locks do not block it, and it goes on from the checkpoints.
    assert main(WORDS) == 0
    resumed = histories(command.store)
    assert len(resumed) == 4
    for name in reached:
        assert len((command.store / name / "attempts").read_text().split()) == 2
    assert not list(command.store.rglob(".*.tmp"))

    # An uninterrupted run gives the same numbers. These are its four runs, computed by hand.
    for name, text in resumed.items():
        config = json.loads((command.store / name / "done.json").read_text())
        history = [config["seed"] + 1]
        for _ in range(config["config"]["steps"]):
            history.append((history[-1] * 31 + config["config"]["gain"]) % 1009)
        assert json.loads(text) == history


def test_light_commands_import_no_torch_and_no_transformers(toy: Path, toy_source: Path) -> None:
    code = """
import sys, corollary
def heavy(*names):
    return sorted(set(names) & set(sys.modules))
assert not heavy("torch", "transformers", "rich", "scipy"), "import corollary"
from corollary.cli import main
assert main(["--version"]) == 0
assert main(["cite", "toy-paper"]) == 0
try:
    main(["reproduce", "--help"])
except SystemExit:
    pass
assert not heavy("torch", "transformers", "scipy"), "help and cite"
main(["list"])  # imports all papers, and with them perhaps torch
assert not heavy("transformers"), "list"
"""
    environment = with_toy(toy_source)
    ended = subprocess.run([sys.executable, "-c", code], env=environment, cwd=toy, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_terminal_without_unicode_is_served(toy: Path, toy_source: Path) -> None:
    environment = {**with_toy(toy_source), "PYTHONIOENCODING": "ascii"}
    words = ["reproduce", "toy-paper", "--claim", "C1"]
    ended = subprocess.run([*COMMAND, *words], env=environment, cwd=toy, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "5.55e-17 (? 1e-12)  largest error" in ended.stdout


def test_reader_that_goes_away_is_no_error(toy: Path, toy_source: Path) -> None:
    environment = with_toy(toy_source)
    with subprocess.Popen(
        [*COMMAND, "cite", "toy-paper"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
