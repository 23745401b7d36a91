"""Launches of the softmax kernels for a flat call, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ..flat import Flat
from ..ops import _by_column
from .configs import INTERPRETED, Config
from .launch import SMALLER, Launch, _adjacent, _is_seen, _ranges, fitting, interpreted
from .softmax_backward import softmax_key_kernel, softmax_offset_kernel, softmax_query_kernel
from .softmax_forward import softmax_forward_kernel

# A scale below float32's range is 0 in the kernels, which must not multiply a minus infinity.
LEAST_SCALE = 1e-37
# By architecture and configs.row_name: BM, BN, warps, stages. By compilation, none of them spills.
TILES: dict[int, dict[str, tuple[int, int, int, int]]] = {
    80: {
        "forward/64": (128, 128, 8, 3),
        "forward/64/float32": (16, 16, 8, 1),
        "forward/64/table": (128, 128, 8, 2),
        "forward/64/table/float32": (16, 16, 8, 1),
        "forward/64/relative": (64, 64, 4, 2),
        "forward/64/relative/float32": (16, 16, 8, 1),
        "forward/128": (128, 64, 8, 2),
        "forward/128/float32": (16, 16, 8, 1),
        "forward/128/table": (128, 64, 8, 3),
        "forward/128/table/float32": (16, 16, 8, 1),
        "forward/128/relative": (64, 32, 4, 2),
        "forward/128/relative/float32": (16, 16, 8, 1),
        "query/64": (128, 64, 8, 3),
        "query/64/float32": (16, 16, 8, 1),
        "query/64/table": (128, 64, 8, 3),
        "query/64/table/float32": (16, 16, 8, 1),
        "query/64/relative": (64, 32, 4, 2),
        "query/64/relative/float32": (16, 16, 8, 1),
        "query/128": (128, 64, 8, 2),
        "query/128/float32": (16, 16, 8, 1),
        "query/128/table": (64, 32, 4, 2),
        "query/128/table/float32": (16, 16, 8, 1),
        "query/128/relative": (32, 32, 4, 2),
        "query/128/relative/float32": (16, 16, 8, 1),
        "key/64": (32, 128, 8, 2),
        "key/64/float32": (16, 16, 8, 1),
        "key/64/table": (64, 128, 8, 2),
        "key/64/table/float32": (16, 16, 8, 1),
        "key/64/relative": (16, 64, 4, 2),
        "key/64/relative/float32": (16, 16, 8, 1),
        "key/128": (32, 64, 4, 1),
        "key/128/float32": (16, 16, 8, 1),
        "key/128/table": (32, 64, 4, 1),
        "key/128/table/float32": (16, 16, 8, 1),
        "key/128/relative": (32, 16, 4, 2),
        "key/128/relative/float32": (16, 16, 8, 1),
        "offset/64": (32, 64, 4, 2),
        "offset/64/float32": (16, 16, 8, 1),
        "offset/64/table": (32, 64, 4, 2),
        "offset/64/table/float32": (16, 16, 8, 1),
        "offset/64/relative": (16, 64, 4, 2),
        "offset/64/relative/float32": (16, 16, 8, 1),
        "offset/128": (32, 64, 4, 2),
        "offset/128/float32": (16, 16, 8, 1),
        "offset/128/table": (32, 64, 4, 2),
        "offset/128/table/float32": (16, 16, 8, 1),
        "offset/128/relative": (32, 64, 4, 2),
        "offset/128/relative/float32": (16, 16, 8, 1),
    },
    90: {
        "forward/64": (128, 128, 8, 3),
        "forward/64/float32": (32, 32, 8, 1),
        "forward/64/table": (128, 64, 8, 3),
        "forward/64/table/float32": (32, 32, 8, 1),
        "forward/64/relative": (64, 64, 4, 2),
        "forward/64/relative/float32": (32, 32, 8, 1),
        "forward/128": (128, 128, 8, 2),
        "forward/128/float32": (32, 32, 8, 1),
        "forward/128/table": (128, 64, 8, 3),
        "forward/128/table/float32": (16, 32, 8, 1),
        "forward/128/relative": (64, 32, 4, 2),
        "forward/128/relative/float32": (16, 16, 8, 1),
        "query/64": (128, 128, 8, 3),
        "query/64/float32": (32, 32, 8, 1),
        "query/64/table": (128, 64, 8, 3),
        "query/64/table/float32": (32, 32, 8, 1),
        "query/64/relative": (64, 64, 4, 2),
        "query/64/relative/float32": (32, 32, 8, 1),
        "query/128": (128, 128, 8, 2),
        "query/128/float32": (16, 16, 8, 1),
        "query/128/table": (128, 64, 8, 3),
        "query/128/table/float32": (16, 16, 8, 1),
        "query/128/relative": (64, 16, 4, 2),
        "query/128/relative/float32": (16, 16, 8, 1),
        "key/64": (64, 128, 8, 3),
        "key/64/float32": (16, 16, 8, 1),
        "key/64/table": (64, 128, 8, 3),
        "key/64/table/float32": (16, 16, 8, 1),
        "key/64/relative": (32, 128, 8, 2),
        "key/64/relative/float32": (16, 16, 8, 1),
        "key/128": (32, 128, 8, 2),
        "key/128/float32": (16, 16, 8, 1),
        "key/128/table": (32, 128, 8, 2),
        "key/128/table/float32": (16, 16, 8, 1),
        "key/128/relative": (16, 64, 4, 2),
        "key/128/relative/float32": (16, 16, 8, 1),
        "offset/64": (64, 64, 4, 2),
        "offset/64/float32": (16, 16, 8, 1),
        "offset/64/table": (32, 64, 4, 2),
        "offset/64/table/float32": (16, 16, 8, 1),
        "offset/64/relative": (32, 64, 4, 2),
        "offset/64/relative/float32": (16, 16, 8, 1),
        "offset/128": (32, 64, 4, 2),
        "offset/128/float32": (16, 16, 8, 1),
        "offset/128/table": (32, 64, 4, 2),
        "offset/128/table/float32": (16, 16, 8, 1),
        "offset/128/relative": (16, 64, 4, 2),
        "offset/128/relative/float32": (16, 16, 8, 1),
    },
}


def choose(capability: int, row: str) -> Config:
    """The tile of a row for a device of this capability (80, 90, ...)."""
    arch = max([a for a in TILES if a <= capability], default=min(TILES))
    return Config(*TILES[arch][row.removeprefix("softmax ")])


class Call(Launch):
    """What the softmax kernels of one call share."""

    def config(self, kernel: str) -> Config:
        """The tile for this call."""
        if interpreted():
            return INTERPRETED[kernel]
        major, minor = torch.cuda.get_device_capability(self.q.device)
        device_row = self.place(kernel)
        return SMALLER.get(device_row) or choose(10 * major + minor, device_row[1])

    def place(self, kernel: str) -> tuple[torch.device, str]:
        """The device, and the row of TILES for this call."""
        device, row = super().place(kernel)
        return device, "softmax " + row

    def inputs(self) -> list[Tensor]:
        """lo, hi, slopes, table, qv, r; anything for those a kernel does not read."""
        some = (self.lo, self.hi, self.slopes, self.table, self.qv, self.r)
        return [self.q if x is None else x for x in some]

    def steps(self, *more: Tensor) -> list[int]:
        """Batch, head and time strides of q, k, v and others, then the utterances' of runs."""
        out = [n for x in (self.q, self.k, self.v, *more) for n in x.stride()[:3]]
        return [*out, self.num_queries if self.hi is not None and self.hi.shape[0] > 1 else 0]

    def sizes(self) -> list[Any]:
        """Counts and offsets, then the scale."""
        table = self.table if self.table is not None else self.r
        num_offsets = 0 if table is None else table.shape[1]
        flat = self.flat
        return [
            self.num_queries, self.num_keys, flat.delta, flat.zero, num_offsets, flat.scale
        ]  # fmt: skip

    def constants(self, config: Config) -> dict[str, Any]:
        """Compile-time arguments."""
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
            "ASM": not interpreted(),
            "PRECISION": "ieee",
            "num_warps": config.warps,
            "num_stages": config.stages,
        }

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory for an output."""
        return self.q.new_empty(shape, dtype=dtype)


def forward(flat: Flat) -> tuple[Tensor, Tensor]:
    """o_bhtd and lse_bht (in units of log 2, float32) of a flat call."""
    x = Call(flat)
    return fitting(x, "forward", lambda: _forward_pass(x))


def _forward_pass(x: Call) -> tuple[Tensor, Tensor]:
    config = x.config("forward")
    o = x.new(x.batch, x.heads, x.num_queries, x.dv, dtype=x.flat.q.dtype)
    lse = x.new(x.batch, x.heads, x.num_queries)
    grid = (triton.cdiv(x.num_queries, config.bm), x.batch * x.heads)
    if o.numel():
        softmax_forward_kernel[grid](
            x.q, x.k, x.v, o, lse, *x.inputs(), *x.steps(o), *x.sizes(),
            POSITIVE=x.flat.scale > LEAST_SCALE, **x.constants(config),
        )  # fmt: skip
    return o, lse


def backward(flat: Flat, do: Tensor, o: Tensor, lse: Tensor, by_offset: bool) -> dict[str, Tensor]:
    """Gradients of a flat call by the names of its tensors, given that of its output.

    by_offset: those of slopes or a table, too, which take a kernel of their own.
    """
    x = Call(flat)
    do, o, lse = _adjacent(do), _adjacent(o), lse.contiguous()
    dots = x.new(x.batch, x.heads, x.num_queries)
    grads = {"q": fitting(x, "query", lambda: _query_pass(x, do, o, lse, dots))}
    grads |= fitting(x, "key", lambda: _key_pass(x, do, lse, dots))
    if by_offset or flat.r_hpd is not None:
        grads |= fitting(x, "offset", lambda: _offset_pass(x, do, lse, dots))
    return grads


def _query_pass(x: Call, do: Tensor, o: Tensor, lse: Tensor, dots: Tensor) -> Tensor:
    config = x.config("query")
    dq = x.new(x.batch, x.heads, x.num_queries, x.d, dtype=x.flat.q.dtype)
    grid = (triton.cdiv(x.num_queries, config.bm), x.batch * x.heads)
    if dq.numel():
        softmax_query_kernel[grid](
            x.q, x.k, x.v, do, o, lse, dots, dq, *x.inputs(), *x.steps(do, o), *x.sizes(),
            **x.constants(config),
        )  # fmt: skip
    return dq


def _key_pass(x: Call, do: Tensor, lse: Tensor, dots: Tensor) -> dict[str, Tensor]:
    config = x.config("key")
    blocks = triton.cdiv(x.num_keys, config.bn)
    ranges = _ranges(x, config)
    ranges_b = blocks if ranges.shape[0] > 1 else 0
    # Heads that share a key head have sums of their own, which are then added.
    shared = x.heads != x.kv_heads
    dtype = torch.float32 if shared else x.flat.k.dtype
    dk, dv = (x.new(x.batch, x.heads, x.num_keys, size, dtype=dtype) for size in (x.d, x.dv))
    columns = lse if x.qv is None else x.new(x.batch, x.heads, x.num_keys)
    if dk.numel():
        softmax_key_kernel[(blocks, x.batch * x.heads)](
            x.q, x.k, x.v, do, lse, dots, dk, dv, columns, ranges, *x.inputs(),
            *x.steps(do), ranges_b, *x.sizes(), **x.constants(config),
        )  # fmt: skip
    if shared:
        dk, dv = (y.unflatten(1, (x.kv_heads, -1)).sum(2) for y in (dk, dv))
    grads = {"k": dk, "v": dv}
    if x.qv is not None:
        k_bgsd = x.k.float().masked_fill(~_is_seen(x)[:, None, :, None], 0.0)
        du_bghd = columns.unflatten(1, (x.kv_heads, -1)) @ k_bgsd
        grads["u_hd"] = du_bghd.sum(0).flatten(0, 1) * x.flat.scale
    return grads


def _offset_pass(x: Call, do: Tensor, lse: Tensor, dots: Tensor) -> dict[str, Tensor]:
    config = x.config("offset")
    total = x.num_queries + x.num_keys - 1
    seen, seen_b = x.seen()
    sums = x.new(x.batch, x.heads, total)
    dr = sums if x.r is None else x.new(x.batch, x.heads, total, x.d)
    grid = (triton.cdiv(total, config.bn), x.batch * x.heads)
    if do.numel() and x.num_keys:
        softmax_offset_kernel[grid](
            x.q, x.k, x.v, do, lse, dots, sums, dr, seen, *x.inputs(), *x.steps(do), seen_b,
            *x.sizes(), **x.constants(config),
        )  # fmt: skip
    else:
        sums.zero_()
        dr.zero_()
    by_offset = sums.sum(0)
    flat = x.flat
    lowest = flat.delta - (x.num_queries - 1)
    if flat.r_hpd is not None:
        first = lowest + flat.zero
        dr_hpd = torch.zeros_like(flat.r_hpd, dtype=torch.float32)
        dr_hpd[:, first : first + total] = dr.sum(0)
        rows = flat.r_hpd[:, first : first + total].float()
        return {"r_hpd": dr_hpd, "vb_hd": (by_offset[..., None] * rows).sum(1) * flat.scale}
    if flat.table_hp is not None:
        return {"table_hp": _by_column(flat, by_offset, lowest)}
    offset_o = torch.arange(lowest, lowest + total, device=sums.device)
    return {"slopes_h": -(by_offset * offset_o.abs()).sum(1)}
