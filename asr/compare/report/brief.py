"""A page to keep: what was compared and found as Markdown, with one picture beside it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from asr.compare.cells import markdown_items, markdown_lines, markdown_tables, short_count
from asr.compare.comparison import Comparison
from asr.compare.factors import of_all
from asr.compare.report.pictures import draw_comparison, draw_lengths
from asr.compare.report.verdict import Verdict, length_verdict, verdict
from asr.compare.tables import (
    difference_caption,
    legend_lines,
    length_tables,
    set_lines,
    system_differences,
    systems_table,
    type_legend_lines,
    type_tables,
)
from asr.errors import InputError
from asr.files import Files
from asr.markdown import cell, code, text_line
from asr.printable import printable


def brief_files(comparison: Comparison, path: Path, made_by: str) -> Files:
    """The page and its picture, which has the page's name.

    Args:
        path: ends in ``.md``.
        made_by: the command that the page names.

    Raises:
        InputError: another ending, nothing decoded, or matplotlib is not installed.
    """
    picture = _picture_of(path, "--page")
    if not comparison.set_names:
        raise InputError(f"--page {path}: nothing is decoded yet")
    text = _page(comparison, picture.name, made_by)
    return {path: text, picture: draw_comparison(comparison)}


def length_brief_files(comparison: Comparison, path: Path, made_by: str) -> Files:
    """The same of word error rates by duration."""
    picture = _picture_of(path, "--length-page")
    if not comparison.lengths:
        raise InputError(
            f"--length-page {path}: no set of joined utterances is decoded (asr join --to-s)"
        )
    text = _length_page(comparison, picture.name, made_by)
    return {path: text, picture: draw_lengths(comparison)}


def _picture_of(path: Path, option: str) -> Path:
    if path.suffix != ".md":
        raise InputError(f"{option} {path}: must end in .md; the picture is put beside it as .png")
    return path.with_suffix(".png")


def _page(comparison: Comparison, picture: str, made_by: str) -> str:
    found = verdict(comparison)
    parts = [
        f"# {_title(comparison)}",
        *_opening(comparison, made_by, found, set_lines(comparison)),
        f"![{comparison.metric.long}s and differences with intervals]({quote(picture)})",
    ]
    if comparison.types:
        tables = type_tables(comparison)
    else:
        tables = [("Systems:", systems_table(comparison, repeat=True))]
        if comparison.differences:
            tables.append((difference_caption(comparison), system_differences(comparison)))
    return _joined([*parts, *markdown_tables(tables)], comparison)


def _length_page(comparison: Comparison, picture: str, made_by: str) -> str:
    parts = [
        "# Longer audio",
        *_opening(comparison, made_by, length_verdict(comparison), _length_set_lines(comparison)),
        "Utterances of one speaker are joined to each duration and decoded whole, so the words are "
        "the same at every duration and what changes is the length alone (and the seams).",
        f"![{comparison.metric.long} by joined duration]({quote(picture)})",
    ]
    return _joined([*parts, *markdown_tables(length_tables(comparison))], comparison)


def _length_set_lines(comparison: Comparison) -> str:
    """Say of each duration which set, how large, how normalised and how decoded."""
    lines = []
    for one in {one.label: one for one in comparison.lengths}.values():
        num_words = sum(unit.words for unit in one.units)
        lines.append(
            f"{one.set_name}: {one.num_utterances} utterances of {one.label} on average, {num_words} "
            f"{comparison.metric.units}; normaliser {one.normaliser}; search {one.search}"
        )
    return "\n".join(map(printable, lines))


def _opening(comparison: Comparison, made_by: str, found: Verdict, sets: str) -> list[str]:
    return [
        code(made_by),
        markdown_lines(f"{printable(_what(comparison))}\n{sets}"),
        f"**{cell(printable(found.answer))}**",
        markdown_items(found.reasons),
    ]


def _title(comparison: Comparison) -> str:
    if not comparison.types:
        return "Systems compared"
    text = " and ".join(of_all(factor.name) for factor in comparison.factors)
    return text_line(printable(f"Comparison of {text}"))


def _what(comparison: Comparison) -> str:
    """Say how many systems of which kind and size, from which code."""
    runs = [row.run for row in comparison.rows]
    parts = [f"{len(runs)} system{'s' if len(runs) > 1 else ''}"]
    if comparison.types:
        types = {one.label for one in comparison.types}
        seeds = sorted({len(one.names) for one in comparison.types})
        parts = [f"{len(types)} types, {'/'.join(map(str, seeds))} seeds of each"]
    parts += sorted({run.encoder for run in runs if run.encoder})
    sizes = sorted({run.num_params for run in runs if run.num_params is not None})
    if sizes:
        ends = list(dict.fromkeys(short_count(size) for size in (sizes[0], sizes[-1])))
        parts.append(f"{' to '.join(ends)} parameters")
    commits = sorted({run.revision for run in runs if run.revision})
    if commits:
        parts.append(f"commit {' '.join(commits)}")
    return "; ".join(parts) + "."


def _joined(parts: list[str], comparison: Comparison) -> str:
    legend = type_legend_lines(comparison) if comparison.types else legend_lines(comparison)
    parts.append(markdown_items([*comparison.notes, *legend]))
    return "\n\n".join(parts) + "\n"
