"""End-to-end speech recognition whose attention is a choice of two words."""

__version__ = "0.1.0"
