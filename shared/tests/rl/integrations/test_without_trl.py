"""Without TRL the core works, and the engine says what to install."""

import subprocess
import sys

from corollary.rl import GRPO

HIDDEN = "import sys; sys.modules['trl'] = None; "


def test_a_missing_framework_names_the_extra():
    code = HIDDEN + "import corollary.rl.integrations.trl"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert 'ImportError: this engine needs TRL: pip install "corollary[trl]"' in done.stderr


def test_the_core_does_not_load_it():
    code = HIDDEN + f"import corollary.rl, corollary.rl.integrations; corollary.rl.make_algorithm({'grpo'!r})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    assert GRPO.__module__ == "corollary.rl.algorithm"
