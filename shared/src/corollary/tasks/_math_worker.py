"""The process in which `corollary.tasks.math_equality` compares expressions: one JSON line in, one out.

Symbolic mathematics on what a model writes can take any time and memory, inside C code that no exception reaches. Here
it may: the operating system ends this process at its limits, and only this process.
"""

import json
import logging
import os
import random
import signal
import sys

CPU_SECONDS = 5.0
"""Processor time of one comparison."""
MEMORY_BYTES = 4 << 30
"""Address space of the process."""


def main() -> None:
    """Compare until the input ends."""
    # Ctrl-C is for the parent, whose end closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    try:
        from math_verify import LatexExtractionConfig, parse, verify
        from sympy.core.random import seed
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        return
    _limit_memory()
    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(expression: str) -> list:
        # Without their alarms, which work in a main thread only and do not reach C code: the timer below does.
        return parse(f"\\boxed{{{expression}}}", config, parsing_timeout=None)  # ty: ignore[invalid-argument-type]

    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        # sympy decides some equalities at random points: the same ones each time.
        seed(0)
        random.seed(0)
        _start_timer(CPU_SECONDS)
        try:
            equal = bool(verify(read(gold), read(answer), timeout_seconds=None))
        except Exception:  # also RecursionError and MemoryError: what cannot be compared is not equal
            equal = False
        _start_timer(0)
        print(json.dumps({"equal": equal}), file=answers, flush=True)


def _start_timer(seconds: float) -> None:
    """End the process after this much processor time, in C code too; 0 switches the timer off."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except (ImportError, ValueError, OSError):
        pass  # a system without such limits, or with a lower one


if __name__ == "__main__":
    main()
