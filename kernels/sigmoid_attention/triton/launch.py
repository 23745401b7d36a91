"""Launches of the kernels for a flat call: strides, grids and output memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from ..flat import Flat, row_term
from ..tiles import Sums
from ..weightings import MAPS
from . import device, weightings
from .backward import key_kernel, offset_kernel, query_kernel, rows_kernel
from .configs import INTERPRETED, Config, choose, own_row, row_name
from .forward import forward_kernel

POSITIONS = ("none", "alibi", "table", "relative")  # by their number in the kernels
MODES = {"exact": device.QUAD.value, "fast": device.TANH.value}
# Offsets of a tile's rows are 32 bits wide.
MOST_STRIDE = 2**23


def mode_for(mode: int, kernel: str, pairs: bool) -> int:
    """Return how a kernel computes weights.

    pairs: not in fours, whose error float32 would show and which move through shared memory where
    warps lie along keys, as on any but sm_90. Never in fours by offset: weights end at 2^-31 then,
    and the gradient of a slope multiplies what is left of far keys by their distance.
    """
    if mode == device.QUAD.value and (pairs or kernel == "offset"):
        return int(device.SHARED.value)
    return mode


def mode_of(flat: Flat, kernel: str, pairs: bool) -> int:
    """Return how a kernel computes the weights of a call; see `mode_for` for sigmoid's."""
    if flat.map in weightings.MODES:
        return int(weightings.MODES[flat.map])
    return mode_for(MODES[flat.precision], kernel, pairs)


def hopper(arch: int) -> bool:
    """Tell whether products are asynchronous and warps lie along the rows of a tile (wgmma)."""
    return arch // 10 == 9


def stepped(arch: int, float32: bool) -> bool:
    """Tell whether registers allow to hold the addresses of whole tiles."""
    return hopper(arch) and not float32


def interpreted() -> bool:
    """Tell whether Triton runs the kernels in its interpreter, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


# Tiles by device and row of the table, where the table's did not fit.
SMALLER: dict[tuple[torch.device, str], Config] = {}
T = TypeVar("T")


class Launch:
    """The state that all kernels of one call share."""

    def __init__(self, flat: Flat) -> None:
        self.flat = flat
        self.batch, self.heads, self.num_queries, self.d = flat.q.shape
        self.kv_heads, self.num_keys = flat.k.shape[1:3]
        self.dv = flat.v.shape[3]
        self.q, self.k, self.v = (_adjacent(x) for x in (flat.q, flat.k, flat.v))
        self.qv = self.r = None
        if flat.u_hd is not None and flat.vb_hd is not None and flat.r_hpd is not None:
            # Added here and not in the kernels, whose loads then go straight to shared memory.
            dtype = flat.q.dtype
            self.q = (flat.q + flat.u_hd[:, None]).to(dtype).contiguous()
            self.qv = (flat.q + flat.vb_hd[:, None]).to(dtype).contiguous()
            self.r = flat.r_hpd.to(dtype).contiguous()
        self.lo, self.hi = (None if x is None else x.contiguous() for x in (flat.lo_bt, flat.hi_bt))
        self.row, self.factor = _row_values(flat)
        self.position = _position(flat)
        self.slopes, self.table = (
            None if x is None else x.contiguous() for x in (flat.slopes_h, flat.table_hp)
        )

    def arch(self) -> int:
        """The device's capability, 90 for 9.0; which the interpreter plays."""
        if interpreted():
            return 90
        major, minor = torch.cuda.get_device_capability(self.q.device)
        return 10 * major + minor

    def config(self, kernel: str) -> Config:
        """The tile for this call."""
        if interpreted():
            return INTERPRETED[kernel]
        return SMALLER.get(self.place(kernel)) or choose(self.arch(), self.place(kernel)[1])

    def stepped(self) -> bool:
        """Tell whether addresses are stepped; see `stepped`. The interpreter, which has no float32 of
        its own to spare registers for, shows both ways by the type."""
        return stepped(self.arch(), self.q.dtype == torch.float32)

    def place(self, kernel: str) -> tuple[torch.device, str]:
        """The device, and the table's row for this call."""
        position, wide = POSITIONS[self.position], self.q.dtype == torch.float32
        row = row_name(kernel, max(self.d, self.dv), position, wide)
        return self.q.device, own_row(self.arch(), row, self.flat.map)

    def pointers(self) -> list[Tensor]:
        """lo, hi, row, factor, slopes, table, qv, r; anything for those a kernel does not read."""
        some = (self.lo, self.hi, self.row, self.factor, self.slopes, self.table, self.qv, self.r)
        return [self.q if x is None else x for x in some]

    def seen(self) -> tuple[Tensor, int]:
        """(B', 2) int32, the first and last key any row of the utterance sees, and its stride."""
        if self.lo is None or self.hi is None:
            return self.q, 0
        empty = self.hi <= self.lo
        first = self.lo.masked_fill(empty, self.num_keys).amin(1)
        seen = torch.stack([first, self.hi.amax(1)], 1).int()
        return seen, int(seen.shape[0] > 1)

    def strides(self, *more: Tensor) -> list[int]:
        """Batch, head and time strides of q, k, v and others, then those of runs and row values."""
        out = [n for x in (self.q, self.k, self.v, *more) for n in x.stride()[:3]]
        out.append(self.num_queries if self.hi is not None and self.hi.shape[0] > 1 else 0)
        row = self.factor if self.row is None else self.row
        out += [0, 0, 0] if row is None else [row.stride(i) * (row.shape[i] > 1) for i in range(3)]
        return out

    def numbers(self) -> list[Any]:
        flat, table = self.flat, self.table if self.table is not None else self.r
        num_offsets = 0 if table is None else table.shape[1]
        counts = [self.num_queries, self.num_keys, flat.delta, flat.zero, num_offsets]
        return [*counts, flat.scale]

    def options(self, kernel: str, config: Config) -> dict[str, Any]:
        """Compile-time arguments."""
        pairs = self.q.dtype == torch.float32 or not hopper(self.arch())
        return {
            "HEADS": self.heads,
            "GROUP": self.heads // self.kv_heads,
            "D": self.d,
            "DV": self.dv,
            "BD": max(16, triton.next_power_of_2(self.d)),
            "BDV": max(16, triton.next_power_of_2(self.dv)),
            "BM": config.bm,
            "BN": config.bn,
            "POSITION": self.position,
            "HAS_RUNS": self.hi is not None,
            "HAS_ROW": _per_row(self.row),
            "HAS_FACTOR": _per_row(self.factor),
            "MODE": mode_of(self.flat, kernel, pairs),
            "ASM": not interpreted(),
            "PRECISION": "ieee",
            "num_warps": config.warps,
            "num_stages": config.stages,
        }


def forward(flat: Flat) -> Tensor:
    """o_bhtd of a flat call."""
    x = Launch(flat)
    return fitting(x, "forward", lambda: forward_pass(x))


def forward_pass(x: Launch) -> Tensor:
    """o_bhtd by the forward kernel."""
    config = x.config("forward")
    o = x.flat.q.new_empty(x.batch, x.heads, x.num_queries, x.dv)
    grid = (triton.cdiv(x.num_queries, config.bm), x.batch * x.heads)
    if o.numel():
        forward_kernel[grid](
            x.q, x.k, x.v, o, *x.pointers(), *x.strides(o), *x.numbers(),
            **x.options("forward", config),
            STEPPED=x.stepped(), BOUNDED=MAPS[x.flat.map].bounded,
        )  # fmt: skip
    return o


def backward(flat: Flat, do: Tensor, row: bool, by_offset: bool) -> Sums:
    """Gradient sums of a flat call, given that of its output; `row`, `by_offset`: wanted too."""
    x = Launch(flat)
    do = _adjacent(do)
    sums = fitting(x, "query", lambda: query_pass(x, do, row))
    fitting(x, "key", lambda: key_pass(x, do, sums))
    if by_offset or flat.r_hpd is not None:
        fitting(x, "offset", lambda: offset_pass(x, do, sums))
    return sums


def fitting(x: Launch, kernel: str, run: Callable[[], T]) -> T:
    """Return what `run` gives; where the device has less shared memory than a tile takes, with a
    smaller tile, which later calls then take at once."""
    while True:
        try:
            return run()
        except OutOfResources:
            smaller = x.config(kernel).smaller()
            if smaller is None:
                raise
            SMALLER[x.place(kernel)] = smaller


def _new(x: Launch, *shape: int) -> Tensor:
    return x.q.new_empty(shape, dtype=torch.float32)


def query_pass(x: Launch, do: Tensor, row: bool) -> Sums:
    config = x.config("query")
    dq = x.q.new_empty(x.batch, x.heads, x.num_queries, x.d)
    drow = _new(x, x.batch, x.heads, x.num_queries) if row else None
    # in their final type, unless heads have still to be added up
    dtype = x.q.dtype if x.heads == x.kv_heads else torch.float32
    sizes = (x.batch, x.heads, x.num_keys)
    dk, dv = (x.q.new_empty(*sizes, size, dtype=dtype) for size in (x.d, x.dv))
    grid = (triton.cdiv(x.num_queries, config.bm), x.batch * x.heads)
    if dq.numel():
        query_kernel[grid](
            x.q, x.k, x.v, do, dq, dq if drow is None else drow,
            *x.pointers(), *x.strides(do), *x.numbers(), NEED_ROW=row, **x.options("query", config),
            STEPPED=x.stepped(),
        )  # fmt: skip
    return Sums(q=dq, k=dk, v=dv, row=drow, by_offset=None, qv=None, r=None, scaled=True)


def key_pass(x: Launch, do: Tensor, sums: Sums) -> None:
    config = x.config("key")
    blocks = triton.cdiv(x.num_keys, config.bn)
    ranges = _ranges(x, config)
    ranges_b = blocks if ranges.shape[0] > 1 else 0
    columns = sums.k if x.qv is None else _new(x, x.batch, x.heads, x.num_keys)
    if sums.k.numel():
        key_kernel[(blocks, x.batch * x.heads)](
            x.q, x.k, x.v, do, sums.k, sums.v, columns, ranges,
            *x.pointers(), *x.strides(do), ranges_b, *x.numbers(), **x.options("key", config),
            STEPPED=x.stepped(), BOUNDED=MAPS[x.flat.map].bounded,
        )  # fmt: skip
    if x.heads != x.kv_heads:
        sums.k, sums.v = (y.unflatten(1, (x.kv_heads, -1)).sum(2) for y in (sums.k, sums.v))
    if x.qv is not None:
        k_bgsd = x.k.float().masked_fill(~_is_seen(x)[:, None, :, None], 0.0)
        du_bghd = columns.unflatten(1, (x.kv_heads, -1)) @ k_bgsd
        sums.u = du_bghd.sum(0).flatten(0, 1) * x.flat.scale


def _is_seen(x: Launch) -> Tensor:
    """(B', S) whether any row sees the key; what lies elsewhere may be NaN."""
    key_s = torch.arange(x.num_keys, device=x.k.device)
    if x.lo is None:
        return (key_s >= 0)[None]
    seen, _ = x.seen()
    return (key_s >= seen[:, :1]) & (key_s < seen[:, 1:])


def _ranges(x: Launch, config: Config) -> Tensor:
    """(B', blocks of keys, 6) int32, see rows_kernel; anything where all rows see all keys."""
    if x.lo is None or x.hi is None:
        return x.q
    blocks = triton.cdiv(x.num_keys, config.bn)
    ranges = torch.empty(x.hi.shape[0], blocks, 6, dtype=torch.int32, device=x.hi.device)
    if ranges.numel():
        rows_kernel[(blocks, ranges.shape[0])](
            x.lo, x.hi, ranges, x.num_queries, x.num_keys, blocks,
            BM=config.bm, BN=config.bn, TILES=max(1, 1024 // config.bm), num_warps=4,
        )  # fmt: skip
    return ranges


def offset_pass(x: Launch, do: Tensor, sums: Sums) -> None:
    config = x.config("offset")
    total = x.num_queries + x.num_keys - 1
    seen, seen_b = x.seen()
    by_offset = _new(x, x.batch, x.heads, total)
    dr = by_offset if x.r is None else _new(x, x.batch, x.heads, total, x.d)
    grid = (triton.cdiv(total, config.bn), x.batch * x.heads)
    if sums.q.numel() and sums.k.numel():
        offset_kernel[grid](
            x.q, x.k, x.v, do, by_offset, dr, seen, *x.pointers(), *x.strides(do), seen_b,
            *x.numbers(), **x.options("offset", config),
        )  # fmt: skip
    else:
        by_offset.zero_()
        dr.zero_()
    sums.by_offset = by_offset.sum(0)
    if x.flat.r_hpd is not None:
        first = x.flat.delta - (x.num_queries - 1) + x.flat.zero
        sums.r = torch.zeros_like(x.flat.r_hpd, dtype=torch.float32)
        sums.r[:, first : first + total] = dr.sum(0)
        rows = x.flat.r_hpd[:, first : first + total].float()
        sums.vb = (sums.by_offset[..., None] * rows).sum(1) * x.flat.scale


def _position(flat: Flat) -> int:
    if flat.slopes_h is not None:
        return int(device.ALIBI.value)
    if flat.table_hp is not None:
        return int(device.TABLE.value)
    return int(device.NONE.value if flat.r_hpd is None else device.RELATIVE.value)


def _row_values(flat: Flat) -> tuple[Tensor | None, Tensor | None]:
    """Return each row's term of the scores and factor of the weights, with the same strides."""
    term, factor = row_term(flat), flat.row_factor_bht
    if factor is None:
        return term, None
    factor = factor.float()
    if term is None:
        return None, factor.contiguous()
    term, factor = torch.broadcast_tensors(term, factor)
    return term.contiguous(), factor.contiguous()


def _per_row(x: Tensor | None) -> int:
    """0 for nothing, 1 for one number for all rows of a head, 2 for one each."""
    return 0 if x is None else (1 if x.shape[2] == 1 else 2)


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 and x.stride(-2) < MOST_STRIDE else x.contiguous()
