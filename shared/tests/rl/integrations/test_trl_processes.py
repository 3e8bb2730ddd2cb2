"""On two processes the run is the run of one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason='needs the extra "trl"')

from corollary.rl import METRICS

SCRIPT = Path(__file__).with_name("train_on_processes.py")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(folder, processes):
    folder.mkdir()
    command = [sys.executable, str(SCRIPT), str(folder), str(8 // processes)]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    started = []
    for rank in range(processes):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        with (folder / f"log_{rank}.txt").open("w") as log:
            environment = {**os.environ, **own}
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=250) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0] * processes, "".join(path.read_text()[-3000:] for path in folder.glob("log_*.txt"))
    return json.loads((folder / "result.json").read_text()), torch.load(folder / "weights.pt", weights_only=True)


def test_two_processes_train_as_one_does(tmp_path):
    one, weights = run(tmp_path / "one", 1)
    two, others = run(tmp_path / "two", 2)
    start = max(p.abs().max().item() for p in weights.values())
    for name, p in weights.items():
        torch.testing.assert_close(others[name], p, atol=1e-6 * start, rtol=0)
    assert two["coefficient"] == one["coefficient"] != 0.1
    names = {*METRICS, "entropy_bonus/entropy", "entropy_bonus/coefficient", "loss"} - {"grad/norm"}
    compared = 0
    for ours, theirs in zip(two["log"], one["log"], strict=True):
        for name in names & set(ours):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-6), name
            compared += 1
    assert compared > 30
    assert (tmp_path / "two/trainer/checkpoint-6/algorithm_1.pt").exists()
