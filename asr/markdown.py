"""Texts of others inside Markdown: they show as they are, and are nothing but text.

The rules are CommonMark's and those of GitHub's tables. What could begin or end HTML, a link, code,
emphasis or a cell is escaped. Lone brackets and dots are left, so that a page reads well as it is.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

# A bracket only where it could close a link; an underscore inside a word is no emphasis.
_INLINE = re.compile(r"[\\`*|~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
# What begins a list, a heading, a rule or the definition of a link, at the start of a line.
_OPENING = re.compile(r"[-+#=>\[]|(?<=\d)[.)](?=\s|$)")
# Where a tag or an entity could begin; ``p <0.001`` stays.
_HTML = re.compile(r"<(?=[A-Za-z/!?]|$)|&(?=[A-Za-z#]|$)")
# They let a text be shown in another order than it is written.
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(text: str) -> str:
    """The text with a space for each run of white space, control characters and line ends."""
    shown = (
        " " if unicodedata.category(c) in ("Cc", "Cs") or c in _DIRECTIONS else c for c in text
    )
    return " ".join("".join(shown).split())


def cell(text: str) -> str:
    """A text as a table's cell, or within a line."""
    escaped = _INLINE.sub(r"\\\g<0>", one_line(text))
    return _HTML.sub(lambda found: html.escape(found[0]), escaped)


def text_line(text: str) -> str:
    """A text as a line, an item of a list or a heading."""
    escaped = cell(text)
    digits = len(escaped) - len(escaped.lstrip("0123456789"))
    if _OPENING.match(escaped, digits if digits < 10 else 0):
        return f"{escaped[:digits]}\\{escaped[digits:]}"
    return escaped


def code(text: str, in_table: bool = False) -> str:
    """A text as code, whatever backticks it holds; empty stays empty."""
    line = one_line(text)
    if not line:
        return ""
    if in_table:
        line = line.replace("|", "\\|")
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(lines: Sequence[str]) -> str:
    """Lines of code as a block."""
    shown = [one_line(line) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence, *shown, fence])


def row(cells: Sequence[str]) -> str:
    """A line of a table, of cells that are escaped already."""
    return f"| {' | '.join(cells)} |"


def table(header: Sequence[str], ruler: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts.

    Args:
        ruler: a cell for each column, ``---`` or ``---:`` for one of numbers.
    """
    lines = [[cell(text) for text in line] for line in (header, *rows)]
    return "\n".join(row(line) for line in (lines[0], ruler, *lines[1:]))
