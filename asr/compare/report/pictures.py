"""Pictures of a comparison as PNG, for pages that are kept: intervals of types, WER by length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asr.compare.comparison import Comparison
from asr.compare.report.figures import (
    difference_rows,
    factor_rows,
    system_rows,
    type_rows,
)
from asr.compare.report.svg import Whisker
from asr.compare.stats.statistics import Interval
from asr.pictures import COLOURS, as_png, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_comparison(comparison: Comparison) -> bytes:
    """WERs with intervals and differences with intervals: of types, else of systems."""
    if comparison.types:
        rates = type_rows(comparison)
        differences = [
            row for factor in comparison.factors for row in factor_rows(comparison, factor.name)
        ]
    else:
        rates, differences = system_rows(comparison), difference_rows(comparison)
    several = len(comparison.set_names) > 1
    where = "" if several else f" on {comparison.set_names[0]}"
    rate = comparison.metric.label
    label = f"mean {rate}{where} over seeds, %" if comparison.types else f"{rate}{where}, %"
    # room for long names beside each panel
    beyond = [max([len(row.label) - 40 for row in rows] + [0]) for rows in (rates, differences)]
    figure = new_figure(11 + 0.14 * max(beyond), 1.2 + 0.27 * max(len(rates), len(differences)))
    panels = figure.subplots(1, 2 if differences else 1, squeeze=False).ravel()
    _whiskers(panels[0], rates, label)
    if differences:
        _whiskers(panels[1], differences, f"difference, points of {rate}")
        panels[1].axvline(0, color="#555555", linewidth=1)
    return as_png(figure)


def draw_lengths(comparison: Comparison) -> bytes:
    """WER with intervals by joined duration, a panel per level of the factors after the first."""
    durations = list(dict.fromkeys(one.label for one in comparison.lengths))
    if comparison.length_types:
        found = [
            (one.rest, one.first, one.set_name, one.wer, one.interval)
            for one in comparison.length_types
        ]
    else:
        rest = {row.name: row.rest for row in comparison.rows}
        found = [
            (rest[one.name], one.name, one.label, one.wer, one.interval)
            for one in comparison.lengths
        ]
    titles = list(dict.fromkeys(panel for panel, *_ in found))
    names = list(dict.fromkeys(name for _, name, *_ in found))
    columns = min(3, len(titles))
    num_rows = -(-len(titles) // columns)
    figure = new_figure(max(6.0, 3.6 * columns), 3.2 * num_rows)
    panels = figure.subplots(num_rows, columns, squeeze=False, sharey=True, sharex=True).ravel()
    shown: dict[str, Any] = {}
    for axes, title in zip(panels, titles, strict=False):
        for number, name in enumerate(names):
            line = [
                (durations.index(duration), wer, interval)
                for panel, other, duration, wer, interval in found
                if (panel, other) == (title, name)
            ]
            if line:
                aside = 0.08 * (number - (len(names) - 1) / 2)
                shown[name] = _line(axes, line, aside, COLOURS[number % len(COLOURS)])
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(durations)), durations)
        axes.set_xlim(-0.5, len(durations) - 0.5)
        axes.grid(alpha=0.25)
    for axes in panels[len(titles) :]:
        axes.remove()
    # Only now: the axis is every panel's, and this would fix its upper end.
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(f"{comparison.metric.label}, %")
    figure.legend(
        handles=list(shown.values()),
        labels=list(shown),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return as_png(figure)


def _line(
    axes: Axes,
    points: Sequence[tuple[int, float, Interval | None]],
    aside: float,
    colour: str,
) -> Any:
    """Draw points with their intervals as a line; return its handle for the legend."""
    values = [100 * wer for _, wer, _ in points]
    ends = [interval or Interval(wer, wer) for _, wer, interval in points]
    below = [value - 100 * one.low for value, one in zip(values, ends, strict=True)]
    above = [100 * one.high - value for value, one in zip(values, ends, strict=True)]
    xs = [x + aside for x, _, _ in points]
    return axes.errorbar(
        xs, values, [below, above], fmt="-o", color=colour, markersize=3, linewidth=1.3
    )


def _whiskers(axes: Axes, rows: Sequence[Whisker], label: str) -> None:
    for y, row in enumerate(rows):
        axes.plot([row.value], [y], "o", color=row.colour, markersize=4)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [y, y], color=row.colour, linewidth=2)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
