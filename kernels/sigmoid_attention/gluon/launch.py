"""Launches of the Gluon kernels for a flat call; contract as in ``triton/launch.py``."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ..flat import Flat, row_term
from .forward import forward_kernel
from .weights import MIX, QUAD, TAIL, TANH

TYPES = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16}
MODES = {"quad": QUAD.value, "mix": MIX.value, "tail": TAIL.value, "tanh": TANH.value}
BY_PRECISION = {"exact": "quad", "fast": "tanh"}


@dataclass(frozen=True)
class Tile:
    """Consumers, their warps of 16 rows, keys of a tile, slots of the ring, registers by kind.

    Registers of the first consumer are what the others leave.
    """

    consumers: int
    warps: int
    keys: int
    stages: int
    consumer_registers: int
    loader_registers: int
    # Whether weights are formed while the products with those before them run. ptxas then reuses
    # registers that such a product may still read.
    overlap: bool = False


# One consumer of two groups of four warps: products in any partition but the first are made
# synchronous by ptxas (C7512) where another one has few registers.
TILES = {64: Tile(1, 8, 128, 4, 240, 24, False), 128: Tile(1, 8, 64, 5, 240, 24, False)}


def refusal(flat: Flat) -> str | None:
    """Why the kernels cannot serve a call, or None where they can."""
    q, k, v = flat.q, flat.k, flat.v
    if q.dtype not in TYPES:
        return f"it has float16 and bfloat16, not {q.dtype}"
    if q.shape[3] not in TILES or v.shape[3] != q.shape[3]:
        return f"it has {sorted(TILES)} channels of q, k and v, not {q.shape[3]} and {v.shape[3]}"
    if flat.map != "sigmoid":
        return f"it has sigmoid only, not {flat.map!r}"
    if flat.table_hp is not None or flat.r_hpd is not None:
        return "it has no position table and no relative positions"
    if q.device.type != "cuda" or torch.cuda.get_device_capability(q.device)[0] != 9:
        return "it runs on Hopper (sm_90) only"
    if min(k.shape[2], q.shape[2]) == 0:
        return "there is nothing to attend to"
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.stride(3) != 1 or any(n * x.element_size() % 16 for n in x.stride()[:3]):
            return f"strides of {name} are no multiples of 16 bytes"
        if x.data_ptr() % 16:
            return f"{name} does not start at a multiple of 16 bytes"
    return None


@triton.jit
def ranges_kernel(
    lo, hi, ranges, num_queries, num_keys, blocks,
    M: tl.constexpr, WIDE: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """(B', blocks, 5) of blocks of M queries: first key, end, tiles, whole tiles from and to.

    Rows that see nothing are left out: they may pass whole tiles with the others.
    """
    block, batch = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, WIDE)
    rows = block * M + at
    inside = (at < M) & (rows < num_queries)
    lo_t = tl.load(lo + batch * num_queries + rows, mask=inside, other=0)
    hi_t = tl.load(hi + batch * num_queries + rows, mask=inside, other=0)
    sees = hi_t > lo_t
    end = tl.max(tl.where(sees, hi_t, 0), 0)
    start = tl.minimum(tl.min(tl.where(sees, lo_t, num_keys), 0), end)
    tiles = tl.cdiv(end - start, N)
    latest_lo = tl.max(tl.where(sees, lo_t, start), 0)
    first_hi = tl.min(tl.where(sees, hi_t, end), 0)
    full_from = tl.minimum(tl.cdiv(latest_lo - start, N), tiles)
    full_to = tl.maximum(tl.maximum(first_hi - start, 0) // N, full_from)
    out = ranges + (batch * blocks + block) * 5
    tl.store(out, start)
    tl.store(out + 1, end)
    tl.store(out + 2, tiles)
    tl.store(out + 3, full_from)
    tl.store(out + 4, full_to)


def forward(flat: Flat, tile: Tile | None = None, mode: str | None = None, grid: int = 0) -> Tensor:
    """o_bhtd of a flat call that `refusal` has nothing against; grid: blocks, 0 for one per SM."""
    batch, heads, num_queries, d = flat.q.shape
    num_keys = flat.k.shape[2]
    tile = tile or TILES[d]
    mode = mode or BY_PRECISION[flat.precision]
    o = flat.q.new_empty(batch, heads, num_queries, d)
    part = 16 * tile.warps
    rows = tile.consumers * part
    blocks = triton.cdiv(num_queries, rows)
    pairs = batch * heads
    descriptors = [
        _descriptor(x, n) for x, n in ((flat.q, part), (flat.k, tile.keys), (flat.v, tile.keys))
    ]
    some = flat.q
    with torch.cuda.device(some.device):
        lo, hi, ranges = _runs(flat, rows, tile.keys, blocks)
        row = row_term(_flat_rows(flat))
        row_kind = 0 if row is None else (1 if row.shape[2] == 1 else 2)
        slopes = None if flat.slopes_h is None else flat.slopes_h.float().contiguous()
        arrays = [some if x is None else x for x in (lo, hi, row, slopes, ranges)]
        many = lo is not None and lo.shape[0] > 1
        runs_b, ranges_b = (num_queries, blocks * 5) if many else (0, 0)
        row_strides = (
            [0] * 3 if row is None else [row.stride(i) * (row.shape[i] > 1) for i in range(3)]
        )
        # Masks that cut: heads side by side, longest rows first; else the rows of one head together.
        span = 8 if lo is not None else 1
        grid = grid or _multiprocessors(some.device.index or 0)
        forward_kernel[(min(grid, blocks * pairs),)](
            *descriptors, o, *arrays, runs_b, ranges_b, *row_strides, *o.stride()[:3],
            num_queries, num_keys, flat.delta, heads, heads // flat.k.shape[1], blocks, pairs, span, flat.scale,
            **constants(tile, d, mode, lo is not None, row_kind, slopes is not None),
            num_warps=tile.warps,
        )  # fmt: skip
    return o


def constants(tile: Tile, d: int, mode: str, runs: bool, row: int, alibi: bool) -> dict[str, Any]:
    """Compile-time arguments."""
    return {
        "CONSUMERS": tile.consumers,
        "N": tile.keys,
        "D": d,
        "STAGES": tile.stages,
        "HAS_RUNS": runs,
        "ROW": row,
        "ALIBI": alibi,
        "MODE": MODES[mode],
        "OVERLAP": tile.overlap,
        "CONSUMER_REGISTERS": tile.consumer_registers,
        "LOADER_REGISTERS": tile.loader_registers,
    }


def _descriptor(x: Tensor, rows: int) -> Any:
    block = [1, 1, rows, x.shape[3]]
    layout = gl.NVMMASharedLayout.get_default_for(block, TYPES[x.dtype])
    # A size of 1 may have any stride; the hardware asks for multiples of 16 bytes.
    strides = [n if size > 1 else 8 for n, size in zip(x.stride()[:3], x.shape[:3], strict=True)]
    return TensorDescriptor(x, list(x.shape), [*strides, 1], block, layout)


def _flat_rows(flat: Flat) -> Flat:
    """The call with one row term where all rows of an utterance show the same memory."""
    row = flat.row_shift_bt
    if row is None or row.stride(1) or row.shape[1] < 2:
        return flat
    return flat._replace(row_shift_bt=row[:, :1])


def _runs(flat: Flat, rows: int, keys: int, blocks: int) -> tuple[Tensor | None, ...]:
    if flat.lo_bt is None or flat.hi_bt is None:
        return None, None, None
    lo, hi = flat.lo_bt.contiguous(), flat.hi_bt.contiguous()
    ranges = lo.new_empty(lo.shape[0], blocks, 5)
    wide = triton.next_power_of_2(rows)
    ranges_kernel[(blocks, lo.shape[0])](
        lo, hi, ranges, flat.q.shape[2], flat.k.shape[2], blocks, M=rows, WIDE=wide, N=keys
    )
    return lo, hi, ranges


@functools.cache
def _multiprocessors(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
