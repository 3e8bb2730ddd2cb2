"""For all tests: those that run beside each other (`pytest -n`) take one core each."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
