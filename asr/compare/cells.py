"""Figures of a comparison as text, and tables of such texts as plain text and as Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from asr import markdown
from asr.columns import in_columns
from asr.compare.comparison import TypeDifference
from asr.compare.stats.statistics import Interval
from asr.decode.score import percent
from asr.printable import printable

NONE = "-"
# Columns of text; all others hold numbers and are aligned to the right.
_TEXT_COLUMNS = frozenset(
    {
        "system",
        "encoder",
        "set",
        "commit",
        "against",
        "what",
        "within",
        "duration",
    }
)


@dataclasses.dataclass(frozen=True)
class Table:
    """``factors``: columns that hold levels, which are aligned to the left."""

    header: list[str]
    rows: list[list[str]]
    factors: Sequence[str] = ("weighting", "position")

    def is_text(self, name: str) -> bool:
        return name in _TEXT_COLUMNS or name in self.factors


def units_text(differences: Sequence[TypeDifference]) -> str:
    """``speakers``, ``utterances``, or both where sets differ."""
    return " or ".join(sorted({f"{one.unit}s" for one in differences}))


def rate_text(wer: float, interval: Interval | None) -> str:
    return f"{percent(wer)} {interval_text(interval)}".rstrip()


def points(difference: float) -> str:
    """A difference of two rates in points of percent."""
    return f"{round(100 * difference, 2) + 0.0:+.2f}"  # never -0.00


def interval_text(interval: Interval | None, scale: float = 100.0) -> str:
    if interval is None:
        return ""
    low, high = (round(scale * end, 2) + 0.0 for end in (interval.low, interval.high))
    return f"[{low:.2f}, {high:.2f}]"  # never -0.00


def p_text(value: float | None) -> str:
    """Three decimals, or that it is below 0.001."""
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def short_count(number: int) -> str:
    """18.3M, 950k, 12"""
    if number >= 999_500:
        return f"{number / 1e6:.1f}M"
    return f"{number / 1e3:.0f}k" if number >= 1000 else str(number)


def as_columns(table: Table) -> str:
    left = [k for k, name in enumerate(table.header) if table.is_text(name)]
    return in_columns([table.header, *table.rows], left)


def markdown_tables(tables: Sequence[tuple[str, Table]]) -> list[str]:
    """Captions and tables as Markdown, one after the other."""
    parts = []
    for caption, table in tables:
        ruler = ["---" if table.is_text(name) else "---:" for name in table.header]
        parts += [markdown.text_line(printable(caption))] if caption else []
        header, *rows = [[printable(cell) for cell in row] for row in (table.header, *table.rows)]
        parts.append(markdown.table(header, ruler, rows))
    return parts


def markdown_lines(text: str) -> str:
    """Lines of plain text as Markdown."""
    return "\n".join(map(markdown.text_line, text.splitlines()))


def markdown_items(texts: Sequence[str]) -> str:
    """A list of plain texts as Markdown."""
    return "\n".join(f"- {markdown.text_line(printable(text))}" for text in texts)
