"""The bounds that attention on the CPU keeps, and what a run of bench_attention.py says of them."""

from __future__ import annotations

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
    """One gate at one shape: in words, and whether it holds."""

    text: str
    value: float
    most: float

    @property
    def holds(self) -> bool:
        return self.value <= self.most


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
    """Every gate at every shape that this run has the rows for."""
    out = []
    for gate in GATES:
        for result in results:
            shape = (result.shape.b, result.shape.h, result.shape.t, result.shape.d)
            rows = {row.name: row for row in result.rows}
            known = [rows[name] for name in gate.against if name in rows]
            if shape in gate.shapes and gate.row in rows and (known or not gate.against):
                out.append(_judge(gate, shape, rows[gate.row], known))
    return out


def _judge(gate: Gate, shape: tuple[int, ...], row: Row, against: list[Row]) -> Verdict:
    what = f"{row.name}, {WORDS[gate.what]}, at {shape}"
    value: float = getattr(row, gate.what)
    if not against:
        return Verdict(f"{what}: {value:.1f} MB, allowed {gate.most:g} MB", value, gate.most)
    fastest = min(against, key=lambda other: getattr(other, gate.what))
    ratio = value / getattr(fastest, gate.what)
    text = f"{what}: {ratio:.2f} times {fastest.name}, allowed {gate.most:g}"
    return Verdict(text, ratio, gate.most)


def lines(results: list[Result]) -> list[str]:
    """One line per verdict, for the terminal and the page."""
    return [f"{'holds' if v.holds else 'MISSED'}: {v.text}" for v in verdicts(results)]
