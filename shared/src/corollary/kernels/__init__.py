"""Per-token statistics of softmax policies: log-probability, entropy and moments of p.

:func:`token_stats` starts from logits: it reads them once, keeps a few numbers per token for the backward pass, and has
three implementations behind one interface (``torch``, ``compile``, ``triton``). :func:`linear_token_stats` starts from
hidden states and the head's weight, and never holds all logits; :func:`model_token_stats` takes both from a
`transformers` model. :func:`merge_partial_stats` puts rows together whose columns are in several places.
"""

from corollary.kernels import _ops as _ops
from corollary.kernels._language_head import (
    HeadNotFoundError,
    LanguageHead,
    language_head,
    lm_head_token_stats,
    model_token_stats,
)
from corollary.kernels._linear import linear_token_stats
from corollary.kernels._partial import (
    PartialStats,
    finish_partial_stats,
    merge_partial_stats,
    partial_token_stats,
)
from corollary.kernels._token_stats import STATISTICS, TokenStats, token_stats

__all__ = [
    "STATISTICS",
    "HeadNotFoundError",
    "LanguageHead",
    "PartialStats",
    "TokenStats",
    "finish_partial_stats",
    "language_head",
    "linear_token_stats",
    "lm_head_token_stats",
    "merge_partial_stats",
    "model_token_stats",
    "partial_token_stats",
    "token_stats",
]
