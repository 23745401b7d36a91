"""Tile shapes per architecture, kernel and head dimension: looked up, never tuned while running."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
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


@functools.cache
def table() -> dict[str, dict[str, list[int]]]:
    """The shipped table: architecture -> "kernel/channels[/relative]" -> [BM, BN, warps, stages]."""
    loaded: dict[str, dict[str, list[int]]] = json.loads(TABLE.read_text())["tiles"]
    return loaded


def choose(kernel: str, capability: int, channels: int, relative: bool, wide: bool) -> Config:
    """The tile of a kernel on a device of this capability (80, 90, ...).

    channels: the larger of d_qk and d_v up to a power of two; wide: float32 inputs, whose tiles are
    twice as large in memory and take a row of their own.
    """
    known = sorted(int(name) for name in table())
    arch = max([a for a in known if a <= capability], default=known[0])
    size = 64 if channels <= 64 else 128
    key = f"{kernel}/{size}" + ("/relative" if relative else "") + ("/float32" if wide else "")
    return Config(*table()[str(arch)][key])
