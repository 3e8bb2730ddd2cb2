"""A run that is killed at any moment goes on to the same files, byte for byte."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Words = Callable[..., list[str]]

DRIVER = '''
import json, os, signal, sys
from pathlib import Path

import torch, transformers, transformers.models.llama.modeling_llama
import corollary.rl.trainer as trainer, corollary.runs.files as files, corollary.training
from corollary.cli import main


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def after(function, count, then=kill):
    """The function, whose call number `count` is followed by the end of the process."""
    calls = 0
    def wrapper(*arguments, **options):
        nonlocal calls
        result = function(*arguments, **options)
        calls += 1
        if calls == count:
            then()
        return result
    return wrapper


def replacing(name, count, before):
    """`os.replace`, in whose call number `count` for a file of this name the process ends."""
    calls = 0
    real = os.replace
    def replace(source, target):
        nonlocal calls
        calls += Path(target).name == name
        last = calls == count and Path(target).name == name
        if last and before:
            kill()
        real(source, target)
        if last:
            kill()
    return replace


def interrupt():
    raise KeyboardInterrupt


def plant(point):
    if point == "rollout":
        trainer.sample_completions = after(trainer.sample_completions, 4)
    elif point == "update":
        torch.optim.AdamW.step = after(torch.optim.AdamW.step, 7)
    elif point == "checkpoint-before":
        files.os.replace = replacing("checkpoint.pt", 2, True)
    elif point == "checkpoint-after":
        files.os.replace = replacing("checkpoint.pt", 2, False)
    elif point == "evaluation":
        files.os.replace = replacing("evaluations.jsonl", 3, True)
    elif point == "model":
        Path.rename = after(Path.rename, 1)
    elif point == "ctrl-c":
        trainer.sample_completions = after(trainer.sample_completions, 4, interrupt)


def child(words, point, log):
    """Run the command in a process of its own, forked so that the imports are paid once; returns how it ended."""
    process = os.fork()
    if not process:
        sys.stdout = sys.stderr = open(log, "w")
        plant(point)
        status = main(words)
        sys.stdout.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


log = {}
for point, words in json.loads(sys.argv[1]).items():
    log[point] = [child(words, point, f"{point}-1.txt"), child(words, None, f"{point}-2.txt")]
print(json.dumps(log))
'''

POINTS = ["rollout", "update", "checkpoint-before", "checkpoint-after", "evaluation", "model", "ctrl-c"]
COMPARED = ("metrics.jsonl", "evaluations.jsonl", "result.json")


@pytest.mark.timeout(900)  # sixteen processes: 20 s of processor time, more where others want it too
@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forks a process that has loaded torch")
def test_a_killed_run_goes_on_to_the_same_files(work: Path, words: Words) -> None:
    runs = {point: words(out=point, eval_every="2") for point in ["never", *POINTS]}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRIVER, json.dumps(runs)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout.splitlines()[-1])
    assert ends.pop("never") == [0, 0], (work / "never-1.txt").read_text()
    assert ends.pop("ctrl-c") == [130, 0], (work / "ctrl-c-1.txt").read_text()
    assert ends == {point: [-9, 0] for point in POINTS if point != "ctrl-c"}, done.stderr

    expected = {name: (work / "never" / name).read_bytes() for name in COMPARED}
    assert expected["metrics.jsonl"].count(b"\n") == 6
    for point in POINTS:
        assert {name: (work / point / name).read_bytes() for name in COMPARED} == expected, point
        assert not list((work / point).glob(".*.tmp"))
        assert sorted(path.name for path in (work / point).iterdir()) == sorted(
            path.name for path in (work / "never").iterdir()
        )
        weights = (work / "never/model/model.safetensors").read_bytes()
        assert (work / point / "model/model.safetensors").read_bytes() == weights

    # Each was stopped where it should be: after these steps it went on, those before the second checkpoint lost.
    resumed = {point: (work / f"{point}-2.txt").read_text() for point in POINTS}
    for point, step in {"rollout": 2, "update": 2, "checkpoint-before": 2, "checkpoint-after": 4, "ctrl-c": 2}.items():
        assert f"going on after step {step}, from" in resumed[point], point
    said = (work / "ctrl-c-1.txt").read_text().splitlines()[-1]
    assert said == "corollary: stopped after step 3; the same command goes on from the checkpoint at step 2"
