"""Time attention: our backends beside PyTorch's, all of them interleaved in one run.

    python tools/bench_attention.py                                  # CPU, the shapes of the gates
    python tools/bench_attention.py --device cuda --dtype bfloat16 --shapes 4,16,4096,64
    python tools/bench_attention.py --shapes 1,1,16384,64 --only blockwise "sdpa flash" --repeats 1
    python tools/bench_attention.py --threads 2 --out docs/results/attention-cpu   # .json .md .png

Every figure is a median over rounds in which each contender runs once, so that a busy machine slows
all alike; only ratios within one run count. Beside each time stand the largest error against
float64 (relative to the largest output), and the peak of extra memory. What could not run is listed
with the reason. The roof is the best rate of plain products seen before, between and after. The
bounds of bench_gates.py are judged at the shapes for which they are set.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import bench_gates
import torch
from bench_contenders import Contender, Shape, ours, theirs
from bench_report import Result, Row, show, write
from bench_roof import Roof
from measure import Step, environment, interleaved_ms, peak_extra_gpu_mb, peak_extra_mb
from sigmoid_attention import reference
from torch import Tensor

GATE_SHAPES = ("8,4,250,64", "4,8,1000,64", "1,8,4000,64")
POSITIONS = ("none", "alibi", "table", "relative")
ERROR_ROWS = 64  # queries compared with float64; all of them would need the full matrix
MATRIX_LIMIT_BYTES = 5e8  # full-matrix contenders beyond this are left out
# What a kernel, a compiler or this machine may raise instead of running.
REFUSALS = (RuntimeError, ValueError, NotImplementedError, AssertionError)


def relative_error(c: Contender, q: Tensor, k: Tensor, v: Tensor) -> float:
    """Largest difference from float64 over the first rows, over the largest output there."""
    with torch.no_grad():
        got = c.run(q, k, v)[:1, :, :ERROR_ROWS].double()
        first = [x[:1].double() for x in (q[:, :, :ERROR_ROWS], k, v)]
        how: dict[str, Any] = {"weighting": c.weighting, "position": c.position}
        exact = reference.attend(*first, **how)
    return float((got - exact).abs().max() / exact.abs().max())


def measure(
    contenders: list[Contender], shape: Shape, device: str, dtype: torch.dtype, repeats: int
) -> tuple[list[Row], dict[str, str]]:
    """Rows of those that run, and the reasons of those that do not."""
    g = torch.Generator().manual_seed(0)
    size = (shape.b, shape.h, shape.t, shape.d)
    q, k, v, do = (torch.randn(size, generator=g).to(device, dtype) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    extra_mb = peak_extra_gpu_mb if device == "cuda" else peak_extra_mb
    rows: dict[str, Row] = {}
    forwards: dict[str, Step] = {}
    totals: dict[str, Step] = {}
    missing: dict[str, str] = {}
    for c in contenders:
        forward, total = _steps(c, leaves, do)
        try:
            error = relative_error(c, q.detach(), k.detach(), v.detach())
            extra = extra_mb(forward)
        except REFUSALS as problem:
            missing[c.name] = _first_line(problem)
            continue
        forwards[c.name] = forward
        rows[c.name] = Row(c.name, 0.0, None, 0.0, None, error, extra)
        try:
            total()
            rows[c.name].extra_mb = extra_mb(total)
            totals[c.name] = total
        except REFUSALS as problem:
            missing[f"{c.name}, backward"] = _first_line(problem)
    for name, times in interleaved_ms(forwards, repeats).items():
        rows[name].times_forward = times
    for name, times in interleaved_ms(totals, repeats).items():
        rows[name].times_total = times
    for row in rows.values():
        _summarise(row, shape)
    return list(rows.values()), missing


def _first_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"


def _steps(c: Contender, leaves: list[Tensor], do: Tensor) -> tuple[Step, Step]:
    def forward() -> None:
        with torch.no_grad():
            c.run(*leaves)

    def total() -> None:
        for x in leaves:
            x.grad = None
        c.run(*leaves).backward(do)

    return forward, total


def _summarise(row: Row, shape: Shape) -> None:
    row.forward_ms = statistics.median(row.times_forward)
    row.forward_tflops = shape.flops(False) / row.forward_ms / 1e9
    if row.times_total:
        row.total_ms = statistics.median(row.times_total)
        row.total_tflops = shape.flops(True) / row.total_ms / 1e9


def bench(shape: Shape, args: argparse.Namespace, dtype: torch.dtype) -> Result:
    """One shape: every contender that is asked for."""
    contenders = theirs(shape, args.device, args.positions, args.flex)
    contenders += ours(shape, args.device, dtype, args.positions)
    known = [c.name for c in contenders]
    contenders = [c for c in contenders if any(part in c.name for part in args.only)]
    if not contenders:
        raise SystemExit(f"--only: got {' '.join(args.only)}, allowed: parts of {known}")
    missing = {}
    if shape.matrix_bytes > MATRIX_LIMIT_BYTES:
        full = [c.name for c in contenders if "full matrix" in c.name or "math" in c.name]
        missing = dict.fromkeys(full, "the full matrix would take too much memory")
    chosen = [c for c in contenders if c.name not in missing]
    rows, failed = measure(chosen, shape, args.device, dtype, args.repeats)
    return Result(shape, rows, missing | failed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument(
        "--shapes", nargs="+", default=GATE_SHAPES, help="batch,heads,frames,channels"
    )
    parser.add_argument("--positions", nargs="+", choices=POSITIONS, default=list(POSITIONS))
    parser.add_argument(
        "--only", nargs="+", default=[""], help="contenders whose name contains one of these"
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch has it")
    parser.add_argument(
        "--flex",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="FlexAttention too, which compiles first",
    )
    parser.add_argument("--out", type=Path, help="write OUT.json, OUT.md and OUT.png")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    env = environment("python tools/bench_attention.py", ("torch", "triton"))
    env |= {
        "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None,
        "dtype": args.dtype,
    }
    print(json.dumps(env, indent=1))
    roof = Roof(args.device, dtype)
    roof.measure()
    results: list[Result] = []
    for text in args.shapes:
        results.append(bench(Shape(*map(int, text.split(","))), args, dtype))
        show(results[-1])
        roof.measure()
        if args.out:
            write(args.out, env, roof.best_tflops, results, bench_gates.lines(results))
    print(f"\nroof: {roof.best_tflops:.3g} TFLOP/s", *bench_gates.lines(results), sep="\n")


if __name__ == "__main__":
    main()
