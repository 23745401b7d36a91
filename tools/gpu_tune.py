"""Tiles by time: every candidate of every row of the kernels' table, timed on this card.

    python tools/gpu_tune.py --out tune.json --limit-s 110 --only /64 /128

Candidates are compiled in many processes first; each kernel's own time is taken by events around
its launches. A row that serves several kernels (with and without masks, with ALiBi) gets the tile
with the least sum of time over the best of each. Written after each candidate.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_farm
import torch
from gpu_contenders import Contender, Scene, Shape, contenders

# queries, keys, warps, stages. Two or three blocks of four warps on a multiprocessor have been the
# fastest, large tiles of eight warps the slowest.
ROWS = [
    *((128, 64, 4, 3), (128, 32, 4, 3), (64, 64, 4, 3), (128, 64, 8, 3), (64, 32, 4, 3)),
    *((64, 128, 4, 2), (128, 32, 8, 3), (128, 128, 8, 2)),
]
KEYS = [
    *((128, 64, 4, 2), (64, 64, 4, 2), (32, 64, 4, 2), (64, 128, 8, 3), (32, 64, 4, 3)),
    *((32, 128, 8, 3), (64, 64, 4, 3), (32, 128, 4, 2)),
]
SKEWED_ROWS = [
    *((64, 64, 4, 2), (64, 32, 4, 2), (64, 64, 4, 3), (64, 32, 4, 3), (128, 64, 8, 2)),
    *((128, 32, 4, 2), (64, 64, 8, 2), (32, 32, 4, 2)),
]
SKEWED_KEYS = [
    *((32, 64, 4, 2), (16, 64, 4, 2), (32, 64, 4, 3), (64, 64, 4, 2), (32, 64, 8, 2)),
    *((64, 64, 8, 2), (32, 32, 4, 2), (32, 128, 8, 2)),
]
SERVED = {"": ("plain", "ragged alibi"), "/relative": ("ragged relative",), "/table": ("table",)}
REHEARSED = [(32, 16, 4, 1), (16, 32, 4, 1)]
Tile = tuple[int, ...]


def candidates(kernel: str, position: str) -> list[Tile]:
    """Tiles to try, the likeliest first."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return list(REHEARSED)
    if kernel == "offset":
        return list(SKEWED_KEYS)
    if position == "/relative":
        return list(SKEWED_KEYS if kernel == "key" else SKEWED_ROWS)
    return list(KEYS if kernel == "key" else ROWS)


@contextlib.contextmanager
def tiles(chosen: dict[str, Tile]) -> Iterator[None]:
    """Kernels by name get these tiles in place of the table's."""
    from sigmoid_attention.triton import configs, launch

    def choose(capability: int, row: str) -> configs.Config:
        kernel = row.split("/")[0]
        return configs.Config(*chosen[kernel]) if kernel in chosen else kept(capability, row)

    kept, interpreted = launch.choose, dict(configs.INTERPRETED)
    getattr(launch, "SMALLER", {}).clear()
    launch.choose = choose  # type: ignore[attr-defined]
    configs.INTERPRETED.update({k: configs.Config(*t) for k, t in chosen.items()})
    try:
        yield
        if getattr(launch, "SMALLER", {}):
            raise ValueError("a tile does not fit, a smaller one was taken")
    finally:
        getattr(launch, "SMALLER", {}).clear()
        launch.choose = kept  # type: ignore[attr-defined]
        configs.INTERPRETED.update(interpreted)


class Launches:
    """Events around each launch of a Triton kernel, by the kernel's name."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, Any, Any]] = []

    def enter(self, metadata: Any) -> None:
        begun = torch.cuda.Event(enable_timing=True)
        begun.record()
        self.pairs.append((metadata.get()["name"], begun, None))

    def exit(self, metadata: Any) -> None:
        name, begun, _ = self.pairs.pop()
        ended = torch.cuda.Event(enable_timing=True)
        ended.record()
        self.pairs.append((name, begun, ended))

    def of(self, step: Any, times: int) -> dict[str, float]:
        """Median milliseconds of each kernel that a step launches."""
        from triton import knobs

        found: dict[str, list[float]] = {}
        knobs.runtime.launch_enter_hook.add(self.enter)
        knobs.runtime.launch_exit_hook.add(self.exit)
        try:
            for _ in range(times):
                self.pairs = []
                step()
                torch.cuda.synchronize()
                for name, begun, ended in self.pairs:
                    found.setdefault(name, []).append(begun.elapsed_time(ended))
        finally:
            knobs.runtime.launch_enter_hook.remove(self.enter)
            knobs.runtime.launch_exit_hook.remove(self.exit)
        return {name: statistics.median(some) for name, some in found.items()}


def units(only: list[str], rehearse: bool) -> list[gpu_farm.Unit]:
    """One run each: the n-th candidate of every kernel that a forward and a backward launch."""
    out = []
    dims = (16,) if rehearse else (64, 128)
    for number, d, position in itertools.product(range(2 if rehearse else 8), dims, SERVED):
        chosen = {}
        for kernel in ("forward", "query", "key", "offset"):
            some = candidates(kernel, position)
            if number < len(some) and (kernel != "offset" or position):
                chosen[kernel] = some[number]
        width = 64 if d <= 64 else 128
        rows = {kernel: f"{kernel}/{width}{position}" for kernel in chosen}
        asked = any(word in row for word in only for row in rows.values())
        for part in SERVED[position] if asked else ():
            unit = {"part": part, "d": d, "tiles": chosen, "rows": rows}
            out.append({**unit, "name": f"{part} d{d} {number}"})
    return out


def scene_of(unit: gpu_farm.Unit, frames: int, device: str) -> tuple[Scene, Contender]:
    shape = Shape(1024 // frames * 8 or 1, 1024 // unit["d"], frames, unit["d"])
    if device == "cpu":
        shape = Shape(1, 2, 20, unit["d"])
    dtype = torch.float16 if device == "cpu" else torch.bfloat16
    return Scene(unit["part"], shape, device, dtype), contenders(unit["part"])[0]


def steps(scene: Scene, contender: Contender) -> Any:
    call = contender.make(scene)
    tensors = [scene.q, scene.k, scene.v, *contender.extra(scene)]
    leaves = [x.detach().requires_grad_() for x in tensors]
    return lambda: torch.autograd.grad(call(*leaves), leaves, scene.do)


def compile_unit(unit: gpu_farm.Unit) -> None:
    """Each kernel of a unit alone, so that one that does not compile takes no other with it."""
    for kernel, tile in unit["tiles"].items():
        name = f"{unit['name']} {kernel}"
        if name in unit["skip"]:
            continue
        gpu_farm.begin(name)
        why = ""
        try:
            with tiles({kernel: tuple(tile)}):
                steps(*scene_of(unit, 1024, "cuda"))()
                torch.cuda.synchronize()
        except Exception as problem:
            why = f"{type(problem).__name__}: {str(problem).strip()[:200]}"
            why = f"{gpu_farm.FATAL}: {why}" if gpu_farm.poisoned(problem) else why
        gpu_farm.end({"name": name, "failed": why})


def measure(
    unit: gpu_farm.Unit, failed: set[str], device: str, frames: int
) -> list[dict[str, Any]]:
    """A row's time for each kernel of the unit that compiled."""
    scene, contender = scene_of(unit, frames, device)
    step = steps(scene, contender)
    out = []
    good = {k: tuple(t) for k, t in unit["tiles"].items() if f"{unit['name']} {k}" not in failed}
    with tiles(good):
        step()
        if device == "cpu":
            found = {f"{kernel}_kernel": 0.0 for kernel in good}
        else:
            found = Launches().of(step, 5)
    for kernel, tile in good.items():
        took = [ms for name, ms in found.items() if name.startswith(kernel)]
        row = {"row": unit["rows"][kernel], "part": unit["part"], "tile": list(tile)}
        out.append({**row, "frames": scene.shape.t, "ms": sum(took) if took else None})
    return out


def best(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each row of the table: the tile with the least sum over parts and lengths of its time over
    the best of that part and length, and how it compares."""
    least: dict[tuple[str, str, int], float] = {}
    for r in rows:
        key = (r["row"], r["part"], r["frames"])
        if r["ms"] is not None:
            least[key] = min(least.get(key, float("inf")), r["ms"])
    sums: dict[str, dict[Tile, list[float]]] = {}
    for r in rows:
        if r["ms"] is not None:
            over = r["ms"] / max(least[r["row"], r["part"], r["frames"]], 1e-9)
            sums.setdefault(r["row"], {}).setdefault(tuple(r["tile"]), []).append(over)
    out = {}
    for row, tried in sums.items():
        most = max(len(x) for x in tried.values())
        mean = {tile: sum(x) / len(x) for tile, x in tried.items() if len(x) == most}
        tile = min(mean, key=lambda t: mean[t])
        others = {
            " ".join(map(str, t)): round(m, 3) for t, m in sorted(mean.items(), key=lambda i: i[1])
        }
        out[row] = {"tile": list(tile), "over_the_best": others}
    return out


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit-s", type=float, default=110.0)
    parser.add_argument("--frames", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name contains one")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.worker:
        gpu_farm.work(compile_unit)
        return
    until = time.monotonic() + args.limit_s
    device = "cpu" if args.rehearse else "cuda"
    todo = units(args.only, args.rehearse)
    failed: dict[str, str] = {}
    if not args.rehearse:
        farm = gpu_farm.Farm(
            [sys.executable, __file__, "--worker"], args.processes, args.limit_s * 0.6, 60.0, 40.0
        )
        failed = {r["name"]: r["failed"] for r in farm.run(todo) if r["failed"]}
        print(f"compiled; {len(failed)} failed, {len(farm.left_over)} not reached", flush=True)
        gone = set(farm.left_over)
        todo = [u for u in todo if u["name"] not in gone]
    whole: dict[str, Any] = {"failed": failed, "rows": [], "best": {}}
    for unit, frames in itertools.product(todo, args.frames):
        if time.monotonic() > until:
            whole["cut_off_at"] = unit["name"]
            break
        try:
            whole["rows"] += measure(unit, set(failed), device, frames)
        except Exception as problem:
            failed[f"{unit['name']} at {frames}"] = (
                f"{type(problem).__name__}: {str(problem)[:200]}"
            )
            if gpu_farm.poisoned(problem):
                break
        whole["best"] = best(whole["rows"])
        if args.out:
            gpu_farm.write(args.out, whole)
    for row, found in sorted(whole["best"].items()):
        print(f"{row:24}{found['tile']!s:20}{found['over_the_best']}")
    for name, why in list(failed.items())[:20]:
        print(f"failed {name}: {why[:120]}")


if __name__ == "__main__":
    main()
