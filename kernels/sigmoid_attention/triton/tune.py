"""Make the table of tile shapes anew.

    python -m sigmoid_attention.triton.tune --write

Without the device a tile is judged by what the compiler says: candidates stand in order of
preference (large tiles reuse more), and the first that spills nothing and fits the shared memory is
taken. The table says how it was made; where a device is at hand its timings should replace this.
"""

from __future__ import annotations

import argparse
import json
import re
import sys

import triton

from .census import Variant, beyond_limits, compile_variant, variants
from .configs import TABLE, Config

# Candidates in order of preference: queries, keys, warps, stages.
FLOAT32 = [(32, 32, 8, 1), (32, 32, 4, 1), (16, 32, 4, 1), (16, 16, 8, 1), (16, 16, 4, 1)]
ROWS = [
    *((128, 128, 8, 3), (128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 2)),
    *((64, 32, 4, 2), (64, 32, 4, 1), (32, 32, 4, 2), (32, 32, 4, 1)),
]
KEYS = [
    *((64, 128, 8, 3), (64, 128, 8, 2), (32, 128, 8, 2), (64, 64, 4, 2), (32, 64, 4, 2)),
    *((16, 64, 4, 2), (32, 64, 4, 1), (16, 64, 4, 1), (16, 32, 4, 1)),
]
# Skewed tiles: at most twice as many queries as keys, or the other way round, and few registers.
SKEWED_ROWS = [*((64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 4, 1), (32, 32, 4, 2), (32, 32, 4, 1))]
SKEWED_KEYS = [*((32, 64, 4, 2), (16, 64, 4, 2), (32, 64, 4, 1), (16, 64, 4, 1), (16, 32, 4, 1))]


def candidates(row: str) -> list[tuple[int, int, int, int]]:
    """Tiles to try for a row of the table."""
    kernel = row.split("/")[0]
    if row.endswith("float32"):
        return FLOAT32
    if kernel == "offset":
        return SKEWED_KEYS
    if "relative" in row:
        return SKEWED_KEYS if kernel == "key" else SKEWED_ROWS
    return KEYS if kernel == "key" else ROWS


def search(arch: int, row: str, served: list[Variant]) -> Config:
    """The first candidate with which every kernel that the row serves keeps the limits."""
    for candidate in candidates(row):
        config = Config(*candidate)
        if all(_keeps_limits(variant, config) for variant in served):
            return config
    raise RuntimeError(f"sm_{arch} {row}: no candidate keeps the limits")


def _keeps_limits(variant: Variant, config: Config) -> bool:
    problems = beyond_limits(variant, compile_variant(variant, config))
    print(variant.name, config, *problems, sep="; ", file=sys.stderr, flush=True)
    return not problems


def main() -> None:
    """Search every row of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the table")
    args = parser.parse_args()
    served: dict[tuple[int, str], list[Variant]] = {}
    for variant in variants():
        if variant.mode == "mixed":
            served.setdefault((variant.arch, variant.row), []).append(variant)
    tiles: dict[str, dict[str, list[int]]] = {}
    for (arch, row), some in served.items():
        found = search(arch, row, some)
        tiles.setdefault(str(arch), {})[row] = [found.bm, found.bn, found.warps, found.stages]
    how = "by compilation: the first candidate of tune.py without spills; not by timing"
    text = json.dumps({"how": how, "triton": triton.__version__, "tiles": tiles}, indent=1)
    text = re.sub(r"\[\s+(\d+),\s+(\d+),\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2, \3, \4]", text)
    if args.write:
        TABLE.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
