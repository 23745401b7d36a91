"""The error of audio that cannot be used."""

from __future__ import annotations

from asr.errors import InputError


class AudioError(InputError):
    """A file that cannot be used as audio; ``reason`` is the short category reports count by."""

    def __init__(self, message: str, reason: str = "unreadable audio") -> None:
        super().__init__(message)
        self.reason = reason


def reason_of(error: Exception) -> str:
    """Return what a library says is wrong, on one line."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).rstrip(".")
