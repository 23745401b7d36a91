"""The bounds that attention on the CPU keeps, and what a run of bench_attention.py says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench_report import Result, Row

SMALL, MIDDLE, LONG = (8, 4, 250, 64), (4, 8, 1000, 64), (1, 8, 4000, 64)
LONGEST = (1, 1, 16384, 64)
SOFTMAX, FULL = "sdpa flash softmax", "full matrix sigmoid"
OURS = "blockwise (c++) sigmoid {}"


@dataclass(frozen=True)
class Gate:
    """`row` takes at most `most` times as long as the fastest of `against`, at each of `shapes`.

    what: "forward_ms", "total_ms", or "extra_mb", which is compared with `most` itself.
    """

    row: str
    what: str
    most: float
    against: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Verdict:
    """One gate at one shape: in words, and whether it holds; a value of None was not judged."""

    text: str
    value: float | None
    most: float

    @property
    def holds(self) -> bool:
        return self.value is not None and self.value <= self.most

    @property
    def word(self) -> str:
        if self.value is None:
            return "not judged"
        return "holds" if self.holds else "MISSED"


NONE, ALIBI, RELATIVE = (OURS.format(kind) for kind in ("none", "alibi", "relative"))
GATES = (
    Gate(NONE, "forward_ms", 1.15, (SOFTMAX,), (MIDDLE, LONG)),
    Gate(NONE, "total_ms", 1.3, (SOFTMAX,), (MIDDLE, LONG)),
    Gate(NONE, "forward_ms", 1.15, (SOFTMAX, FULL), (SMALL,)),
    Gate(NONE, "total_ms", 1.15, (SOFTMAX, FULL), (SMALL,)),
    Gate(ALIBI, "forward_ms", 1.2, (NONE,), (SMALL, MIDDLE, LONG)),
    Gate(ALIBI, "total_ms", 1.2, (NONE,), (SMALL, MIDDLE, LONG)),
    Gate(RELATIVE, "forward_ms", 2.5, (NONE,), (SMALL, MIDDLE, LONG)),
    Gate(RELATIVE, "total_ms", 2.5, (NONE,), (SMALL, MIDDLE, LONG)),
    Gate(NONE, "extra_mb", 64.0, (), (LONGEST,)),
)
WORDS = {"forward_ms": "forward", "total_ms": "forward + backward", "extra_mb": "extra memory"}


def verdicts(results: list[Result]) -> list[Verdict]:
    """Every gate at every shape that it is set for, where this run has the gate's row."""
    out = []
    for gate in GATES:
        for result in results:
            shape = (result.shape.b, result.shape.h, result.shape.t, result.shape.d)
            rows = {row.name: row for row in result.rows}
            if shape in gate.shapes and gate.row in rows:
                out.append(_judge(gate, shape, rows))
    return out


def _judge(gate: Gate, shape: tuple[int, ...], rows: dict[str, Row]) -> Verdict:
    what = f"{gate.row}, {WORDS[gate.what]}, at {shape}"
    figures: dict[str, float] = {}
    for name in (gate.row, *gate.against):
        figure = getattr(rows[name], gate.what) if name in rows else None
        if figure is None or math.isnan(figure):
            return Verdict(f"{what}: no figure of {name}", None, gate.most)
        figures[name] = figure
    value = figures.pop(gate.row)
    if not figures:
        return Verdict(f"{what}: {value:.1f} MB, allowed {gate.most:g} MB", value, gate.most)
    fastest = min(figures, key=lambda name: figures[name])
    ratio = value / figures[fastest]
    text = f"{what}: {ratio:.2f} times {fastest}, allowed {gate.most:g}"
    return Verdict(text, ratio, gate.most)


def lines(results: list[Result]) -> list[str]:
    """One line per verdict, for the terminal and the page."""
    return [f"{verdict.word}: {verdict.text}" for verdict in verdicts(results)]
