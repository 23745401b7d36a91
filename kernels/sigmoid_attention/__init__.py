"""Sigmoid attention with ragged lengths and relative positions; usable on its own.

    attend(q, k, v, weighting=Weighting.sigmoid(), position=PositionBias.alibi(slopes),
           mask=Mask(key_lens=lens, query_lens=lens))

`resolve` chooses a backend once, at construction of a model.
"""

from .context import attend_context_parallel
from .dispatch import Resolved, attend, resolve
from .reference import attention_weights
from .spec import Mask, PositionBias, Weighting

__all__ = [
    "Mask",
    "PositionBias",
    "Resolved",
    "Weighting",
    "attend",
    "attend_context_parallel",
    "attention_weights",
    "resolve",
]
