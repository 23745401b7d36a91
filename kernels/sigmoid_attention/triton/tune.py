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

from .census import MOST_SHARED, Variant, compile_variant
from .configs import KERNELS, TABLE, Config

# Candidates: queries, keys, warps, stages. Kernels that skew a band of offsets need equal sides.
_SQUARE = [
    *((64, 64, 4, 2), (64, 64, 4, 1), (32, 32, 4, 2), (32, 32, 4, 1)),
    *((32, 32, 8, 2), (32, 32, 8, 1), (16, 16, 4, 1)),
]
_WIDE = {
    "forward": [
        *((128, 128, 8, 3), (128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 4, 3), (128, 64, 8, 2)),
        *((64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 1)),
    ],
    "query": [
        *((128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 4, 2)),
        *((64, 32, 4, 2), (64, 32, 4, 1), (32, 32, 4, 1)),
    ],
    "key": [
        *((128, 128, 8, 2), (64, 128, 8, 3), (64, 128, 8, 2), (32, 128, 8, 2), (64, 64, 4, 2)),
        *((32, 64, 4, 2), (32, 64, 4, 1), (32, 32, 4, 1)),
    ],
}
# The row of the table, and the hardest kernels it has to serve.
CLASSES = {
    "": ("bf16", ("none", "alibi")),
    "/table": ("bf16", ("table",)),
    "/relative": ("bf16", ("relative",)),
}
# Float32 is there to be right, not fast: one tile for all, on which only Transformer-XL at more
# than 64 channels spills.
FLOAT32 = [32, 32, 8, 1]


def search(kernel: str, arch: int, channels: int, name: str) -> Config:
    """The first candidate of which every kernel it has to serve passes."""
    dtype, positions = CLASSES[name]
    square = kernel == "offset" or "relative" in name
    for candidate in _SQUARE if square else _WIDE[kernel]:
        config = Config(*candidate)
        served = [p for p in positions if kernel != "offset" or p != "none"]
        variants = [Variant(kernel, arch, channels, dtype, position, True) for position in served]
        if all(_passes(variant, config) for variant in variants):
            return config
    raise RuntimeError(f"{kernel} sm_{arch} {channels}{name}: no candidate fits without spills")


def _passes(variant: Variant, config: Config) -> bool:
    count = compile_variant(variant, config)
    fits = count.shared <= MOST_SHARED[variant.arch]
    print(variant.name, config, count, "fits" if fits else "too large", file=sys.stderr, flush=True)
    # Above this, two groups of warps hold and compute the same scores; small tiles may.
    shared_out = count.special_per_score < 2.0 or config.bm * config.bn <= 32 * 32
    return fits and not count.spills and not count.stack and shared_out


def main() -> None:
    """Search every row of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the table")
    args = parser.parse_args()
    tiles: dict[str, dict[str, list[int]]] = {}
    for arch in (80, 90):
        rows = tiles.setdefault(str(arch), {})
        for kernel in KERNELS:
            for channels in (64, 128):
                for name in CLASSES:
                    found = search(kernel, arch, channels, name)
                    rows[f"{kernel}/{channels}{name}"] = [
                        *(found.bm, found.bn, found.warps, found.stages),
                    ]
                    rows[f"{kernel}/{channels}{name}/float32"] = FLOAT32
    how = "by compilation: the largest tile without spills; not by timing"
    text = json.dumps({"how": how, "triton": triton.__version__, "tiles": tiles}, indent=1)
    text = re.sub(r"\[\s+(\d+),\s+(\d+),\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2, \3, \4]", text)
    if args.write:
        TABLE.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
