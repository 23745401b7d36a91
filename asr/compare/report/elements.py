"""What the page is made of: numbers that say where they stand in compare.json, tables, figures."""

from __future__ import annotations

import html
from collections.abc import Sequence

from asr.compare.cells import p_text, points
from asr.compare.comparison import Comparison, Difference, TypeDifference
from asr.compare.report import figures
from asr.compare.stats.statistics import Interval
from asr.decode.score import percent


def number(path: str, kind: str, text: str) -> str:
    """A figure of compare.json: where it stands there, and how it is shown (percent, points, …)."""
    return f'<span data-json="{escaped(path)}" data-as="{kind}">{escaped(text)}</span>'


def interval_cell(path: str, interval: Interval | None, signed: bool = False) -> str:
    if interval is None:
        return "-"
    show = points if signed else percent
    kind = "points" if signed else "percent"
    low = number(f"{path}.low", kind, show(interval.low))
    return f"[{low}, {number(f'{path}.high', kind, show(interval.high))}]"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_text: int) -> str:
    """The first ``num_text`` columns hold text; cells are HTML."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(
            f"<{tag}{' class=text' if k < num_text else ''}>{cell}</{tag}>"
            for k, cell in enumerate(cells)
        )

    head = line("th", [escaped(name) for name in header])
    return (
        f'<div class="scroll"><table>{head}{"".join(line("td", row) for row in rows)}</table></div>'
    )


def html_figure(picture: str, caption: str) -> str:
    return (
        f"<figure>{picture}<figcaption>{escaped(caption)}</figcaption></figure>" if picture else ""
    )


def html_panels(panels: Sequence[figures.Panel], caption: str) -> str:
    """Pictures side by side where there is room."""
    cells = "".join(
        (f'<div><p class="small">{escaped(title)}</p>{picture}</div>' if title else picture)
        for title, picture in panels
    )
    if len(panels) > 1:
        cells = f'<div class="panels">{cells}</div>'
    return html_figure(cells, caption)


def level_head(comparison: Comparison) -> str:
    return f"[{100 * comparison.level:g} %]"


def or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def escaped(text: str) -> str:
    return html.escape(text, quote=True)


def tested_cells(path: str, one: Difference | TypeDifference) -> list[str]:
    """Difference, interval, p and Holm's p."""
    return [
        number(f"{path}.difference", "points", points(one.difference)),
        interval_cell(f"{path}.interval", one.interval, signed=True),
        number(f"{path}.p_value", "p", p_text(one.p_value)),
        number(f"{path}.p_holm", "p", p_text(one.p_holm)),
    ]
