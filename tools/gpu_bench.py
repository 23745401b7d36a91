"""Attention on a GPU: our kernels beside PyTorch's and others, each call timed inside CUDA graphs.

    python tools/gpu_bench.py --out table.json --budget-s 60
    python tools/gpu_bench.py --out modes.json --modes
    TRITON_INTERPRET=1 python tools/gpu_bench.py --out /tmp/table.json --rehearse

The file is written after every figure, so that a run may be cut off anywhere. Forward: the public
call. Backward: the gradients alone, of everything that is trainable. TFLOP/s count two products of
the pairs that are seen (three with relative positions), and five in the backward. Ratios are to
FlashAttention 2 of the same shape (all frames, no positions) in the same run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_farm
import gpu_timing
import torch
from gpu_contenders import PARTS, Contender, Scene, Shape, contenders, error_against_float64, shapes
from gpu_contenders import ours as our_call
from measure import environment
from torch import Tensor

QUICK = [1024, 4096, 16384]
MODES = ("SEPARATE", "SHARED", "MIXED", "POLYNOMIAL", "TANH")
MODE_SHAPES = (Shape(16, 16, 1024, 64), Shape(4, 16, 4096, 64), Shape(4, 8, 4096, 128))
REHEARSED = (Shape(2, 2, 40, 16),)
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
            "environment": environment("python tools/gpu_bench.py", ("torch", "triton", "triton-sigmoid")),
            "gpu": torch.cuda.get_device_name() if self.device == "cuda" else "rehearsal on the CPU",
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
        try:
            self._measure(scene, contender, row)
        except REFUSALS as problem:
            lines = [line for line in str(problem).splitlines() if line.strip()] or [""]
            row["refused"] = f"{type(problem).__name__}: {lines[0][:160]}"
        if self.device == "cuda":
            torch.cuda.empty_cache()
        self.keep(row)
        if gpu_farm.poisoned(RuntimeError(row.get("refused", ""))):
            raise SystemExit(f"{row['refused']}: this process can do no more")

    def _measure(self, scene: Scene, contender: Contender, row: Row) -> None:
        call = contender.make(scene)
        tensors = [scene.q, scene.k, scene.v, *contender.extra(scene)]
        do = scene.do
        if contender.layout == "bthd":
            tensors[:3] = [x.transpose(1, 2).contiguous() for x in tensors[:3]]
            do = do.transpose(1, 2).contiguous()
        leaves = [x.detach().requires_grad_() for x in tensors]
        with torch.no_grad():
            o: Tensor = call(*leaves)  # compiles
        o = o.transpose(1, 2) if contender.layout == "bthd" else o
        row["error"] = error_against_float64(scene, contender, o)
        del o

        def forward() -> Any:
            with torch.no_grad():
                return call(*leaves)

        row["forward_mb"] = gpu_timing.peak_mb(self.device, forward)
        row["forward"] = self.clock.forward(lambda: call(*leaves))
        row["forward_tflops"] = scene.forward_flops / row["forward"]["ms"] / 1e9

        def both() -> Any:
            return torch.autograd.grad(call(*leaves), leaves, do)

        row["total_mb"] = gpu_timing.peak_mb(self.device, both)
        row["backward"] = self.clock.backward(lambda: call(*leaves), leaves, do)
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


def table(bench: Bench, args: argparse.Namespace) -> None:
    lengths = QUICK if args.quick else args.lengths
    chosen = list(REHEARSED) if args.rehearse else shapes(args.dims, lengths)
    for part in args.parts:
        for shape in chosen:
            try:
                scene = Scene(part, shape, bench.device, bench.dtype)
            except REFUSALS as problem:
                bench.left_over.append(f"{part} {shape}: {problem}")
                continue
            for contender in contenders(part):
                if any(word in contender.name for word in args.only):
                    bench.item(scene, contender)
            del scene


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


def warm(args: argparse.Namespace) -> None:
    """Compile what will be timed in many processes at once: one per shape, part and mode."""
    words = [sys.executable, __file__, "--budget-s", "600", "--only", "ours", "--compile-only"]
    commands = []
    if args.modes:
        commands += [[*words, "--modes", "--one", str(i)] for i in range(len(MODE_SHAPES) * len(MODES))]
    else:
        for part in args.parts:
            for d in args.dims:
                for length in ("1024", "16384", "65536"):
                    commands.append([*words, "--parts", part, "--dims", str(d), "--lengths", length])
    running: list[subprocess.Popen[bytes]] = []
    until = time.monotonic() + args.warm_s
    while (commands or running) and time.monotonic() < until:
        while commands and len(running) < args.processes:
            null = subprocess.DEVNULL
            running.append(subprocess.Popen(commands.pop(0), stdout=null, stderr=null))
        time.sleep(0.2)
        running = [p for p in running if p.poll() is None]
    for process in running:
        process.kill()
    print(f"compiled; {len(commands)} not begun, {len(running)} cut off", flush=True)


def compile_only(args: argparse.Namespace) -> None:
    """One forward and one backward of each row that is asked for, nothing timed."""
    from sigmoid_attention.triton import device, launch

    scenes = []
    if args.modes:
        number, which = divmod(args.one, len(MODES))
        launch.MODES["exact"] = getattr(device, MODES[which]).value
        scenes = [("plain", MODE_SHAPES[number])]
    else:
        scenes = [(p, s) for p in args.parts for s in shapes(args.dims, args.lengths)]
    for part, shape in scenes:
        scene = Scene(part, shape, "cuda", getattr(torch, args.dtype))
        contender = contenders(part)[0]
        call = contender.make(scene)
        tensors = [scene.q, scene.k, scene.v, *contender.extra(scene)]
        leaves = [x.detach().requires_grad_() for x in tensors]
        torch.autograd.grad(call(*leaves), leaves, scene.do)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dims", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--lengths", nargs="+", type=int)
    parser.add_argument("--quick", action="store_true", help=f"lengths {QUICK} alone")
    parser.add_argument("--only", nargs="+", default=[""], help="contenders whose name contains one")
    parser.add_argument("--modes", action="store_true", help="each way to compute a weight instead")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--budget-s", type=float, default=60.0, help="after this nothing is begun")
    parser.add_argument("--warm-s", type=float, default=0.0, help="compile in many processes first")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--compile-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.compile_only:
        compile_only(args)
        return
    if args.warm_s and not args.rehearse:
        warm(args)
    bench = Bench(args)
    bench.roof()
    (modes if args.modes else table)(bench, args)
    bench.roof()
    if bench.left_over:
        print(f"{len(bench.left_over)} rows not reached", flush=True)


if __name__ == "__main__":
    main()
