"""Sigmoid attention with ragged lengths and relative positions; usable on its own.

    attend(q, k, v, weighting=Weighting.sigmoid(), position=PositionBias.alibi(slopes),
           mask=Mask(key_lens=lens, query_lens=lens))

`resolve` chooses a backend once, at construction of a model.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .context import attend_context_parallel
    from .dispatch import Resolved, attend, resolve
    from .reference import attention_weights
    from .spec import Mask, PositionBias, Weighting

__version__ = "0.1.0"  # and that of `asr`, which may bring these modules

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
_MODULES = {
    "attend_context_parallel": "context",
    "attention_weights": "reference",
    **dict.fromkeys(("Resolved", "attend", "resolve"), "dispatch"),
    **dict.fromkeys(("Mask", "PositionBias", "Weighting"), "spec"),
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and torch with it; a program that reads `weightings` needs neither."""
    if name in _MODULES:
        value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
