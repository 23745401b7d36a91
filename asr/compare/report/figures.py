"""The report's pictures, each from the comparison; an empty text where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from asr.compare.comparison import Comparison
from asr.compare.contrasts import from_best, widest
from asr.compare.factors import WEIGHTING
from asr.compare.report.gather import Contents
from asr.compare.report.svg import Line, Whisker, lines, scatter, whiskers
from asr.compare.stats.statistics import Interval
from asr.pictures import COLOURS

Panel = tuple[str, str]
"""(title, picture)"""

# Beyond so many systems colours mean levels of the first factor, and only types are named.
_MANY = 7


@dataclass(frozen=True)
class _Member:
    """Systems that one line stands for, a type's or just one; ``short`` in its own ``panel``."""

    label: str
    short: str
    panel: str
    names: list[str]
    colour: str


def systems(comparison: Comparison) -> str:
    rows = system_rows(comparison)
    return whiskers(rows, f"{comparison.metric.label}, %", zero=False) if rows else ""


def types(comparison: Comparison) -> str:
    rows = type_rows(comparison)
    return whiskers(rows, f"mean {comparison.metric.label}, %", zero=False) if rows else ""


def factor_differences(comparison: Comparison, factor: str) -> str:
    return _differences(comparison, factor_rows(comparison, factor))


def differences(comparison: Comparison) -> str:
    return _differences(comparison, difference_rows(comparison))


def _differences(comparison: Comparison, rows: list[Whisker]) -> str:
    label = f"difference, points of {comparison.metric.label}"
    return whiskers(rows, label, zero=True) if rows else ""


def system_rows(comparison: Comparison) -> list[Whisker]:
    colours = _colours(comparison)
    return [
        _whisker(_label(comparison, row.name, name), result.wer, result.interval, colours[row.name])
        for row in comparison.rows
        for name, result in row.sets.items()
        if result.wer is not None
    ]


def type_rows(comparison: Comparison) -> list[Whisker]:
    order = _firsts(comparison)
    return [
        _whisker(
            _label(comparison, one.label, one.set_name),
            one.wer,
            one.interval,
            COLOURS[order.index(one.first) % len(COLOURS)],
        )
        for one in comparison.types
    ]


def factor_rows(comparison: Comparison, factor: str) -> list[Whisker]:
    """Return each level minus the best one, set by set; of weightings every difference."""
    if factor == WEIGHTING:
        return [
            _whisker(
                _label(
                    comparison,
                    ", ".join(filter(None, (f"{one.name} − {one.baseline}", one.at or one.scope))),
                    one.set_name,
                    ", ",
                ),
                one.difference,
                one.interval,
                COLOURS[0],
            )
            for one in comparison.type_differences
            if one.factor == factor and not one.contrast
        ]
    shown = widest(comparison.type_differences, factor)
    rows = []
    for set_name in dict.fromkeys(one.set_name for one in shown):
        best, others = from_best([one for one in shown if one.set_name == set_name])
        rows += [
            _whisker(
                _label(comparison, f"{one.name} − {best}", set_name, ", "),
                one.difference,
                one.interval,
                COLOURS[2],
            )
            for one in others
        ]
    return rows


def difference_rows(comparison: Comparison) -> list[Whisker]:
    colours = _colours(comparison)
    return [
        _whisker(
            _label(comparison, one.name, one.set_name),
            one.difference,
            one.interval,
            colours[one.name],
        )
        for one in comparison.differences
    ]


def losses(contents: Contents) -> str:
    colours = _colours(contents.comparison)
    named = _Names(contents.comparison)
    series = []
    for curves in contents.curves:
        colour = colours.get(curves.name, COLOURS[-1])
        if curves.train_loss:
            series.append(Line(named.once(curves.name), _thin(curves.train_loss), colour))
        if curves.valid_loss:
            series.append(Line(None, _thin(curves.valid_loss), colour, dashed=True))
    return lines(series, "step", "loss") if series else ""


def dev_wers(contents: Contents) -> str:
    colours = _colours(contents.comparison)
    named = _Names(contents.comparison)
    series = [
        Line(
            named.once(curves.name),
            [(step, 100 * wer) for step, wer in curves.valid_wer],
            colours.get(curves.name, COLOURS[-1]),
            markers=True,
        )
        for curves in contents.curves
        # one validation at the end is no curve
        if len(curves.valid_wer) > 1
    ]
    label = f"dev {contents.comparison.metric.label}, %"
    return lines(series, "step", label) if series else ""


def by_part(comparison: Comparison, by: str) -> list[Panel]:
    """Draw WER over the first set's parts: types' means where there are types, else systems."""
    parts = [part for part in comparison.parts if part.by == by]
    parts = [part for part in parts if part.set_name == parts[0].set_name]
    if not parts:
        return []
    unit = {"length": "s", "noise": "dB"}[by]
    ticks = [f"{part.low:.1f}–{part.high:.1f} {unit}" for part in parts]
    named = [part.wers for part in parts]
    panels: list[tuple[str, list[Line]]] = []
    for title, group in _grouped(comparison):
        series = []
        for one in group:
            points = []
            for k, wers in enumerate(named):
                values = [wer for name in one.names if (wer := wers.get(name)) is not None]
                if values:
                    points.append((float(k), 100 * sum(values) / len(values)))
            if points:
                series.append(Line(_legend(one, title), points, one.colour, markers=True))
        panels.append((title, series))
    return _drawn(comparison, panels, f"{by} of the utterance", ticks)


def lengths(comparison: Comparison) -> list[Panel]:
    """WER with intervals by joined duration: types where there are types, else systems."""
    ticks = list(dict.fromkeys(one.label for one in comparison.lengths))
    found: dict[tuple[str, str], tuple[float, Interval | None]] = {
        (one.name, one.label): (one.wer, one.interval) for one in comparison.lengths
    } | {(one.label, one.set_name): (one.wer, one.interval) for one in comparison.length_types}
    panels: list[tuple[str, list[Line]]] = []
    for title, group in _grouped(comparison):
        series = []
        for one in group:
            there = [
                (k, *found[one.label, tick])
                for k, tick in enumerate(ticks)
                if (one.label, tick) in found
            ]
            points = [(float(k), 100 * wer) for k, wer, _ in there]
            ends = [_percent(interval) for _, _, interval in there]
            if points:
                series.append(
                    Line(_legend(one, title), points, one.colour, markers=True, intervals=ends)
                )
        panels.append((title, series))
    return _drawn(comparison, panels, "joined duration", ticks)


def length_differences(comparison: Comparison) -> str:
    """Draw the first factor's differences over all that its levels share, at each duration."""
    shown = widest(comparison.length_differences, comparison.factors[0].name)
    rows = [
        _whisker(
            f"{one.name} − {one.baseline}, {one.set_name}", one.difference, one.interval, COLOURS[0]
        )
        for one in shown
    ]
    return _differences(comparison, rows)


def _grouped(comparison: Comparison) -> list[tuple[str, list[_Member]]]:
    """(title, lines) of the pictures that are drawn side by side.

    A few types, or systems, share one picture; of many each level of the other factors has its own.
    """
    order, colours = _firsts(comparison), _colours(comparison)
    if comparison.types:
        types = {one.label: one for one in comparison.types}
        members = [
            _Member(
                one.label,
                one.first,
                one.rest,
                one.names,
                COLOURS[order.index(one.first) % len(COLOURS)],
            )
            for one in types.values()
        ]
        if len(members) <= _MANY:
            members = [replace(one, colour=COLOURS[k]) for k, one in enumerate(members)]
    else:
        members = [
            _Member(row.name, row.name, row.rest, [row.name], colours[row.name])
            for row in comparison.rows
        ]
    if len(members) <= _MANY:
        return [("", members)]
    return [
        (panel, [one for one in members if one.panel == panel])
        for panel in dict.fromkeys(one.panel for one in members)
    ]


def _legend(one: _Member, title: str) -> str:
    return one.short if title else one.label


def _drawn(
    comparison: Comparison,
    panels: Sequence[tuple[str, list[Line]]],
    x_label: str,
    ticks: Sequence[str],
) -> list[Panel]:
    """Draw all panels over the same axes."""
    top = max((line.highest for _, series in panels for line in series), default=0.0)
    label = f"{comparison.metric.label}, %"
    return [
        (title, lines(series, x_label, label, ticks, top)) for title, series in panels if series
    ]


def throughput(comparison: Comparison) -> str:
    """Systems, or types' means where there are types: their fewer names stay legible."""
    colours, order = _colours(comparison), _firsts(comparison)
    rows, xs = [], []
    for one in comparison.types:
        speed = one.train_audio_s_per_s
        if speed is not None and one.set_name == comparison.types[0].set_name:
            colour = COLOURS[order.index(one.first) % len(COLOURS)]
            rows.append(_whisker(one.label, one.wer, None, colour))
            xs.append(speed)
    for row in comparison.rows if not comparison.types else []:
        for result in list(row.sets.values())[:1]:
            known = row.run.train_audio_s_per_s
            if known is not None and result.wer is not None:
                rows.append(_whisker(row.name, result.wer, None, colours[row.name]))
                xs.append(known)
    label = f"{comparison.metric.label}, %"
    return scatter(rows, xs, "seconds of audio per second of training", label) if rows else ""


class _Names:
    """Legend entries: each system, or with many of them each level of the first factor once."""

    def __init__(self, comparison: Comparison):
        self._many = len(comparison.rows) > _MANY
        self._first = {row.name: row.first for row in comparison.rows}
        self._seen: set[str] = set()

    def once(self, name: str) -> str | None:
        label = self._first.get(name, "-") if self._many else name
        if label in self._seen:
            return None
        self._seen.add(label)
        return label


def _colours(comparison: Comparison) -> dict[str, str]:
    """A colour per system: its own, or with many of them that of its level of the first factor."""
    order = _firsts(comparison)
    many = len(comparison.rows) > _MANY
    return {
        row.name: COLOURS[(order.index(row.first) if many else number) % len(COLOURS)]
        for number, row in enumerate(comparison.rows)
    }


def _firsts(comparison: Comparison) -> list[str]:
    """Levels of the first factor."""
    return list(dict.fromkeys(row.first for row in comparison.rows))


def _label(comparison: Comparison, name: str, set_name: str, between: str = " ") -> str:
    return f"{name}{between}{set_name}" if len(comparison.set_names) > 1 else name


def _whisker(label: str, value: float, interval: Interval | None, colour: str) -> Whisker:
    low, high = _percent(interval) or (None, None)
    return Whisker(label, 100 * value, low, high, colour)


def _percent(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval.low, 100 * interval.high)


def _thin(points: list[tuple[int, float]], most: int = 120) -> list[tuple[float, float]]:
    """Return at most so many of the points, evenly chosen, the last one kept."""
    step = max(1, -(-len(points) // most))
    return [(float(x), y) for x, y in points[:-1][::step] + points[-1:]]
