"""Attention in blocks of queries and keys: any device, O(T * block) memory, the CPU's path.

A small problem is one block of the whole batch; a large one is walked block by block, utterance by
utterance. The backward recomputes the weights. Nothing outside the rows' runs of visible keys is
computed in a large problem, and frames nobody may see may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .flat import Flat
from .tiles import (
    Prepared,
    Sums,
    Tile,
    grouped,
    prepare,
    scaled_rows,
    tile_backward,
    tile_scores,
    weigh_,
)
from .weightings import MAPS

# A problem with up to this many scores is one block: 32 MB in float32.
ONE_BLOCK = 8 * 1024 * 1024
# Elements of one block of a large problem, over all heads: 2 MB in float32.
BLOCK = 512 * 1024
KEY_BLOCK = 512
MIN_ROWS = 16


def forward(flat: Flat) -> Tensor:
    """o_bhtd of a flat call."""
    one = is_one_block(flat)
    x = prepare(flat, mask_keys=one)
    batch, heads, num_queries, _ = flat.q.shape
    o = x.v.new_zeros(batch, heads, num_queries, flat.v.shape[3])
    for tile, hide in _tiles(flat, one):
        p = weigh_(x, tile_scores(x, tile), tile, hide)
        v = x.v[tile.b0 : tile.b1, :, tile.s0 : tile.s1]
        part = (grouped(p, v.shape[1]) @ v).view(*p.shape[:3], v.shape[3])
        if one:
            o = part
        else:
            o[tile.b0 : tile.b1, :, tile.t0 : tile.t1] += part
    if MAPS[flat.map].weight is None and flat.hi_bt is not None:
        o.masked_fill_((flat.hi_bt == 0)[:, None, :, None], 0.0)
    return scaled_rows(flat, o).to(flat.q.dtype)


def backward(flat: Flat, do: Tensor, row: bool, by_offset: bool) -> Sums:
    """Gradient sums of a flat call, given that of its output; `row`, `by_offset`: wanted too."""
    one = is_one_block(flat)
    x = prepare(flat, mask_keys=one)
    do = scaled_rows(flat, do.to(x.v.dtype))
    if flat.hi_bt is not None:
        do = do.masked_fill((flat.hi_bt == 0)[:, None, :, None], 0.0)
    sums = _new_sums(x, row, by_offset)
    for tile, hide in _tiles(flat, one):
        s = tile_scores(x, tile)
        p = weigh_(x, s, tile, hide)
        tile_backward(x, p, s, do[tile.b0 : tile.b1, :, tile.t0 : tile.t1], tile, sums)
    return sums


def is_one_block(flat: Flat) -> bool:
    """Tell whether the whole problem is one tile, all utterances and heads at once."""
    batch, heads, num_queries, _ = flat.q.shape
    return batch * heads * num_queries * flat.k.shape[2] <= ONE_BLOCK


def _tiles(flat: Flat, one: bool) -> Iterator[tuple[Tile, bool]]:
    """Every tile with visible keys, and whether runs of keys cut it."""
    batch, heads, num_queries, _ = flat.q.shape
    num_keys = flat.k.shape[2]
    if one:
        cut = flat.hi_bt is not None and (not flat.prefix or not MAPS[flat.map].vanishes)
        yield Tile(0, batch, 0, num_queries, 0, num_keys), cut
        return
    key_block = num_keys if MAPS[flat.map].weight is None else min(num_keys, KEY_BLOCK)
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


def _new_sums(x: Prepared, row: bool, by_offset: bool) -> Sums:
    flat = x.flat
    batch, heads, num_queries, channels = flat.q.shape
    num_offsets = num_queries + flat.k.shape[2] - 1
    return Sums(
        q=x.q.new_zeros(batch, heads, num_queries, channels),
        k=x.k.new_zeros(flat.k.shape),
        v=x.v.new_zeros(flat.v.shape),
        row=x.q.new_zeros(batch, heads, num_queries) if row else None,
        by_offset=x.q.new_zeros(heads, num_offsets) if by_offset else None,
        qv=torch.zeros_like(x.qv) if x.qv is not None else None,
        r=torch.zeros_like(x.r) if x.r is not None else None,
    )
