"""Time attention: our backends beside PyTorch's, all of them interleaved in one run.

    python tools/bench_attention.py                                  # CPU, the shapes of the gates
    python tools/bench_attention.py --device cuda --dtype bfloat16 --shapes 4,16,4096,64
    python tools/bench_attention.py --shapes 1,1,16384,64 --only blockwise --repeats 1
    python tools/bench_attention.py --threads 2 --out docs/results/attention-cpu   # .json .md .png

Every figure is a median over rounds in which each contender runs once, so that a busy machine slows
all alike; only ratios within one run count. Beside each time stand the largest error against
float64 (relative to the largest output), and the peak of extra memory. What could not run is listed
with the reason. The roof is the best rate of plain products seen before, between and after.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_contenders import Contender, Shape, ours, theirs
from bench_report import Result, Row, show, write
from bench_roof import Roof
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


def extra_memory_mb(step: Callable[[], None], device: str) -> float:
    """Peak beyond what was held before; on the CPU by the process's resident pages."""
    before: float
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or memory freed earlier would be used again unseen
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    except (OSError, AttributeError):
        return float("nan")
    before = _status_kb("VmRSS")
    step()
    return (_status_kb("VmHWM") - before) / 1e3


def _status_kb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return float(line.split()[1])
    return float("nan")


def timed(step: Callable[[], None], device: str) -> float:
    """Milliseconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def measure(
    contenders: list[Contender], shape: Shape, device: str, dtype: torch.dtype, repeats: int
) -> tuple[list[Row], dict[str, str]]:
    """Rows of those that run, and the reasons of those that do not."""
    g = torch.Generator().manual_seed(0)
    size = (shape.b, shape.h, shape.t, shape.d)
    q, k, v, do = (torch.randn(size, generator=g).to(device, dtype) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    rows: dict[str, Row] = {}
    forwards: dict[str, Callable[[], None]] = {}
    totals: dict[str, Callable[[], None]] = {}
    missing: dict[str, str] = {}
    for c in contenders:
        forward, total = _steps(c, leaves, do)
        try:
            error = relative_error(c, q.detach(), k.detach(), v.detach())
            extra = extra_memory_mb(forward, device)
        except REFUSALS as problem:
            missing[c.name] = _first_line(problem)
            continue
        forwards[c.name] = forward
        rows[c.name] = Row(c.name, 0.0, None, 0.0, None, error, extra)
        try:
            total()
            rows[c.name].extra_mb = extra_memory_mb(total, device)
            totals[c.name] = total
        except REFUSALS as problem:
            missing[f"{c.name}, backward"] = _first_line(problem)
    for _ in range(repeats):
        for name, forward in forwards.items():
            rows[name].times_forward.append(timed(forward, device))
    for _ in range(repeats):
        for name, total in totals.items():
            rows[name].times_total.append(timed(total, device))
    for row in rows.values():
        _summarise(row, shape)
    return list(rows.values()), missing


def _first_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"


def _steps(
    c: Contender, leaves: list[Tensor], do: Tensor
) -> tuple[Callable[[], None], Callable[[], None]]:
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


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions, commit and command."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = models[0].split(":")[1].strip() if models else cpu
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else None
    return {
        "command": "python tools/bench_attention.py " + " ".join(sys.argv[1:]),
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "dtype": args.dtype,
    }


def bench(shape: Shape, args: argparse.Namespace, dtype: torch.dtype) -> Result:
    """One shape: every contender that is asked for."""
    contenders = theirs(shape, args.device, args.positions, args.flex)
    contenders += ours(shape, args.device, dtype, args.positions)
    contenders = [c for c in contenders if args.only in c.name]
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
    parser.add_argument("--only", default="", help="contenders whose name contains this")
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
    env = environment(args)
    print(json.dumps(env, indent=1))
    roof = Roof(args.device, dtype)
    roof.measure()
    results: list[Result] = []
    for text in args.shapes:
        results.append(bench(Shape(*map(int, text.split(","))), args, dtype))
        show(results[-1])
        roof.measure()
        if args.out:
            write(args.out, env, roof.best_tflops, results)
    print(f"\nroof: {roof.best_tflops:.3g} TFLOP/s")


if __name__ == "__main__":
    main()
