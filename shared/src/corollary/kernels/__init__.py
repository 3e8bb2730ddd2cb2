"""Per-token statistics of softmax policies: log-probability, entropy and moments of p.

:func:`token_stats` is the one entry point. It reads the logits once, keeps a few numbers per token for the
backward pass, and has three implementations behind one interface (``torch``, ``compile``, ``triton``).
"""

from corollary.kernels._token_stats import STATISTICS, TokenStats, token_stats

__all__ = ["STATISTICS", "TokenStats", "token_stats"]
