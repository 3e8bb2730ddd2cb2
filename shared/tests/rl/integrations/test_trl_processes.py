"""On two processes the run is the run of one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason='needs the extra "trl"')

from corollary.rl import METRICS

SCRIPT = Path(__file__).with_name("train_on_processes.py")


def run(folder, processes):
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(SCRIPT), str(folder), str(8 // processes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "result.json").read_text()), torch.load(folder / "weights.pt", weights_only=True)


def test_two_processes_train_as_one_does(tmp_path):
    one, weights = run(tmp_path / "one", 1)
    two, others = run(tmp_path / "two", 2)
    start = max(p.abs().max().item() for p in weights.values())
    for name, p in weights.items():
        torch.testing.assert_close(others[name], p, atol=1e-6 * start, rtol=0)
    assert two["coefficient"] == one["coefficient"] != 0.1
    compared = 0
    for ours, theirs in zip(two["log"], one["log"], strict=True):
        for name in ({*METRICS, "entropy_bonus/entropy", "entropy_bonus/coefficient", "loss"} - {"grad/norm"}) & set(
            ours
        ):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-6), name
            compared += 1
    assert compared > 30
    assert (tmp_path / "two/trainer/checkpoint-6/algorithm_1.pt").exists()
