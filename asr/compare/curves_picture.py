"""Training curves of several systems in one picture, to be read with two systems and with many."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from asr.compare.comparison import Comparison
from asr.compare.curves import Curves, Points, read_curves
from asr.errors import InputError
from asr.pictures import COLOURS, as_png, new_figure
from asr.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# As many lines as there are colours; beyond them systems become types, and types panels.
_MANY = len(COLOURS)
_GREY, _INK = "#BBBBBB", "#333333"


@dataclass(frozen=True)
class _Line:
    """A system, or the mean of a type's. panel: title of its column."""

    label: str
    panel: str
    curves: Curves


def gather_curves(comparison: Comparison) -> tuple[list[Curves], list[str]]:
    """(the curves of every system that has any, under its name in the table; whose are missing)"""
    found, notes = [], []
    for row in comparison.rows:
        try:
            curves = read_curves(Path(row.folder), comparison.metric)
            found.append(replace(curves, name=row.name))
        except InputError as error:
            notes.append(printable(f"{row.name}: no training curves: {error}"))
    return found, notes


def draw_curves(comparison: Comparison, runs: Sequence[Curves]) -> tuple[bytes, list[str]]:
    """(loss and dev WER over the steps as a PNG, what the picture does not say of itself).

    Up to seven systems are a line each. Of more, each type is one, the mean of its seeds where all
    have a value; more than seven types have a column per level of the factors after the first. What
    is left without a colour is grey, and named in the notes.

    Raises:
        InputError: matplotlib is not installed.
    """
    lines = _lines(comparison, runs)
    panels = list(dict.fromkeys(line.panel for line in lines)) or [""]
    labels = list(dict.fromkeys(line.label for line in lines))
    colours = {label: COLOURS[k] if k < _MANY else _GREY for k, label in enumerate(labels)}
    if len(panels) == 1:
        figure = new_figure(11, 4.2)
        grid = figure.subplots(1, 2, sharex=True, squeeze=False).T
    else:
        figure = new_figure(max(8.0, 1.0 + 2.4 * len(panels)), 5.5)
        grid = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False)
    for (loss, wer), title in zip(grid.T, panels, strict=True):
        # grey ones first, so that they lie below
        for line in reversed([line for line in lines if line.panel == title]):
            _draw(loss, wer, line.curves, colours[line.label])
        loss.set_title(title, fontsize=10)
    for quantity, row in zip(("loss", f"dev {comparison.metric.label}, %"), grid, strict=True):
        _label(row, quantity)
    for axes in figure.axes if len(panels) == 1 else grid[-1]:
        axes.set_xlabel("step")
    if not any(run.valid_wer for run in runs):
        grid[1, 0].text(0.5, 0.5, "not validated yet", ha="center", transform=grid[1, 0].transAxes)
    averaged = len(lines) < len(runs)
    _legend(figure, colours, ", mean of the seeds" if averaged else "")
    return as_png(figure), _notes(lines, labels)


def _lines(comparison: Comparison, runs: Sequence[Curves]) -> list[_Line]:
    if len(runs) <= _MANY:
        return [_Line(run.name, "", run) for run in runs]
    types = {one.label: one for one in comparison.types}
    in_types = {name for one in types.values() for name in one.names}
    several = len(types) > _MANY
    lines = []
    for one in types.values():
        own = [run for run in runs if run.name in one.names]
        if own:
            label, panel = (one.first, one.rest) if several else (one.label, "")
            lines.append(_Line(label, panel, _mean(own)))
    panel_of = {row.name: row.rest if several else "" for row in comparison.rows}
    lines += [_Line(run.name, panel_of[run.name], run) for run in runs if run.name not in in_types]
    return lines


def _mean(runs: Sequence[Curves]) -> Curves:
    return Curves(
        name=runs[0].name,
        train_loss=_mean_of([run.train_loss for run in runs]),
        valid_loss=_mean_of([run.valid_loss for run in runs]),
        valid_wer=_mean_of([run.valid_wer for run in runs]),
    )


def _mean_of(series: Sequence[Points]) -> Points:
    """Average at the steps that all have which have any."""
    values = [dict(points) for points in series if points]
    steps = set.intersection(*map(set, values)) if values else set()
    return [(step, statistics.fmean(one[step] for one in values)) for step in sorted(steps)]


def _draw(loss: Axes, wer: Axes, curves: Curves, colour: str) -> None:
    _plot(loss, curves.train_loss, "-", colour, 0.6)
    _plot(loss, curves.valid_loss, "--o", colour)
    _plot(wer, [(step, 100 * value) for step, value in curves.valid_wer], "-o", colour)


def _plot(axes: Axes, points: Points, style: str, colour: str, alpha: float = 1.0) -> None:
    xs, ys = [step for step, _ in points], [value for _, value in points]
    axes.plot(xs, ys, style, color=colour, alpha=alpha, markersize=3, linewidth=1.3)


def _label(row: Sequence[Axes], quantity: str) -> None:
    row[0].set_ylabel(quantity)
    # only now that all is drawn: this fixes the upper end, of all that share the axis
    row[0].set_ylim(0, 1.03 * row[0].get_ylim()[1])
    for axes in row:
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)


def _legend(figure: Figure, colours: dict[str, str], what: str) -> None:
    """Draw the legend below the panels: whose line is whose, then what a line's style means."""
    from matplotlib.lines import Line2D

    entries: list[tuple[str, Line2D]] = [
        (label, Line2D([], [], color=colour))
        for label, colour in colours.items()
        if colour != _GREY
    ]
    num_grey = len(colours) - len(entries)
    if num_grey:
        entries.append((f"{num_grey} more", Line2D([], [], color=_GREY)))
    entries.append((f"training loss{what}", Line2D([], [], color=_INK)))
    entries.append(
        (f"dev loss{what}", Line2D([], [], color=_INK, linestyle="--", marker="o", ms=3))
    )
    longest = max(len(label) for label, _ in entries)
    width = 14 * figure.get_figwidth()  # characters of this size in a line
    figure.legend(
        handles=[handle for _, handle in entries],
        labels=[label for label, _ in entries],
        loc="outside lower center",
        ncols=max(1, min(len(entries), int(width / (longest + 6)))),
        frameon=False,
        fontsize=8,
    )


def _notes(lines: Sequence[_Line], labels: Sequence[str]) -> list[str]:
    grey = ", ".join(labels[_MANY:])
    return [printable(f"curves.png: the grey lines are {grey}")] if grey else []
