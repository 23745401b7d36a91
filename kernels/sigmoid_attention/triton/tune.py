"""Make the table of tile shapes anew.

    python -m sigmoid_attention.triton.tune --write    and the counts of their kernels (census.py,
                                                       whose --missing --write counts the others)
    python -m sigmoid_attention.triton.tune --only sm_80/key/128 --write    these rows alone

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

from .census import (
    CENSUS,
    Count,
    Variant,
    beyond_limits,
    compile_variant,
    enter,
    refuse_other_version,
    variants,
    write_table,
)
from .configs import TABLE, Config, choose

# Candidates in order of preference: queries, keys, warps, stages.
FLOAT32 = [*((32, 32, 8, 1), (16, 32, 8, 1), (32, 16, 8, 1), (16, 16, 8, 1))]
ROWS = [
    *((128, 128, 8, 3), (128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 2)),
    *((64, 32, 4, 2), (64, 32, 4, 1), (32, 32, 4, 2), (32, 32, 4, 1)),
]
KEYS = [
    *((64, 128, 8, 3), (64, 128, 8, 2), (32, 128, 8, 2), (64, 64, 4, 2), (32, 64, 4, 2)),
    *((16, 64, 4, 2), (32, 64, 4, 1), (16, 64, 4, 1), (16, 32, 4, 1)),
]
# Skewed tiles: few registers. The last ones have fewer keys than queries, so that warps share the
# keys and each holds a part of the channels.
SKEWED_ROWS = [
    *((64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 4, 1), (64, 16, 4, 2), (32, 32, 4, 2)),
    (32, 32, 4, 1),
]
SKEWED_KEYS = [
    *((32, 64, 4, 2), (16, 64, 4, 2), (32, 64, 4, 1), (16, 64, 4, 1), (32, 16, 4, 2)),
    *((32, 16, 4, 1), (16, 32, 4, 1)),
]


def candidates(row: str) -> list[tuple[int, int, int, int]]:
    """Tiles to try for a row of the table."""
    kernel = row.split("/")[0]
    if "float32" in row:
        return FLOAT32
    if kernel == "offset":
        return SKEWED_KEYS
    if "relative" in row:
        return SKEWED_KEYS if kernel == "key" else SKEWED_ROWS
    return KEYS if kernel == "key" else ROWS


def search(served: list[Variant], configs: list[Config]) -> tuple[Config, dict[str, Count]] | None:
    """The first tile with which every kernel that a row serves keeps the limits, and their counts."""
    for config in configs:
        counts: dict[str, Count] = {}
        for variant in served:
            counts[variant.name] = compile_variant(variant, config)
            problems = beyond_limits(variant, counts[variant.name])
            print(variant.name, config, *problems, sep="; ", flush=True)
            if problems:
                break
        else:
            return config, counts
    return None


def main() -> int:
    """Search the rows of the table; 0 if each has a tile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--write", action="store_true", help="enter what is found in both tables")
    parser.add_argument("--only", default="", help="rows whose sm_ARCH/NAME contains this")
    parser.add_argument("--keep", action="store_true", help="try the table's own tile first")
    args = parser.parse_args()
    served: dict[tuple[int, str], list[Variant]] = {}
    for variant in variants():
        judged = variant.mode == "exact" or variant.row.endswith(f"/{variant.mode}")
        if judged and args.only in f"sm_{variant.arch}/{variant.row}":
            served.setdefault((variant.arch, variant.row), []).append(variant)
    if args.write and args.only:
        refuse_other_version(TABLE)
        refuse_other_version(CENSUS)
    chosen: dict[tuple[int, str], Config] = {}
    counts: dict[str, Count] = {}
    without = []
    for (arch, row), some in served.items():
        tiles = [choose(arch, row)] if args.keep else []
        tiles += [Config(*candidate) for candidate in candidates(row)]
        found = search(some, list(dict.fromkeys(tiles)))
        if found is None:
            without.append(f"sm_{arch}/{row}")
        else:
            chosen[arch, row] = found[0]
            counts |= found[1]
    if without:
        print("no candidate keeps the limits:", *without)
    if args.write:
        if without:  # their old tiles stay
            refuse_other_version(TABLE)
        if not args.only:
            write_table({})
        _write(chosen)
        enter(counts)
    return int(bool(without))


def _write(chosen: dict[tuple[int, str], Config]) -> None:
    loaded = json.loads(TABLE.read_text())
    for (arch, row), found in chosen.items():
        loaded["tiles"][str(arch)][row] = [found.bm, found.bn, found.warps, found.stages]
    loaded["triton"] = triton.__version__
    text = json.dumps(loaded, indent=1)
    text = re.sub(r"\[\s+(\d+),\s+(\d+),\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2, \3, \4]", text)
    TABLE.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
