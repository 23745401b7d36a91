"""Choose tile shapes by time on the device at hand.

    python -m sigmoid_attention.triton.timing --out FOLDER              time and write
    python -m sigmoid_attention.triton.timing --out FOLDER --rehearse   anywhere, times invented

Writes FOLDER/configs.json, to stand in place of the one beside this file, and FOLDER/timings.json
with every time. First each candidate is compiled, many at once, into Triton's cache; then they are
timed one by one. Candidates that spill (by the driver's count) or do not fit are passed over.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from ..ops import Flat
from . import configs, launch
from .configs import TABLE, Config

# Batch, heads, queries and keys, channels.
SIZES = {64: (4, 16, 2048, 64), 128: (4, 8, 2048, 128)}
KERNELS = ("forward", "query", "key", "offset")
# Queries, keys, warps, stages.
WIDE: dict[str, list[tuple[int, int, int, int]]] = {
    "forward/64": [(128, 64, 4, 3), (128, 64, 8, 3), (128, 32, 4, 3), (64, 64, 4, 3)],
    "forward/128": [(128, 32, 4, 3), (64, 32, 4, 3), (64, 64, 4, 2), (128, 64, 8, 3)],
    "query/64": [(64, 64, 4, 3), (64, 64, 4, 2), (128, 64, 8, 3), (64, 32, 4, 3), (128, 32, 4, 3)],
    "query/128": [(64, 32, 4, 3), (64, 64, 4, 2), (128, 32, 8, 3), (128, 64, 8, 3)],
    "key/64": [(64, 64, 4, 2), (64, 64, 4, 3), (32, 64, 4, 3), (64, 128, 8, 3), (64, 128, 8, 2)],
    "key/128": [(32, 64, 4, 3), (32, 64, 4, 2), (64, 64, 4, 2), (64, 128, 8, 2), (32, 128, 8, 3)],
}
SKEWED = [(64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2), (32, 64, 4, 2)]
SKEWED_KEYS = [(32, 64, 4, 2), (16, 64, 4, 2), (32, 64, 4, 1), (32, 16, 4, 2)]
INVENTED = "rehearsed"


@dataclass(frozen=True)
class Trial:
    """One kernel with one tile, at one size and position."""

    kernel: str
    channels: int
    position: str
    tile: tuple[int, int, int, int]

    @property
    def row(self) -> str:
        """The row of the table that the tile would enter."""
        return configs.row_name(self.kernel, self.channels, self.position, False)


def trials() -> list[Trial]:
    """Every candidate of every row, with the tile that ships among them."""
    out = []
    for channels in SIZES:
        for kernel in KERNELS:
            for position in ("none", "table", "relative"):
                if kernel == "offset" and position == "none":
                    continue
                tiles = [*WIDE.get(f"{kernel}/{channels}", SKEWED_KEYS)]
                if position == "relative":
                    tiles = SKEWED if kernel in ("forward", "query") else SKEWED_KEYS
                row = configs.row_name(kernel, channels, position, False)
                shipped = configs.choose(90, row)
                tiles = [(shipped.bm, shipped.bn, shipped.warps, shipped.stages), *tiles]
                out += [Trial(kernel, channels, position, x) for x in dict.fromkeys(tiles)]
    return out


def problem(channels: int, position: str, device: str, small: bool) -> tuple[Flat, torch.Tensor]:
    """A call in bfloat16 with the shift -log n, and the gradient of its output."""
    batch, heads, length, d = (1, 1, 128, channels) if small else SIZES[channels]
    # Heads are a constant of the kernels: a small call must compile what a large one runs.
    heads = SIZES[channels][1]
    new = {"device": device, "dtype": torch.bfloat16}
    q, k, v, do = (torch.randn(batch, heads, length, d, **new) for _ in range(4))
    span = 2 * length - 1
    table = torch.randn(heads, span, device=device) if position == "table" else None
    r = torch.randn(heads, span, d, **new) if position == "relative" else None
    u = torch.zeros(heads, d, **new) if position == "relative" else None
    empty = [None] * 5
    flat = Flat(
        q, k, v, *empty, None, table, u, u, r, "sigmoid", 1, "exact", d**-0.5,
        -float(torch.tensor(float(length)).log()), 0, length - 1, True,
    )  # fmt: skip
    return flat, do


def runner(trial: Trial, flat: Flat, do: torch.Tensor) -> Any:
    """What launches the trial's kernel with its tile, and the few operations that follow it."""
    x = launch.Launch(flat)
    x.config = lambda kernel: Config(*trial.tile)  # type: ignore[method-assign]
    if trial.kernel == "forward":
        return lambda: launch.forward_pass(x)
    if trial.kernel == "query":
        return lambda: launch.query_pass(x, do, False)
    sums = launch.Sums(*(torch.empty_like(y) for y in (x.q, x.k, x.v)), *[None] * 4)
    if trial.kernel == "key":
        return lambda: launch.key_pass(x, do, sums)
    return lambda: launch.offset_pass(x, do, sums)


def compile_one(trial: Trial) -> str:
    """Compile by launching on a small call; "" or what went wrong."""
    try:
        flat, do = problem(trial.channels, trial.position, "cuda", small=True)
        runner(trial, flat, do)()
        torch.cuda.synchronize()
    except Exception as error:  # of any candidate, whatever it is, the others go on
        return f"{type(error).__name__}: {error}"[:200]
    return ""


def median_ms(run: Any, turns: int = 12) -> float:
    """Median time of a launch, the first three left out."""
    for _ in range(3):
        run()
    times = []
    for _ in range(turns):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def measure(some: list[Trial], problems: dict[Trial, str], limit_s: float) -> list[dict[str, Any]]:
    """Times of all trials that compiled, until the limit."""
    out: list[dict[str, Any]] = []
    started = time.monotonic()
    calls: dict[tuple[int, str], Any] = {}
    for trial in some:
        entry = {**trial.__dict__, "row": trial.row, "ms": None, "problem": problems.get(trial, "")}
        out.append(entry)
        if entry["problem"] or time.monotonic() - started > limit_s:
            entry["problem"] = entry["problem"] or "no time left"
            continue
        try:
            key = (trial.channels, trial.position)
            if key not in calls:
                calls = {key: problem(*key, "cuda", small=False)}
            entry["ms"] = round(median_ms(runner(trial, *calls[key])), 4)
        except Exception as error:  # one candidate's failure is an entry, not the end
            entry["problem"] = f"{type(error).__name__}: {error}"[:200]
    return out


def table_of(timings: list[dict[str, Any]], arch: str, how: str) -> str:
    """The table's text with the fastest tile of each row that was timed."""
    loaded = json.loads(TABLE.read_text())
    best: dict[str, dict[str, Any]] = {}
    for entry in timings:
        held = best.get(entry["row"])
        if entry["ms"] is not None and (held is None or entry["ms"] < held["ms"]):
            best[entry["row"]] = entry
    loaded["how"] = how
    for row, entry in best.items():
        loaded["tiles"][arch][row] = list(entry["tile"])
    text = json.dumps(loaded, indent=1)
    return re.sub(r"\[\s+(\d+),\s+(\d+),\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2, \3, \4]", text) + "\n"


def main() -> int:
    """Compile, time, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, required=True, help="folder of what is written")
    parser.add_argument("--rehearse", action="store_true", help="no device: times are invented")
    parser.add_argument("--limit", type=float, default=50.0, help="seconds for timing")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    # Rows of one call beside each other, so that its inputs are made once.
    some = sorted(trials(), key=lambda x: (x.channels, x.position))
    if args.rehearse:
        name, arch = INVENTED, "90"
        timings = [
            {**x.__dict__, "row": x.row, "ms": x.tile[0] / x.tile[1] + 1.0, "problem": ""}
            for x in some
        ]
    else:
        name = torch.cuda.get_device_name()
        major, minor = torch.cuda.get_device_capability()
        known = [int(a) for a in configs.table()]
        arch = str(max(a for a in known if a <= 10 * major + minor))
        with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
            problems = dict(zip(some, pool.map(compile_one, some), strict=True))
        timings = measure(some, problems, args.limit)
    how = f"by time on {name}; float32 and other architectures by compilation"
    (args.out / "configs.json").write_text(table_of(timings, arch, how))
    text = json.dumps({"device": name, "timings": timings}, indent=1)
    (args.out / "timings.json").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
