"""Read machine code (SASS as nvdisasm prints it): loops, and how many instructions a turn issues."""

from __future__ import annotations

import re
from collections import Counter

# Address, predicate, operation.
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]+)\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)")
Loop = dict[int, str]  # instructions by their place, the last one of which branches to the first


def opcode(line: str) -> str:
    """The operation without its modifiers; empty if the line is no instruction."""
    found = INSTRUCTION.match(line)
    return found[3] if found else ""


def loops(sass: str) -> list[Loop]:
    """Loops that hold no other; branches name places instead of labels."""
    places: dict[str, int] = {}
    code: list[str] = []
    for line in sass.splitlines():
        if label := re.match(r"^(\.L_\w+):", line):
            places[label[1]] = len(code)
        elif opcode(line):
            code.append(line)
    code = [re.sub(r"`\((\.L_\w+)\)", lambda m: f"-> {places[m[1]]}", line) for line in code]
    edges = [(_target(line), i) for i, line in enumerate(code)]
    back = [(start, end) for start, end in edges if start is not None and start < end]
    inner = [x for x in back if not any(y != x and x[0] <= y[0] and y[1] <= x[1] for y in back)]
    return [{i: code[i] for i in range(start, end + 1)} for start, end in inner]


def walk(loop: Loop) -> tuple[Counter[str], Counter[str]]:
    """Instructions of a turn on its longest and on its shortest way, by operation."""
    longest: dict[int, Counter[str]] = {}
    shortest: dict[int, Counter[str]] = {}
    last = max(loop)
    for i in sorted(loop, reverse=True):
        target = _target(loop[i])
        following = [] if i == last else [i + 1]
        if target is not None and target > i:
            following = [target, *(following if INSTRUCTION.match(loop[i])[2] else [])]  # type: ignore[index]
        here = Counter([opcode(loop[i])])
        inside = [n for n in following if n in loop]
        after = sorted((longest[n] for n in inside), key=Counter.total)
        before = sorted((shortest[n] for n in inside), key=Counter.total)
        longest[i] = here + (after[-1] if after else Counter())
        shortest[i] = here + (before[0] if before else Counter())
    return longest[min(loop)], shortest[min(loop)]


def _target(line: str) -> int | None:
    found = re.search(r"BRA\S*\s.*-> (\d+)", line)
    return int(found[1]) if found else None
