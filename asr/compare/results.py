"""RESULTS.md: a row per decoded set with what is needed to get it again."""

from __future__ import annotations

from pathlib import Path

from asr.compare.cells import interval_text
from asr.compare.comparison import Comparison, Row
from asr.decode.score import percent
from asr.errors import InputError
from asr.files import read_text
from asr.markdown import cell, code
from asr.markdown import row as table_row
from asr.printable import printable
from asr.wer import METRICS, WER, Metric


def _header(metric: Metric) -> list[str]:
    rate = f"{metric.label} % [95 %]"
    return ["system", "set", rate, metric.units, "search", "seed", "commit", "command"]


def with_results(comparison: Comparison, path: Path) -> tuple[str, int]:
    """(a Markdown table with the comparison's systems added, how many rows are new or changed).

    Rows that are there stay, but for those of the same system, set, seed and commit.

    Args:
        path: of the table as it is; it may be missing.

    Raises:
        InputError: the file cannot be read, or is a table of another error rate.
    """
    metric = comparison.metric
    lines = read_text(path).splitlines() if path.is_file() else _new(metric)
    for other in METRICS.values():
        if other is not metric and table_row(_header(other)) in lines:
            raise InputError(
                f"--results {path}: a table of {other.label}; name another file for {metric.label}"
            )
    before = list(lines)
    changed = 0
    for row in comparison.rows:
        for set_name in row.sets:
            line = _line(row, set_name)
            same = [k for k, old in enumerate(lines) if _key(old) == _key(line)]
            if same:
                lines[same[0]] = line
            else:
                lines.append(line)
            changed += line not in before
    return "\n".join(lines) + "\n", changed


def _new(metric: Metric) -> list[str]:
    ruler = ["---", "---", "---:", "---:", "---", "---:", "---", "---"]
    return ["# Results", "", table_row(_header(metric)), table_row(ruler)]


def _line(row: Row, set_name: str) -> str:
    result, run = row.sets[set_name], row.run
    wer = "-" if result.wer is None else percent(result.wer)
    search = " ".join(str(part) for part in (result.search, result.beam) if part is not None)
    texts = [
        row.name,
        set_name,
        f"{wer} {interval_text(result.interval)}".rstrip(),
        str(result.counts.reference_words),
        search or "-",
        "-" if run.seed is None else str(run.seed),
        run.revision or "-",
    ]
    command = code(printable(run.command or ""), in_table=True)
    return table_row([*(cell(printable(text)) for text in texts), command or "-"])


def _key(line: str) -> tuple[str, ...]:
    """System, set, search, seed and commit of a row; something else's for any other line."""
    cells = [cell.strip() for cell in line.strip("|").split(" | ")]
    return (cells[0], cells[1], *cells[4:7]) if len(cells) == len(_header(WER)) else ()
