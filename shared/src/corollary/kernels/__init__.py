"""Per-token statistics of softmax policies: log-probability, entropy and moments of p.

:func:`token_stats` starts from logits: it reads them once, keeps a few numbers per token for the backward pass, and has
three implementations behind one interface (``torch``, ``compile``, ``triton``). :func:`linear_token_stats` starts from
hidden states and the head's weight, and never holds all logits.
"""

from corollary.kernels._linear import linear_token_stats
from corollary.kernels._token_stats import STATISTICS, TokenStats, token_stats

__all__ = ["STATISTICS", "TokenStats", "linear_token_stats", "token_stats"]
