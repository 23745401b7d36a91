"""Tables of plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from asr.printable import printable


def in_columns(rows: Sequence[Sequence[str]], left: Collection[int], rule: bool = True) -> str:
    """Rows in columns that are as wide as their widest cell, a rule under the first row.

    Args:
        rows: the header first; a row may end early, and an empty one is an empty line.
        left: numbers of the columns that start at the left; the others end at the right. Cells show
            what they hold, whoever wrote it.
        rule: none where the last column is prose.
    """
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max(len(row[k]) for row in shown if len(row) > k) for k in range(max(map(len, shown)))
    ]
    lines = []
    for row in shown:
        padded = [
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(padded).rstrip())
    if rule:
        lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)
