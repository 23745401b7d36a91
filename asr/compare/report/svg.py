"""Small pictures as SVG text: they scale to a phone and take the page's colours, dark or light."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 400
_FONT = 11


@dataclass(frozen=True)
class Whisker:
    """A point with its interval, in the axis' unit; None where there is no interval."""

    label: str
    value: float
    low: float | None
    high: float | None
    colour: str


@dataclass(frozen=True)
class Line:
    """(x, y) points in order; label None leaves it out of the legend.

    Attributes:
        intervals: (low, high) of each point, or nothing.
    """

    label: str | None
    points: list[tuple[float, float]]
    colour: str
    dashed: bool = False
    markers: bool = False
    intervals: list[tuple[float, float] | None] = field(default_factory=list)

    @property
    def highest(self) -> float:
        return max([y for _, y in self.points] + [ends[1] for ends in self.intervals if ends])


def whiskers(rows: Sequence[Whisker], unit: str, zero: bool) -> str:
    """A line per row: label left, or above where one is long. zero: the line of no difference."""
    width = 8 + max(len(row.label) for row in rows) * _FONT * 0.58
    above = width > 150
    left = 4.0 if above else width
    pitch = 36 if above else 20
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    scale = _Scale.around([*ends, 0.0] if zero else ends, left + 6, WIDTH - 10)
    height = pitch * len(rows) + 40
    parts = [_grid_x(scale, 6, height - 32), _text(WIDTH / 2, height - 4, unit, "middle")]
    if zero:
        parts.append(_line(scale(0), 6, scale(0), height - 32, "axis"))
    for k, row in enumerate(rows):
        y = 18 + pitch * k + (16 if above else 0)
        where = (left, y - 12, row.label, "start") if above else (left, y + 4, row.label, "end")
        parts.append(_text(*where))
        if row.low is not None and row.high is not None:
            parts.append(
                f'<line x1="{scale(row.low):.1f}" y1="{y}" x2="{scale(row.high):.1f}" y2="{y}" '
                f'stroke="{row.colour}" stroke-width="2.5" stroke-linecap="round"/>'
            )
        parts.append(f'<circle cx="{scale(row.value):.1f}" cy="{y}" r="4" fill="{row.colour}"/>')
    return _svg(height, parts, f"{unit} of {len(rows)} rows")


def lines(
    series: Sequence[Line],
    x_label: str,
    y_label: str,
    x_ticks: Sequence[str] | None = None,
    top_value: float = 0.0,
) -> str:
    """Lines over a common axis that starts at 0.

    Args:
        x_ticks: names of x = 0, 1, 2, …
        top_value: what the axis reaches at least, so that several pictures have the same.
    """
    points = [point for line in series for point in line.points]
    height, left, bottom = 240, 44, 40
    legend = [line for line in series if line.label is not None]
    rows = math.ceil(len(legend) / 2)
    top = 8 + 15 * rows
    height += 15 * rows
    if x_ticks is None:
        x_scale = _Scale.around([x for x, _ in points], left + 8, WIDTH - 14)
    else:
        x_scale = _Scale([-0.5, len(x_ticks) - 0.5], left, WIDTH - 6)
    highest = max(top_value, *(line.highest for line in series))
    y_scale = _Scale.around([0.0, highest], height - bottom, top + 8)
    parts = [_grid_y(y_scale, left, WIDTH - 6)]
    if x_ticks is None:
        parts.append(_grid_x(x_scale, top, height - bottom, lines=False))
    else:
        for k, name in enumerate(x_ticks):
            parts.append(_text(x_scale(k), height - bottom + 14, name, "middle"))
    parts.append(_text((left + WIDTH) / 2, height - 6, x_label, "middle"))
    middle = (top + height - bottom) / 2
    parts.append(
        f'<text x="12" y="{middle:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {middle:.0f})">{html.escape(y_label)}</text>'
    )
    for number, line in enumerate(series):
        # Intervals of several lines stand side by side.
        aside = 5 * (number - (len(series) - 1) / 2) if any(one.intervals for one in series) else 0
        spots = [(x_scale(x) + aside, y_scale(y)) for x, y in line.points]
        parts += _drawn(line, spots, y_scale)
    for k, line in enumerate(legend):
        x, y = 8 + (k % 2) * WIDTH / 2, 12 + 15 * (k // 2)
        parts.append(f'<rect x="{x}" y="{y - 8}" width="10" height="8" fill="{line.colour}"/>')
        parts.append(_text(x + 15, y, line.label or "", "start"))
    return _svg(height, parts, f"{y_label} over {x_label}")


def _drawn(line: Line, spots: Sequence[tuple[float, float]], y_scale: _Scale) -> list[str]:
    """A line, its points and their intervals; spots: where its points are, in pixels."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dash = ' stroke-dasharray="4 3"' if line.dashed else ""
    style = f'stroke="{line.colour}" stroke-width="1.6"{dash}'
    parts = [f'<polyline points="{path}" fill="none" {style}/>']
    if line.markers:
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in spots
        ]
    if line.intervals:
        parts += [
            f'<line x1="{x:.1f}" y1="{y_scale(ends[0]):.1f}" x2="{x:.1f}" '
            f'y2="{y_scale(ends[1]):.1f}" stroke="{line.colour}" stroke-width="1.6"/>'
            for (x, _), ends in zip(spots, line.intervals, strict=True)
            if ends is not None
        ]
    return parts


def scatter(rows: Sequence[Whisker], xs: Sequence[float], x_label: str, y_label: str) -> str:
    """A named point per row; names stand in a column at the right, so that none covers another."""
    pitch, left, top, bottom = 13, 44, 26, 40
    height = max(270, top + bottom + pitch * len(rows))
    column = WIDTH - 4 - max(len(row.label) for row in rows) * _FONT * 0.58
    x_scale = _Scale.around([0.0, *xs], left + 8, column - 22)
    y_scale = _Scale.around([0.0, *(row.value for row in rows)], height - bottom, top)
    parts = [_grid_y(y_scale, left, column - 18), _grid_x(x_scale, top, height - bottom)]
    parts.append(_text((left + column) / 2, height - 6, x_label, "middle"))
    parts.append(_text(4, 10, y_label, "start"))
    points = sorted(
        ((x_scale(x), y_scale(row.value), row) for row, x in zip(rows, xs, strict=True)),
        key=lambda point: point[1],
    )
    heights = spread_out([y for _, y, _ in points], pitch, top, height - bottom)
    for (cx, cy, row), y in zip(points, heights, strict=True):
        parts.append(_line(cx, cy, column - 4, y, "leader"))
        parts.append(_text(column, y + 4, row.label, "start"))
    for cx, cy, row in points:
        parts.append(
            f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4" fill="{row.colour}" opacity="0.8"/>'
        )
    return _svg(height, parts, f"{y_label} against {x_label}")


def spread_out(values: Sequence[float], pitch: float, low: float, high: float) -> list[float]:
    """Ascending values moved as little as needed to be ``pitch`` apart and within [low, high]."""
    # Neighbours that are too close become one group, which stands where its mean is.
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _middle(groups[-1]) - _middle(groups[-2]) < pitch * (
            (len(groups[-1]) + len(groups[-2])) / 2
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    found = [
        _middle(group) + pitch * (k - (len(group) - 1) / 2)
        for group in groups
        for k in range(len(group))
    ]
    for k in range(len(found)):
        found[k] = max(found[k], low if k == 0 else found[k - 1] + pitch)
    for k in reversed(range(len(found))):
        found[k] = min(found[k], high if k == len(found) - 1 else found[k + 1] - pitch)
    return found


def _middle(group: Sequence[float]) -> float:
    return sum(group) / len(group)


class _Scale:
    """Data to pixels, linear, over round ticks."""

    def __init__(self, ticks: list[float], start: float, end: float):
        self.ticks = ticks
        self._low, self._high = ticks[0], ticks[-1]
        self._start, self._end = start, end

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        low, high = min(values), max(values)
        if low == high:
            low, high = low - 0.5, high + 0.5
        rough = (high - low) / 4
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls([k * step for k in range(first, last + 1)], start, end)

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def _grid_x(scale: _Scale, top: float, bottom: float, lines: bool = True) -> str:
    parts = []
    for tick in scale.ticks:
        if lines:
            parts.append(_line(scale(tick), top, scale(tick), bottom, "grid"))
        parts.append(_text(scale(tick), bottom + 14, f"{tick:g}", "middle"))
    return "".join(parts)


def _grid_y(scale: _Scale, left: float, right: float) -> str:
    return "".join(
        _line(left, scale(tick), right, scale(tick), "grid")
        + _text(left - 4, scale(tick) + 4, f"{tick:g}", "end")
        for tick in scale.ticks
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{html.escape(title)}" '
        f'font-size="{_FONT}">{"".join(parts)}</svg>'
    )
