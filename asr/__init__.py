"""End-to-end speech recognition whose attention is a choice of two words."""

import importlib

__version__ = "0.1.0"

_FROM_API = ("SearchOptions", "StreamResult", "TextStream", "Transcriber", "Transcript", "load")


def __getattr__(name: str) -> object:
    """``asr.load`` and its types, imported when first asked for: ``asr --help`` answers at once."""
    if name in _FROM_API:
        return getattr(importlib.import_module("asr.api"), name)
    raise AttributeError(f"module 'asr' has no attribute {name!r}")
