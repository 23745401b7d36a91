"""Check and time the Gluon kernels on a Hopper GPU; every part in a process that may be killed.

    python tools/gpu_gluon.py --out RESULTS.json

Prints one line of JSON per finding and writes all of them. A hang costs its process's limit only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

KINDS = ("plain", "lens", "causal", "alibi", "alibi+lens", "row")
REHEARSE = "DEVICE" in os.environ
SHAPES = (
    (1, 1, 64), (1, 1, 128), (1, 2, 129), (2, 3, 500), (3, 2, 777), (2, 16, 1024), (1, 2, 2047),
)  # fmt: skip
TIMED = {
    64: ((16, 16, 1024), (4, 16, 4096), (1, 16, 16384)),
    128: ((16, 8, 1024), (4, 8, 4096), (1, 8, 16384)),
}
# consumers, warps of each, keys, stages, registers of consumers and loader, overlap
TILES = {
    64: (
        (1, 8, 128, 4, 240, 24, False), (1, 8, 128, 4, 240, 24, True), (1, 8, 64, 6, 240, 24, True),
        (2, 4, 64, 4, 168, 168, False), (2, 4, 64, 4, 168, 168, True),
    ),
    128: (
        (1, 8, 64, 5, 240, 24, False), (1, 8, 64, 5, 240, 24, True), (1, 8, 128, 3, 240, 24, True),
        (1, 8, 128, 3, 240, 24, False), (2, 4, 64, 4, 240, 24, False),
    ),
}  # fmt: skip
DEVICE = os.environ.get("DEVICE", "cuda")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> int:
    """Compile in parallel, check, then time; 0 if all checks pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gluon.json"))
    parser.add_argument("--part", default="", help="for the processes that this one starts")
    parser.add_argument("--skip", default="", help="parts left out: warm, check, time")
    args = parser.parse_args()
    if args.part:
        name, *rest = args.part.split(":")
        for line in {"warm": warm, "check": check, "time": timing}[name](*rest):
            print(json.dumps(line), flush=True)
        return 0
    found: list[dict[str, Any]] = []
    began = time.time()
    if "warm" not in args.skip:
        parts = [f"warm:{d}:{t}:{kind}" for d in TILES for t in DTYPES for kind in KINDS if kind != "lens"]
        parts += [
            f"warm:{d}:bf16:plain:{i}:{mode}"
            for d, tiles in TILES.items() for i in range(len(tiles)) for mode in modes(i)
        ]  # fmt: skip
        with ThreadPoolExecutor(16) as pool:
            for lines in pool.map(lambda part: run(part, 60), parts):
                found += [x for x in lines if "error" in x]
        found.append({"part": "warm", "seconds": round(time.time() - began, 1)})
    if "check" not in args.skip:
        parts = [f"check:{d}:{dtype}" for d in TILES for dtype in DTYPES]
        with ThreadPoolExecutor(4) as pool:
            for lines in pool.map(lambda part: run(part, 30), parts):
                found += lines
    if "time" not in args.skip:
        for d in TILES:
            found += run(f"time:{d}", 30)
    found.append({"part": "all", "seconds": round(time.time() - began, 1)})
    for line in found:
        print(json.dumps(line))
    args.out.write_text(json.dumps(found, indent=1))
    return int(any(x.get("bad") or "error" in x for x in found))


def modes(tile: int) -> tuple[str, ...]:
    return ("quad", "mix", "tail", "tanh") if tile == 0 else ("quad",)


def run(part: str, limit: float) -> list[dict[str, Any]]:
    """The lines that a part prints, and how it failed if it did."""
    command = [sys.executable, __file__, "--part", part]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        error = ""
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            error = f"stopped after {limit} s"
    lines = [json.loads(x) for x in out.splitlines() if x.startswith("{")]
    if process.returncode or error:
        lines.append({"part": part, "error": error or err.strip()[-700:]})
    return lines


def problem(kind: str, shape: tuple[int, int, int], d: int, dtype: str, strided: bool) -> Any:
    """A flat call and nothing else; NaN where nobody looks."""
    from sigmoid_attention.flat import flatten
    from sigmoid_attention.spec import Mask, PositionBias, Weighting

    batch, heads, length = shape
    g = torch.Generator(DEVICE).manual_seed(length + d)
    size = (batch, length, heads, d) if strided else (batch, heads, length, d)
    q, k, v = (torch.randn(size, generator=g, device=DEVICE).to(DTYPES[dtype]) for _ in range(3))
    if strided:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    position, mask = None, Mask(causal="causal" in kind)
    if "alibi" in kind:
        slopes = torch.tensor([2.0 ** -(1 + h % 8) for h in range(heads)], device=DEVICE)
        position = PositionBias.alibi(slopes)
    if "lens" in kind:
        # Utterances of all lengths, one of them empty.
        lens = torch.tensor([max(0, length - 37 * b) for b in range(batch)], device=DEVICE)
        lens[-1] = 0 if batch > 2 else lens[-1]
        mask = Mask(key_lens=lens, query_lens=lens)
        hidden = torch.arange(length, device=DEVICE) >= lens[:, None]
        for x in (q, k, v):
            x.masked_fill_(hidden[:, None, :, None], float("nan"))
    weighting = Weighting("sigmoid", shift=None if kind == "plain" else -2.0)
    if kind == "row":
        weighting, mask = Weighting("sigmoid", shift="-log n"), Mask(causal=True)
    return flatten(q, k, v, weighting, position, mask, None)


def warm(
    d: str, dtype: str, kind: str, tile: str = "0", mode: str = "quad"
) -> Iterator[dict[str, Any]]:
    """Compile what the other parts will call."""
    from sigmoid_attention.gluon import launch

    flat = problem(kind, (2, 2, 192), int(d), dtype, False)
    if kind == "plain" and dtype == "bf16":
        flat = flat._replace(shift=-5.0)
    launch.forward(flat, launch.Tile(*TILES[int(d)][int(tile)]), mode)
    torch.cuda.synchronize()
    yield {"part": "warm", "d": d, "kind": kind}


def expected(flat: Any) -> torch.Tensor:
    """In float64, by the formula."""
    from sigmoid_attention.flat import row_term

    q, k, v = (x.double() for x in (flat.q, flat.k, flat.v))
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    s = q @ k.mT * flat.scale
    term = row_term(flat)
    if term is not None:
        s = s + term.double()[..., None]
    t = torch.arange(q.shape[2], device=q.device)
    key = torch.arange(k.shape[2], device=q.device)
    if flat.slopes_h is not None:
        offset = (key[None, :] + flat.delta - t[:, None]).abs()
        s = s - flat.slopes_h.double()[:, None, None] * offset
    p = torch.sigmoid(s)
    if flat.lo_bt is not None:
        seen = (key >= flat.lo_bt[..., None]) & (key < flat.hi_bt[..., None])
        p = p.masked_fill(~seen[:, None], 0.0)
        unseen = ~seen.any(1)
        v = v.masked_fill(unseen[:, None, :, None], 0.0)
    return p @ v


def check(d: str, dtype: str) -> Iterator[dict[str, Any]]:
    """Outputs against float64, twice for equal bits; error relative to the largest output."""
    from sigmoid_attention.gluon import launch

    for i, shape in enumerate(SHAPES):
        for kind in KINDS:
            flat = problem(kind, shape, int(d), dtype, strided=i % 2 == 1)
            line = {"part": "check", "d": d, "dtype": dtype, "shape": shape, "kind": kind}
            why = launch.refusal(flat)
            if why:
                yield {**line, "error": why}
                continue
            variants = [(TILES[int(d)][0], "quad")]
            if kind == "plain" and dtype == "bf16":
                # All that is timed, as it is compiled for that.
                flat = flat._replace(shift=-5.0)
                variants = [(t, m) for n, t in enumerate(TILES[int(d)]) for m in modes(n)]
            want = expected(flat)
            for tile, mode in variants:
                o = launch.forward(flat, launch.Tile(*tile), mode)
                same = all(
                    torch.equal(o, launch.forward(flat, launch.Tile(*tile), mode))
                    for _ in range(3)
                )
                line["mode"] = mode
                gap = (o.double() - want).abs().amax() / want.abs().amax().clamp(min=1e-9)
                gap = float(gap.nan_to_num(9e9))
                bad = gap > 1.5e-2 or not same
                yield {**line, "tile": tile, "gap": float(f"{gap:.2e}"), "same": same, "bad": bad}


def milliseconds(call: Any) -> float:
    """Median time of one call, calls captured in a CUDA graph."""
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(5):
            call()
    times = []
    for _ in range(7):
        a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        a.record()
        graph.replay()
        b.record()
        torch.cuda.synchronize()
        times.append(a.elapsed_time(b) / 5)
    return sorted(times)[3]


def timing(d: str) -> Iterator[dict[str, Any]]:
    """TFLOP/s of each tile and mode beside SDPA's."""
    from sigmoid_attention.gluon import launch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    channels = int(d)
    for shape in TIMED[channels]:
        batch, heads, length = shape
        flops = 4.0 * batch * heads * length * length * channels
        flat = problem("plain", shape, channels, "bf16", False)
        flat = flat._replace(shift=-float(torch.tensor(float(length)).log()))
        line = {"part": "time", "d": channels, "shape": shape}
        calls = {}
        for i, numbers in enumerate(TILES[channels]):
            tile = launch.Tile(*numbers)
            for mode in modes(i):
                name = "x".join(map(str, numbers)) + " " + mode
                calls[name] = (lambda t, m: lambda: launch.forward(flat, t, m))(tile, mode)
        first = launch.Tile(*TILES[channels][0])
        calls["a block per item"] = lambda: launch.forward(flat, first, "quad", 10**6)  # noqa: B023
        for name, call in calls.items():
            try:
                ms = milliseconds(call)
                yield {**line, "name": name, "ms": round(ms, 4), "tflops": round(flops / ms / 1e9)}
            except Exception as error:  # noqa: BLE001  # one variant's failure is a finding
                yield {**line, "name": name, "error": repr(error)[-300:]}
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            with sdpa_kernel(backend):
                ms = milliseconds(lambda: F.scaled_dot_product_attention(flat.q, flat.k, flat.v))
            name = backend.name.lower()
            yield {**line, "name": name, "ms": round(ms, 4), "tflops": round(flops / ms / 1e9)}


if __name__ == "__main__":
    sys.exit(main())
