"""Time attention: our backends beside PyTorch's, all of them interleaved in one run.

    python tools/bench_attention.py                                  # CPU, the shapes of the gates
    python tools/bench_attention.py --device cuda --dtype bfloat16 --shapes 4,16,4096,64
    python tools/bench_attention.py --shapes 1,1,16384,64 --only blockwise --repeats 1

Every figure is a median over rounds in which each contender runs once, so that a busy machine slows
all alike; only ratios within one run count. Beside each time stand the largest error against
float64 (relative to the largest output), and the peak of extra memory. What could not run is listed
with the reason.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from sigmoid_attention import PositionBias, Weighting, reference, resolve
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

GATE_SHAPES = ("8,4,250,64", "4,8,1000,64", "1,8,4000,64")
POSITIONS = ("none", "alibi", "table", "relative")
SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
ERROR_ROWS = 64  # queries compared with float64; all of them would need the full matrix
MEMORY_LIMIT_BYTES = 4e9  # full-matrix contenders beyond this are left out

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Shape:
    """Batch, heads, frames (queries and keys), channels."""

    b: int
    h: int
    t: int
    d: int

    @property
    def matrix_bytes(self) -> float:
        return 4.0 * self.b * self.h * self.t**2

    def flops(self, backward: bool) -> float:
        """Multiply-adds of the products times two; a backward has five beside the forward's two."""
        return 4.0 * self.b * self.h * self.t**2 * self.d * (3.5 if backward else 1.0)


@dataclass
class Contender:
    """One way to compute attention, and the weighting its error is measured against."""

    name: str
    run: Attention
    weighting: Weighting
    position: PositionBias | None = None
    backward: bool = True


@dataclass
class Row:
    """What was measured of one contender at one shape; times in ms, memory in MB."""

    name: str
    forward_ms: float
    total_ms: float | None
    forward_tflops: float
    total_tflops: float | None
    relative_error: float
    extra_mb: float
    times_forward: list[float] = field(default_factory=list)
    times_total: list[float] = field(default_factory=list)


def positions(shape: Shape, device: str) -> dict[str, PositionBias | None]:
    """One position bias of each kind."""
    g = torch.Generator().manual_seed(1)

    def new(*size: int) -> Tensor:
        return torch.rand(*size, generator=g).to(device)

    h, t, d = shape.h, shape.t, shape.d
    r_hpd = new(h, 2 * t - 1, d) - 0.5
    return {
        "none": None,
        "alibi": PositionBias.alibi(new(h) * 0.1),
        "table": PositionBias.table(new(h, 257), 128),
        "relative": PositionBias.relative(new(h, d), new(h, d), r_hpd, t - 1),
    }


def ours(shape: Shape, device: str, dtype: torch.dtype, kinds: list[str]) -> list[Contender]:
    """Every backend of ours that serves here, for sigmoid with each position, and softmax."""
    every = positions(shape, device)
    backends = ["triton", "blockwise"] if device == "cuda" else ["blockwise"]
    out = []
    for backend in backends:
        for kind in kinds:
            weightings = [Weighting.sigmoid()] + ([Weighting.softmax()] if kind == "none" else [])
            for weighting in weightings:
                if backend == "triton" and weighting.map == "softmax":
                    continue
                chosen = resolve(weighting, kind_or_none(kind), None, device, dtype, backend)
                name = f"{backend} ({chosen.engine}) {weighting.map} {kind}"
                position = every[kind]

                def run(q: Tensor, k: Tensor, v: Tensor, c=chosen, p=position) -> Tensor:  # type: ignore[no-untyped-def]
                    result: Tensor = c(q, k, v, position=p)
                    return result

                out.append(Contender(name, run, weighting, position))
    return out


def kind_or_none(kind: str) -> str | None:
    return None if kind == "none" else kind


def theirs(shape: Shape, device: str, flex: bool) -> list[Contender]:
    """PyTorch's softmax kernels, the full matrix, and FlexAttention made to imitate sigmoid."""

    def with_backend(backend: SDPBackend) -> Attention:
        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        return run

    def full_matrix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = q @ k.mT * shape.d**-0.5 - math.log(shape.t)
        return s.sigmoid() @ v

    names = SDPA if device == "cuda" else {"flash": SDPA["flash"], "math": SDPA["math"]}
    out = [
        Contender(f"sdpa {n} softmax", with_backend(b), Weighting.softmax())
        for n, b in names.items()
    ]
    out.append(Contender("full matrix sigmoid", full_matrix, Weighting.sigmoid()))
    if flex:
        out.append(flex_attention(shape, device))
    return out


def flex_attention(shape: Shape, device: str) -> Contender:
    """softmax(logsigmoid(x)) times its own normaliser is sigmoid(x); no backward on the CPU."""
    from torch.nn.attention.flex_attention import flex_attention as flex

    shift = math.log(shape.t)

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return F.logsigmoid(s - shift)

    compiled = torch.compile(flex)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        o, lse = compiled(q, k, v, score_mod=score, return_lse=True)
        assert isinstance(lse, Tensor)
        result: Tensor = o * lse.exp()[..., None].to(o.dtype)
        return result

    name = "flex score_mod sigmoid"
    return Contender(name, run, Weighting.sigmoid(), backward=device == "cuda")


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
    steps: dict[str, tuple[Callable[[], None], Callable[[], None] | None]] = {}
    missing: dict[str, str] = {}
    for c in contenders:
        forward, total = _steps(c, leaves, do)
        try:
            error = relative_error(c, q.detach(), k.detach(), v.detach())
            extra = extra_memory_mb(total if c.backward else forward, device)
        except (RuntimeError, ValueError) as problem:
            missing[c.name] = str(problem).splitlines()[0]
            continue
        steps[c.name] = (forward, total if c.backward else None)
        rows[c.name] = Row(c.name, 0.0, None, 0.0, None, error, extra)
    for _ in range(repeats):
        for name, (forward, _) in steps.items():
            rows[name].times_forward.append(timed(forward, device))
    for _ in range(repeats):
        for name, (_, both) in steps.items():
            if both is not None:
                rows[name].times_total.append(timed(both, device))
    for row in rows.values():
        _summarise(row, shape)
    return list(rows.values()), missing


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


def roof_tflops(device: str, dtype: torch.dtype) -> float:
    """The matrix product's own rate in this run: what attention cannot exceed."""
    size = 8192 if device == "cuda" else 1536
    a = torch.randn(size, size, device=device, dtype=dtype)

    def product() -> None:
        torch.mm(a, a)

    times = [timed(product, device) for _ in range(6)]
    return 2 * size**3 / min(times[1:]) / 1e9


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


def show(shape: Shape, rows: list[Row], missing: dict[str, str]) -> None:
    """One table on the terminal; ratios are to the first row."""
    print(f"\n{asdict(shape)}")
    print(f"{'':42}{'fwd ms':>9}{'ratio':>7}{'f+b ms':>9}{'ratio':>7}{'error':>9}{'MB':>8}")
    first = rows[0]
    for row in rows:
        both, ratio = "-", "-"
        if row.total_ms is not None:
            both = f"{row.total_ms:.2f}"
            ratio = f"{row.total_ms / first.total_ms:.2f}" if first.total_ms else "-"
        print(
            f"{row.name:42}{row.forward_ms:9.2f}{row.forward_ms / first.forward_ms:7.2f}"
            f"{both:>9}{ratio:>7}{row.relative_error:9.1e}{row.extra_mb:8.1f}"
        )
    for name, reason in missing.items():
        print(f"{name:42}could not run: {reason}")


def plot(results: list[dict[str, Any]], roof: float, path: Path) -> None:
    """Forward rates over time, with the matrix product's rate as the roof."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    names = {row["name"] for result in results for row in result["rows"]}
    for name in sorted(names):
        points = [
            (result["shape"]["t"], row["forward_tflops"])
            for result in results
            for row in result["rows"]
            if row["name"] == name
        ]
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.axhline(roof, linestyle="--", color="black", label="matrix product (roof)")
    axes.set(xscale="log", xlabel="frames", ylabel="TFLOP/s, forward")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


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
    parser.add_argument("--flex", action="store_true", help="FlexAttention too; it compiles first")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--plot", type=Path, help="PNG")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    roof = roof_tflops(args.device, dtype)
    env = environment(args)
    print(json.dumps(env, indent=1), f"\nroof: {roof:.3g} TFLOP/s")
    results = []
    for text in args.shapes:
        shape = Shape(*map(int, text.split(",")))
        contenders = theirs(shape, args.device, args.flex) + ours(
            shape, args.device, dtype, args.positions
        )
        missing = {}
        if shape.matrix_bytes > MEMORY_LIMIT_BYTES / 8:
            full = [c.name for c in contenders if "full matrix" in c.name or "math" in c.name]
            missing = dict.fromkeys(full, "the full matrix would take too much memory")
        chosen = [c for c in contenders if args.only in c.name and c.name not in missing]
        rows, failed = measure(chosen, shape, args.device, dtype, args.repeats)
        show(shape, rows, missing | failed)
        results.append(
            {
                "shape": asdict(shape),
                "rows": [asdict(row) for row in rows],
                "could_not_run": missing | failed,
            }
        )
        if args.out:
            whole = {"environment": env, "roof_tflops": roof, "results": results}
            args.out.write_text(json.dumps(whole, indent=1) + "\n")
    if args.plot:
        plot(results, roof, args.plot)


if __name__ == "__main__":
    main()
