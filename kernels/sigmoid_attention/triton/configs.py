"""Tile shapes per architecture, kernel and head dimension: looked up, never tuned while running."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

TABLE = Path(__file__).with_name("configs.json")
KERNELS = ("forward", "query", "key", "offset")


@dataclass(frozen=True)
class Config:
    """One kernel's tile: BM queries by BN keys, warps of a program, stages of its loads."""

    bm: int
    bn: int
    warps: int
    stages: int

    def smaller(self) -> Config | None:
        """One that takes less shared memory: fewer stages, then fewer rows; None if there is none."""
        if self.stages > 1:
            return replace(self, stages=self.stages - 1)
        if max(self.bm, self.bn) <= 16:
            return None
        if self.bm >= self.bn:
            return replace(self, bm=self.bm // 2)
        return replace(self, bn=self.bn // 2)


# For the interpreter: small, for size costs time there, and of every shape that ships (queries as
# many as keys, twice as many, half as many), so that tests reach each way of skewing a tile.
INTERPRETED = {
    "forward": Config(32, 32, 4, 1),
    "query": Config(32, 16, 4, 1),
    "key": Config(16, 32, 4, 1),
    "offset": Config(16, 32, 4, 1),
}


@functools.cache
def table() -> dict[str, dict[str, list[int]]]:
    """The shipped table: architecture -> row_name() -> [BM, BN, warps, stages]."""
    loaded: dict[str, dict[str, list[int]]] = json.loads(TABLE.read_text())["tiles"]
    return loaded


def row_name(kernel: str, channels: int, position: str, wide: bool) -> str:
    """The table's row for a kernel; only table and relative positions need tiles of their own.

    channels: the larger of d_qk and d_v; wide: float32 inputs, whose tiles take twice the memory.
    """
    own = f"/{position}" if position in ("table", "relative") else ""
    return f"{kernel}/{64 if channels <= 64 else 128}{own}" + ("/float32" if wide else "")


def own_row(capability: int, row: str, name: str) -> str:
    """The row of a map's own, ROW/NAME, where the table has one for this device; else `row`."""
    own = f"{row}/{name}"
    return own if own in _rows(capability) else row


def choose(capability: int, row: str) -> Config:
    """The tile of a row for a device of this capability (80, 90, ...)."""
    return Config(*_rows(capability)[row])


def _rows(capability: int) -> dict[str, list[int]]:
    known = sorted(int(name) for name in table())
    arch = max([a for a in known if a <= capability], default=known[0])
    return table()[str(arch)]
