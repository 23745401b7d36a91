"""Texts of others on a line of a terminal: they show what they hold, and steer nothing."""

from __future__ import annotations

import re

# Controls (C0, DEL, C1) move the cursor, paint and begin lines, as the line and paragraph separators
# do; marks, embeddings, overrides and isolates of direction show a line in another order than it is
# written; halves of characters cannot be printed at all.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Spell out what a terminal would obey: ``\x1b``, ``\u202e``; all scripts stay as they are.

    The result is one line, and the same again where it is given once more.
    """
    return _UNSAFE.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
