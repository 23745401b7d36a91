"""Attention on a GPU: our kernels beside PyTorch's and others, each call timed inside CUDA graphs.

    python tools/gpu_bench.py --out table.json --budget-s 60
    python tools/gpu_bench.py --out modes.json --modes
    python tools/gpu_bench.py --out flex.json --held --warm-s 75 --parts alibi plain --lengths 4096
    TRITON_INTERPRET=1 python tools/gpu_bench.py --out /tmp/table.json --rehearse

The file is written after every figure, so that a run may be cut off anywhere. Forward: the public
call. Backward: the gradients alone, of everything that is trainable. TFLOP/s count two products of
the pairs that are seen (three with relative positions), and five in the backward. Ratios are to
FlashAttention 2 of the same shape (all frames, no positions) in the same run.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import gpu_farm
import gpu_few_tiles
import gpu_held
import gpu_timing
import torch
from gpu_contenders import (
    PARTS,
    Contender,
    Scene,
    Shape,
    back,
    compiled_call,
    contenders,
    error_against_float64,
    gradients,
    leaves_of,
    shapes,
)
from gpu_contenders import ours as our_call
from gpu_few_tiles import FEW_TILES
from measure import environment

PACKAGES = ("torch", "triton", "triton-sigmoid")
QUICK = [1024, 4096, 16384]
HELD_S = 25.0  # that timing a held row may take
MODES = ("SEPARATE", "SHARED", "QUAD", "TANH")
MODE_SHAPES = (Shape(16, 16, 1024, 64), Shape(4, 16, 4096, 64), Shape(4, 8, 4096, 128))
REHEARSED = (Shape(1, 2, 20, 16),)
REFUSALS = (RuntimeError, ValueError, NotImplementedError, AssertionError, ImportError, TypeError)
Row = dict[str, Any]


class Bench:
    """The rows so far, the time they took, and where they are kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = "cpu" if args.rehearse else "cuda"
        self.dtype = torch.float16 if args.rehearse else getattr(torch, args.dtype)
        self.deadline = time.monotonic() + args.budget_s
        self.clock = gpu_timing.Clock(self.device)
        self.rows: list[Row] = []
        self.left_over: list[str] = []
        self.whole: dict[str, Any] = {
            "environment": environment("python tools/gpu_bench.py", PACKAGES),
            "gpu": torch.cuda.get_device_name()
            if self.device == "cuda"
            else "rehearsal on the CPU",
            "dtype": str(self.dtype),
            "roofs": [],
            "rows": self.rows,
            "not_reached": self.left_over,
        }

    def keep(self, row: Row | None = None) -> None:
        if row is not None:
            self.rows.append(row)
            print(line_of(row), flush=True)
        if self.args.out:
            gpu_farm.write(self.args.out, self.whole)

    def roof(self) -> None:
        size = 64 if self.args.rehearse else 8192
        self.whole["roofs"].append(gpu_timing.roofs(self.device, size))
        print("roof", self.whole["roofs"][-1], flush=True)
        self.keep()

    def item(self, scene: Scene, contender: Contender, **more: Any) -> None:
        """One row: memory, error, forward, backward; what it refuses is its row."""
        row: Row = {"part": scene.part, "contender": contender.name, **more}
        row["shape"] = [scene.shape.b, scene.shape.h, scene.shape.t, scene.shape.d]
        if time.monotonic() > self.deadline:
            self.left_over.append(line_of(row))
            return
        fill(row, scene, contender, lambda: contender.make(scene), self.clock)
        self.keep(row)
        if gpu_farm.poisoned(RuntimeError(row.get("refused", ""))):
            raise SystemExit(f"{row['refused']}: this process can do no more")


def fill(row: Row, scene: Scene, contender: Contender, make: Any, clock: gpu_timing.Clock) -> None:
    """A row's figures, as far as they come; what is refused stands in it."""
    try:
        measure(row, scene, contender, make(), clock)
    except REFUSALS as problem:
        row["refused"] = gpu_farm.first_line(problem)
    if clock.device == "cuda":
        torch.cuda.empty_cache()


def measure(
    row: Row, scene: Scene, contender: Contender, call: Any, clock: gpu_timing.Clock
) -> None:
    """Error, memory and times of a call."""
    leaves, do = leaves_of(scene, contender)
    with torch.no_grad():
        o = back(scene, call(*leaves), contender.layout)  # compiles
    row["error"] = error_against_float64(scene, contender, o)
    del o

    def forward() -> Any:
        with torch.no_grad():
            return call(*leaves)

    row["forward_mb"] = gpu_timing.peak_mb(clock.device, forward)
    row["forward"] = clock.forward(lambda: call(*leaves))
    row["forward_tflops"] = scene.forward_flops / row["forward"]["ms"] / 1e9

    def both() -> Any:
        return torch.autograd.grad(call(*leaves), leaves, do)

    row["total_mb"] = gpu_timing.peak_mb(clock.device, both)
    row["backward"] = clock.backward(lambda: call(*leaves), leaves, do)
    row["backward_tflops"] = 2.5 * scene.forward_flops / row["backward"]["ms"] / 1e9


def line_of(row: Row) -> str:
    where = f"{row['part']:9}{row['contender']:16}{row.get('mode', '')!s:11}{row['shape']!s:22}"
    if "refused" in row:
        return f"{where} refused: {row['refused'][:90]}"
    if "forward" not in row:
        return where
    out = f"{where}{row['forward']['ms']:9.4f} ms{row['forward_tflops']:6.0f}"
    if "backward" in row:
        out += f"{row['backward']['ms']:9.4f} ms{row['backward_tflops']:6.0f}"
    loose = [k for k in ("forward", "backward") if k in row and not row[k]["graph"]]
    return out + f"  err {row['error']:.1e}" + (f"  no graph: {' '.join(loose)}" if loose else "")


def rows(args: argparse.Namespace) -> list[tuple[str, Shape, Contender]]:
    """What is asked for, the most important first: lengths as they were given, else those of QUICK,
    then the rest; then `last`, unless rows are held and as good as compiled."""
    lengths = QUICK if args.quick else args.lengths
    chosen = list(REHEARSED) if args.rehearse else shapes(args.dims, lengths)
    found = []
    for shape, part in itertools.product(chosen, args.parts):
        for contender in contenders(part):
            asked = any(word in contender.name for word in args.only)
            if asked and (not contender.lengths or shape.t in contender.lengths or args.rehearse):
                found.append((part, shape, contender))

    def rank(row: tuple[str, Shape, Contender]) -> tuple[bool, int]:
        late = row[2].last and not args.held
        if args.rehearse or not args.lengths:
            return late, int(row[1].t not in QUICK and not args.rehearse)
        return late, args.lengths.index(row[1].t)

    return sorted(found, key=rank)


def table(bench: Bench, args: argparse.Namespace) -> None:
    held: dict[tuple[str, str], Scene] = {}
    not_compiled = set(bench.whole["compiled"].get("not_compiled", []))
    for part, shape, contender in rows(args):
        key = (part, str(shape))
        if key not in held:
            held = {}  # one at a time: a long one takes gigabytes
            try:
                held[key] = Scene(part, shape, bench.device, bench.dtype)
            except REFUSALS as problem:
                bench.left_over.append(f"{part} {shape}: {problem}")
                continue
        missing = not_compiled & set(compiled_for(part, shape, contender))
        if missing and "ours" not in contender.name:  # it would compile for half a minute now
            bench.left_over.append(f"{part} {contender.name} {shape}: not compiled in time")
        else:
            bench.item(held[key], contender)


def held_units(args: argparse.Namespace) -> list[gpu_farm.Unit]:
    """A unit for each row, in the order of rows."""
    out = []
    for part, shape, contender in rows(args):
        unit = {"part": part, "contender": contender.name, "dtype": args.dtype}
        unit |= {"device": "cpu" if args.rehearse else "cuda"}
        sizes = [shape.b, shape.h, shape.t, shape.d]
        out.append({**unit, "shape": sizes, "name": f"{part} {contender.name} {shape}"})
    return out


def hold(args: argparse.Namespace) -> gpu_held.Pool:
    """Every row compiled somewhere: length by length, of each length first what takes longest."""
    units = held_units(args)
    lengths = list(dict.fromkeys(unit["shape"][2] for unit in units))

    def rank(unit: gpu_farm.Unit) -> tuple[int, bool]:
        return lengths.index(unit["shape"][2]), not unit["contender"].startswith("flex")

    began = time.monotonic()
    pool = gpu_held.Pool([sys.executable, __file__, "--held-only"], args.processes)
    pool.prepare(sorted(units, key=rank), args.warm_s)
    took = time.monotonic() - began
    print(f"{len(pool.held)} of {len(units)} rows are compiled after {took:.0f} s", flush=True)
    return pool


def held_table(bench: Bench, args: argparse.Namespace, pool: gpu_held.Pool) -> None:
    """Rows timed one after another by the processes that hold them."""
    units = held_units(args)
    for unit in units:
        row: Row = {key: unit[key] for key in ("part", "contender", "shape")}
        if unit["name"] in pool.failed:
            bench.keep({**row, "refused": pool.failed[unit["name"]][:240]})
        elif unit["name"] not in pool.held or time.monotonic() > bench.deadline:
            late = unit["name"] in pool.held
            bench.left_over.append(line_of(row) + ("" if late else " not compiled in time"))
        else:
            record = pool.measure(unit, HELD_S)
            bench.keep(record.get("row") or {**row, "refused": record.get("failed", "")[:240]})
    pool.stop()


HELD: dict[str, Any] = {}


def held_unit(unit: gpu_farm.Unit) -> None:
    """A worker's part: compile a row's call and keep it, or time one that is kept."""
    name = unit["name"]
    gpu_farm.begin(name)
    record: dict[str, Any] = {"name": name, "failed": ""}
    try:
        scene = Scene(unit["part"], Shape(*unit["shape"]), unit["device"], dtype_of(unit))
        contender = next(c for c in contenders(unit["part"]) if c.name == unit["contender"])
        if unit["step"] == "prepare":
            HELD[name] = compiled_call(scene, contender)
        else:
            row = {key: unit[key] for key in ("part", "contender", "shape")}
            fill(row, scene, contender, lambda: HELD[name], gpu_timing.Clock(unit["device"]))
            record["row"] = row
            if gpu_farm.poisoned(RuntimeError(row.get("refused", ""))):
                record["failed"] = gpu_farm.FATAL
    except Exception as problem:
        fatal = f"{gpu_farm.FATAL}: " if gpu_farm.poisoned(problem) else ""
        record["failed"] = fatal + gpu_farm.first_line(problem)
    if unit["device"] == "cuda":
        torch.cuda.empty_cache()
    gpu_farm.end(record)


def dtype_of(unit: gpu_farm.Unit) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, unit["dtype"])
    return torch.float16 if unit["device"] == "cpu" else dtype


def breakdown(bench: Bench, args: argparse.Namespace) -> None:
    """Where the time of one forward and backward of ours goes, kernel by kernel."""
    shape = REHEARSED[0] if args.rehearse else Shape(16, 16, 1024, 64)
    for part in ("plain", "ragged", "ragged alibi", "ragged relative"):
        scene = Scene(part, shape, bench.device, bench.dtype)
        contender = contenders(part)[0]
        call = contender.make(scene)
        leaves, do = leaves_of(scene, contender)
        us = gpu_timing.kernel_us(functools.partial(gradients, call, leaves, do), bench.device)
        bench.whole.setdefault("breakdown", {})[part] = us
        bench.keep()
        print(f"breakdown {part} {shape}, us per forward and backward:")
        for name, (count, time_us) in list(us.items())[:12]:
            print(f"  {time_us:9.1f} {count:5.1f} x {name}", flush=True)


def modes(bench: Bench, args: argparse.Namespace) -> None:
    """Forward and backward with each way to compute a weight."""
    from sigmoid_attention.triton import device, launch

    kept = dict(launch.MODES)
    for shape in REHEARSED if args.rehearse else MODE_SHAPES:
        scene = Scene("plain", shape, bench.device, bench.dtype)
        for contender in contenders("plain")[1:2]:
            bench.item(scene, contender)
        for mode in MODES:
            value = getattr(device, mode, None)
            if value is None:
                continue
            launch.MODES["exact"] = value.value
            bench.item(scene, Contender("ours", our_call), mode=mode.lower())
        launch.MODES.update(kept)


def units(args: argparse.Namespace) -> list[gpu_farm.Unit]:
    """What is to be compiled before anything is timed, one kernel's family each. Kernels are the
    same for all lengths but where another package says otherwise."""
    out: dict[str, gpu_farm.Unit] = {}
    if args.modes:
        for shape, mode in itertools.product(MODE_SHAPES, MODES):
            small = (2, shape.h, 1024, shape.d)
            out[f"{mode} {small}"] = {"part": "plain", "shape": small, "mode": mode}
    else:
        for part, shape, contender in rows(args):
            for name, unit in compiled_for(part, shape, contender).items():
                out[name] = unit
    # what takes longest, then what matters
    order = {"flex softmax": 0, "flex": 0, "triton-sigmoid": 2}
    ranked = sorted(out.items(), key=lambda item: order.get(item[1].get("contender", ""), 1))
    return [{**unit, "name": name, "dtype": args.dtype} for name, unit in ranked]


def compiled_for(part: str, shape: Shape, contender: Contender) -> dict[str, gpu_farm.Unit]:
    """The units that a row needs. Our kernels are the same for every batch and length here."""
    if contender.name == "triton-sigmoid":
        small, tiles = (1, shape.h, shape.t, shape.d), len(FEW_TILES)
    elif contender.name.startswith("flex"):
        small, tiles = (shape.b, shape.h, shape.t, shape.d), 1
    elif "ours" in contender.name:
        small, tiles = (2, shape.h, 1024, shape.d), 1
    else:
        return {}
    unit = {"part": part, "contender": contender.name, "shape": small}
    return {
        f"{part} {contender.name} {small} {tile}": {**unit, "tile": tile} for tile in range(tiles)
    }


def compile_unit(unit: gpu_farm.Unit) -> None:
    """One forward and one backward, nothing timed."""
    from sigmoid_attention.triton import device, launch

    gpu_farm.begin(unit["name"])
    why = ""
    try:
        if "mode" in unit:
            value = getattr(device, unit["mode"], None)
            launch.MODES["exact"] = launch.MODES["exact"] if value is None else value.value
        scene = Scene(unit["part"], Shape(*unit["shape"]), "cuda", getattr(torch, unit["dtype"]))
        found = contenders(unit["part"])
        contender = next(c for c in found if c.name == unit.get("contender", "ours"))
        gpu_few_tiles.TILE_AT = unit.get("tile", -1)
        compiled_call(scene, contender)
    except Exception as problem:
        why = f"{type(problem).__name__}: {str(problem).strip()[:200]}"
        why = f"{gpu_farm.FATAL}: {why}" if gpu_farm.poisoned(problem) else why
    gpu_farm.end({"name": unit["name"], "failed": why})


def warm(args: argparse.Namespace) -> dict[str, Any]:
    """Compile what will be timed in many processes at once."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--compile-only"]
    farm = gpu_farm.Farm(
        command, args.processes, args.warm_s, first_s=args.warm_s, case_s=args.warm_s
    )
    found = farm.run(units(args))
    failed = {r["name"]: r["failed"] for r in found if r["failed"]}
    took = time.monotonic() - began
    print(f"compiled {len(found)} in {took:.0f} s, {len(failed)} failed, {len(farm.left_over)} not")
    for name, why in list(failed.items())[:20]:
        print(f"  {name}: {why[:140]}", flush=True)
    return {"seconds": took, "failed": failed, "not_compiled": farm.left_over}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dims", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--lengths", nargs="+", type=int)
    parser.add_argument("--quick", action="store_true", help=f"lengths {QUICK} alone")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="contenders whose name contains one"
    )
    parser.add_argument("--modes", action="store_true", help="each way to compute a weight instead")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--budget-s", type=float, default=60.0, help="after this nothing is begun")
    parser.add_argument("--warm-s", type=float, default=0.0, help="compile in many processes first")
    parser.add_argument(
        "--held", action="store_true", help="each row is timed by the process that compiled it"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--compile-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--held-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--breakdown", action="store_true", help="time by kernel, before the rows")
    return parser.parse_args()


def main() -> None:
    args = parse()
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # the farm has processes enough
    if args.compile_only:
        gpu_farm.work(compile_unit)
        return
    if args.held_only:
        gpu_farm.work(held_unit)
        return
    pool = hold(args) if args.held else None
    warmed = args.warm_s and not args.rehearse and not args.held
    compiled = warm(args) if warmed else {}
    bench = Bench(args)
    bench.whole["compiled"] = compiled
    bench.roof()
    if args.breakdown:
        breakdown(bench, args)
    if pool is not None:
        held_table(bench, args, pool)
    else:
        (modes if args.modes else table)(bench, args)
    bench.roof()
    if bench.left_over:
        print(f"{len(bench.left_over)} rows not reached", flush=True)


if __name__ == "__main__":
    main()
