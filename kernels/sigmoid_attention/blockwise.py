"""Attention in blocks of queries and keys: any device, O(T * block) memory, the CPU's path.

A small problem is one block and its weights are saved for the backward; a large one is walked block
by block and recomputed. Nothing outside the rows' runs of visible keys is computed, and frames
nobody may see may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .flat import Flat
from .tiles import Prepared, Sums, Tile, prepare, tile_backward, tile_scores, weigh_

# Weights of a problem up to this many elements are kept for the backward: 32 MB in float32.
ONE_BLOCK = 8 * 1024 * 1024
# Elements of one block of a large problem, over all heads: 2 MB in float32.
BLOCK = 512 * 1024
KEY_BLOCK = 512
MIN_ROWS = 16

# What a call can be differentiated by, in the order of its gradients.
TENSORS = ("q", "k", "v", "bias_h", "slopes_h", "table_hp", "u_hd", "vb_hd", "r_hpd")


def attend(flat: Flat) -> Tensor:
    """o_bhtd of a flat call, differentiable in q, k, v and every bias."""
    o: Tensor = _Blockwise.apply(flat, *(getattr(flat, name) for name in TENSORS))
    return o


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, flat: Flat, *tensors: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def, override]
        o, p = forward(flat, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(*tensors, p)
        ctx.rest = with_tensors(flat, [None] * len(TENSORS))
        return o

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def, override]
        *tensors, p = ctx.saved_tensors
        flat = with_tensors(ctx.rest, tensors)
        needs = dict(zip(TENSORS, ctx.needs_input_grad[1:], strict=True))
        return (None, *backward(flat, do, p, needs))


def with_tensors(flat: Flat, tensors: Sequence[Any]) -> Flat:
    """The same call with other tensors, in the order of TENSORS."""
    replaced: dict[str, Any] = dict(zip(TENSORS, tensors, strict=True))
    return flat._replace(**replaced)


def forward(flat: Flat, keep: bool) -> tuple[Tensor, Tensor | None]:
    """o_bhtd, and the weights p_bhts where the problem is one block and `keep` asks for them."""
    one = is_one_block(flat)
    x = prepare(flat, mask_keys=one)
    batch, heads, num_queries, _ = flat.q.shape
    o = x.v.new_zeros(batch, heads, num_queries, flat.v.shape[3])
    kept = None
    for tile, hide in _tiles(flat, one):
        p = weigh_(x, tile_scores(x, tile), tile, hide)
        b, t, s = slice(tile.b0, tile.b1), slice(tile.t0, tile.t1), slice(tile.s0, tile.s1)
        v = x.v[b, :, s]
        part = (_grouped(p, v.shape[1]) @ v).view(*p.shape[:3], v.shape[3])
        if one:
            o, kept = part, p
        else:
            o[b, :, t] += part
    if flat.map == "softmax" and flat.hi_bt is not None:
        o = o.masked_fill((flat.hi_bt == 0)[:, None, :, None], 0.0)
    return o.to(flat.q.dtype), kept if keep and flat.map != "polynomial" else None


def backward(
    flat: Flat, do: Tensor, p: Tensor | None, needs: Mapping[str, bool]
) -> tuple[Tensor | None, ...]:
    """Gradients in the order of TENSORS, None where `needs` is False; p from `forward`."""
    one = is_one_block(flat)
    x = prepare(flat, mask_keys=one)
    do = do.to(x.v.dtype)
    if flat.hi_bt is not None:
        do = do.masked_fill((flat.hi_bt == 0)[:, None, :, None], 0.0)
    sums = _new_sums(x, needs)
    for tile, hide in _tiles(flat, one):
        s = None
        if p is None:
            s = tile_scores(x, tile)
            weights = weigh_(x, s.clone() if flat.map == "polynomial" else s, tile, hide)
        else:
            weights = p
        tile_do = do[tile.b0 : tile.b1, :, tile.t0 : tile.t1]
        tile_backward(x, weights, s, tile_do, tile, sums)
    grads = _finish(x, sums)
    return tuple(
        grads[name].to(getattr(flat, name).dtype) if needs[name] else None for name in TENSORS
    )


def is_one_block(flat: Flat) -> bool:
    """Whether the whole problem is one tile, whose weights are kept for the backward."""
    batch, heads, num_queries, _ = flat.q.shape
    return batch * heads * num_queries * flat.k.shape[2] <= ONE_BLOCK


def _tiles(flat: Flat, one: bool) -> Iterator[tuple[Tile, bool]]:
    """Every tile with visible keys, and whether runs of keys cut it."""
    batch, heads, num_queries, _ = flat.q.shape
    num_keys = flat.k.shape[2]
    if one:
        cut = flat.hi_bt is not None and (not flat.prefix or flat.map == "polynomial")
        yield Tile(0, batch, 0, num_queries, 0, num_keys), cut
        return
    key_block = num_keys if flat.map == "softmax" else min(num_keys, KEY_BLOCK)
    rows = max(MIN_ROWS, BLOCK // (heads * key_block))
    for b in range(batch):
        for t0 in range(0, num_queries, rows):
            t1 = min(t0 + rows, num_queries)
            yield from _key_tiles(flat, b, t0, t1, key_block)


def _key_tiles(flat: Flat, b: int, t0: int, t1: int, key_block: int) -> Iterator[tuple[Tile, bool]]:
    """The tiles of one block of queries, from the first key any row sees to the last."""
    if flat.lo_bt is None or flat.hi_bt is None:
        for s0 in range(0, flat.k.shape[2], key_block):
            yield Tile(b, b + 1, t0, t1, s0, min(s0 + key_block, flat.k.shape[2])), False
        return
    row = b if flat.hi_bt.shape[0] > 1 else 0
    lo_t, hi_t = flat.lo_bt[row, t0:t1], flat.hi_bt[row, t0:t1]
    seen = hi_t > 0
    if not bool(seen.any()):
        return
    first, last = int(lo_t[seen].min()), int(hi_t.max())
    all_from, all_to = int(lo_t.max()), int(hi_t.min())
    for s0 in range(first, last, key_block):
        s1 = min(s0 + key_block, last)
        yield Tile(b, b + 1, t0, t1, s0, s1), s0 < all_from or s1 > all_to


def _new_sums(x: Prepared, needs: Mapping[str, bool]) -> Sums:
    flat = x.flat
    batch, heads, num_queries, channels = flat.q.shape
    by_offset = needs["slopes_h"] or needs["table_hp"]
    relative = x.qv is not None and x.r is not None
    return Sums(
        q=x.q.new_zeros(batch, heads, num_queries, channels),
        k=x.k.new_zeros(flat.k.shape),
        v=x.v.new_zeros(flat.v.shape),
        row=x.q.new_zeros(batch, heads, num_queries) if needs["bias_h"] else None,
        by_offset=x.q.new_zeros(heads, num_queries + flat.k.shape[2] - 1) if by_offset else None,
        qv=torch.zeros_like(x.qv) if x.qv is not None else None,
        r=torch.zeros_like(x.r) if relative and x.r is not None else None,
    )


def _finish(x: Prepared, sums: Sums) -> dict[str, Tensor]:
    """From sums to gradients of the inputs."""
    flat = x.flat
    dq = sums.q * flat.scale
    grads = {"k": sums.k, "v": sums.v}
    if sums.qv is not None and sums.r is not None:
        dqv = sums.qv.transpose(0, 1) * flat.scale
        grads |= {"u_hd": dq.sum((0, 2)), "vb_hd": dqv.sum((0, 2)), "r_hpd": sums.r}
        dq = dq + dqv
    grads["q"] = dq
    if sums.row is not None:
        grads["bias_h"] = sums.row.sum((0, 2))
    if sums.by_offset is not None:
        lowest = flat.delta - (flat.q.shape[2] - 1)
        offset_o = torch.arange(lowest, lowest + sums.by_offset.shape[1], device=dq.device)
        grads["slopes_h"] = -(sums.by_offset * offset_o.abs()).sum(1)
        if flat.table_hp is not None:
            column_o = (offset_o + flat.zero).clamp_(0, flat.table_hp.shape[1] - 1)
            table = sums.by_offset.new_zeros(flat.table_hp.shape)
            grads["table_hp"] = table.index_add_(1, column_o, sums.by_offset)
    return grads


def _grouped(p: Tensor, kv_heads: int) -> Tensor:
    return p.view(p.shape[0], kv_heads, -1, p.shape[3])
