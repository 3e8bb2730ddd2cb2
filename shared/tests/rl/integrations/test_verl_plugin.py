"""verl finds the plugin by itself in a fresh process, can be told not to, and a broken algorithm shows."""

import json
import os
import subprocess
import sys

import pytest

from corollary.rl import algorithm_names

pytest.importorskip("verl.trainer.ppo.core_algos")

REPORT = """
import json
import verl.trainer.ppo.core_algos as core_algos
ours = [
    sorted(name for name in registry if str(name).startswith("corollary-"))
    for registry in (core_algos.ADV_ESTIMATOR_REGISTRY, core_algos.POLICY_LOSS_REGISTRY)
]
print("registered", json.dumps(ours))
"""


def run(code, **environment):
    """Standard error and the names that verl knows of ours, after the code in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + REPORT],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("registered ")]
    return done.stderr, json.loads(line.removeprefix("registered "))


def test_import_verl_registers_every_installed_algorithm_under_both_hooks():
    messages, (estimators, losses) = run("import verl", VERL_USE_EXTERNAL_PLUGINS="auto")
    assert estimators == losses == sorted(f"corollary-{name}" for name in algorithm_names())
    assert "not registered" not in messages


def test_verl_can_be_told_to_leave_plugins_alone_and_the_module_still_registers_when_asked():
    _, none = run("import verl", VERL_USE_EXTERNAL_PLUGINS="none")
    assert none == [[], []]
    _, (estimators, _) = run("import corollary.rl.integrations.verl", VERL_USE_EXTERNAL_PLUGINS="none")
    assert estimators == sorted(f"corollary-{name}" for name in algorithm_names())


def test_a_broken_algorithm_is_a_warning_and_the_others_are_registered(tmp_path):
    installed = tmp_path / "broken_paper-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-paper\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(
        "[corollary.algorithms]\nbroken = no_such_module:Method\nodd = json:dumps\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    messages, (estimators, losses) = run("import verl", PYTHONPATH=paths)
    assert estimators == losses == sorted(f"corollary-{name}" for name in algorithm_names())
    assert "The algorithm 'broken' cannot be loaded and is not registered with verl" in messages
    assert "No module named 'no_such_module'" in messages
    assert "The algorithm 'odd' cannot be loaded" in messages


def test_a_verl_without_the_hooks_is_a_warning_although_verl_hides_the_error():
    # As if a later verl had moved its configuration: the plugin fails while verl is being imported.
    code = """
import sys, types
sys.modules["verl.workers.config"] = types.ModuleType("verl.workers.config")
import importlib.metadata, logging
logging.basicConfig(level=logging.WARNING)
try:
    import corollary.rl.integrations.verl
except ImportError as error:
    print("error", error)
sys.exit(0)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert "error this module needs verl 0.9" in done.stdout, done.stderr
    assert "Corollary's algorithms are not registered with verl" in done.stderr
