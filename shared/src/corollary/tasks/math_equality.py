"""Whether two LaTeX answers are the same mathematics, by `math-verify`, within limits of time and memory."""

import atexit
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import corollary

WALL_SECONDS = 60.0
"""How long an answer is waited for. The limit that counts is the worker's, of processor time, which does not depend on
how busy the machine is; this one is for systems that have no such limit."""
REMEMBERED = 20_000
"""Comparisons that are not made again: the completions of a group often agree."""


def require_math_verify() -> None:
    """See that `math-verify` is installed.

    Raises:
        ImportError: it is not; the message names the extra.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError('grading mathematics needs math-verify: pip install "corollary[math]"')


class MathEquality:
    """Compares answers in a process of its own, which is started when needed and replaced when it hits a limit.

    Safe to use from several threads, one comparison at a time.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self.given_up = 0
        """Comparisons that hit a limit, and count as unequal."""

    def equal(self, gold: str, answer: str) -> bool:
        r"""Whether ``answer`` equals ``gold``, both LaTeX without dollar signs or ``\boxed``.

        Equality is that of `math_verify.verify` at its defaults, which is not symmetric: numbers to 6 decimals,
        symbolic equality, sets in any order, tuples in theirs, ``x = 5`` as 5. An expression that is not worked out
        (``2 + 2``) equals its value. What cannot be parsed, or takes more than 5 s of processor time or 4 GiB, is not
        equal.

        Raises:
            ImportError: `math-verify` is not installed or cannot be loaded.
        """
        key = gold, answer
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            result = self._ask(json.dumps(key))
            if result is None:
                self.given_up += 1
            self._known[key] = bool(result)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return bool(result)

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._owner == os.getpid():
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _ask(self, question: str) -> bool | None:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(question + "\n")
            process.stdin.flush()
            answer = self._line(process)
        except BrokenPipeError:
            answer = ""
        except BaseException:
            # Interrupted between question and answer: the next answer would be to the wrong question.
            self.close()
            raise
        if not answer.endswith("\n"):
            self.close()
            return None
        return bool(json.loads(answer)["equal"])

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self.close()
        require_math_verify()
        source = str(Path(corollary.__file__).parents[1])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        # Sets of sympy are ordered by hashes; -P keeps the user's folder from standing in for the standard library.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "corollary.tasks._math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        first = self._line(self._process)
        if "ready" not in first:
            self.close()
            reason = json.loads(first)["error"] if first.endswith("\n") else "its process ended"
            raise ImportError(f"math-verify cannot be used ({reason})")
        return self._process

    def _line(self, process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        limit = threading.Timer(WALL_SECONDS, process.kill)
        limit.daemon = True
        limit.start()
        try:
            return process.stdout.readline()
        finally:
            limit.cancel()


EQUALITY = MathEquality()
"""The comparer of this process."""
atexit.register(EQUALITY.close)
