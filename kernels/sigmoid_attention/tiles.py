"""One tile of the score matrix, in plain torch: scores, weights and what flows back.

A tile is a range of utterances, queries and keys of a prepared problem, over all heads. Bias terms
that are constant along a row or a key travel in two extra channels of q and k, so the matrix
product adds them at no cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .flat import Flat
from .private import sigmoid_backward_, softmax_backward_
from .spec import compute_dtype
from .weightings import MAPS

# Added to a masked score; exp(-this) is inf, whose reciprocal is 0, and exp(this) is 0.
HIDDEN = -1.0e30
# Weights in place of their scores, where torch has it and nothing reads the scores again.
IN_PLACE = {"sigmoid": torch.sigmoid_, "relu": torch.relu_}


@dataclass
class Prepared:
    """Inputs in the precision scores are formed in; frames that nobody sees are 0.

    q (B, H, T, D + 2) holds scale * (q + u) beside [row shift, 1]; k (B, Hk, S, D + 2) holds k
    beside [1, 0 or HIDDEN]; v (B, Hk, S, Dv). For relative positions: qv (H, B, T, D) holds
    scale * (q + v), r (H, P, D).
    """

    flat: Flat
    q: Tensor
    k: Tensor
    v: Tensor
    qv: Tensor | None
    r: Tensor | None
    slopes: Tensor | None
    table: Tensor | None
    keys_hidden: bool

    @property
    def channels(self) -> int:
        return self.flat.q.shape[3]


@dataclass(frozen=True)
class Tile:
    """Half-open ranges: utterances b0:b1, queries t0:t1, keys s0:s1."""

    b0: int
    b1: int
    t0: int
    t1: int
    s0: int
    s1: int


@dataclass
class Sums:
    """Gradient sums in the precision of the scores; None where nobody asked for it.

    q is before the scale unless `scaled`, and of the content term only where qv holds the rest;
    where the kernels added both, u and vb (H, D) hold the gradients of Transformer-XL's biases.
    row (B, H, T) sums ds over keys; by_offset (H, T + S - 1) over each offset, lowest first.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    row: Tensor | None
    by_offset: Tensor | None
    qv: Tensor | None
    r: Tensor | None
    u: Tensor | None = None
    vb: Tensor | None = None
    scaled: bool = False


def prepare(flat: Flat, mask_keys: bool) -> Prepared:
    """Cast, scale, add u and the row shift; `mask_keys` hides unseen keys by the extra channel."""
    dtype = compute_dtype(flat.q.dtype)
    batch, num_heads, num_queries, channels = flat.q.shape
    kv_heads, num_keys = flat.k.shape[1:3]
    k_in, v_in, q_in = flat.k, flat.v, flat.q
    unseen_bs = unseen_keys(flat)
    if unseen_bs is not None:
        k_in = k_in.masked_fill(unseen_bs[:, None, :, None], 0.0)
        v_in = v_in.masked_fill(unseen_bs[:, None, :, None], 0.0)
    if flat.hi_bt is not None:
        q_in = q_in.masked_fill((flat.hi_bt == 0)[:, None, :, None], 0.0)
    q = torch.empty(batch, num_heads, num_queries, channels + 2, dtype=dtype, device=flat.q.device)
    k = torch.empty(batch, kv_heads, num_keys, channels + 2, dtype=dtype, device=flat.q.device)
    u = q_in if flat.u_hd is None else q_in.to(dtype) + flat.u_hd.to(dtype)[:, None]
    torch.mul(u, flat.scale, out=q[..., :channels])
    q[..., channels] = row_term(flat, dtype)
    q[..., channels + 1] = 1.0
    k[..., :channels] = k_in
    k[..., channels] = 1.0
    k[..., channels + 1] = 0.0
    if mask_keys and unseen_bs is not None:
        k[..., channels + 1] = unseen_bs[:, None].to(dtype) * HIDDEN
    qv = r = None
    if flat.vb_hd is not None and flat.r_hpd is not None:
        r = flat.r_hpd.to(dtype)
        qv = (q_in.to(dtype) + flat.vb_hd.to(dtype)[:, None]).transpose(0, 1) * flat.scale
    return Prepared(
        flat,
        q,
        k,
        v_in.to(dtype),
        qv,
        r,
        None if flat.slopes_h is None else flat.slopes_h.to(dtype),
        None if flat.table_hp is None else flat.table_hp.to(dtype),
        mask_keys,
    )


def unseen_keys(flat: Flat) -> Tensor | None:
    """(B', S) True where no row sees the key; None where all are seen."""
    if flat.lo_bt is None or flat.hi_bt is None:
        return None
    lo_b = flat.lo_bt.masked_fill(flat.hi_bt == 0, flat.k.shape[2]).amin(1, keepdim=True)
    hi_b = flat.hi_bt.amax(1, keepdim=True)
    key_s = torch.arange(flat.k.shape[2], device=flat.k.device)
    return (key_s < lo_b) | (key_s >= hi_b)


def row_term(flat: Flat, dtype: torch.dtype) -> Tensor | float:
    """Return what each score of a row gets: constant shift, -log n, per-head bias, HIDDEN if no keys."""
    term: Tensor | float = flat.shift
    if flat.row_shift_bht is not None:
        term = term + flat.row_shift_bht.to(dtype)
    if flat.bias_h is not None:
        term = term + flat.bias_h.to(dtype)[:, None]
    if flat.hi_bt is not None:
        term = term + (flat.hi_bt == 0).to(dtype)[:, None] * HIDDEN
    return term


def offset_ts(flat: Flat, tile: Tile) -> Tensor:
    """Offset (key minus query) of each score of the tile."""
    device = flat.q.device
    query_t = torch.arange(tile.t0, tile.t1, device=device)
    key_s = torch.arange(tile.s0, tile.s1, device=device)
    return key_s[None, :] - query_t[:, None] + flat.delta


def tile_scores(x: Prepared, tile: Tile) -> Tensor:
    """s (b, H, t, s) of one tile."""
    q = x.q[tile.b0 : tile.b1, :, tile.t0 : tile.t1]
    k = x.k[tile.b0 : tile.b1, :, tile.s0 : tile.s1]
    s = grouped(q, k.shape[1]) @ k.mT
    s = s.view(*q.shape[:3], k.shape[2])
    if x.slopes is not None:
        s += offset_ts(x.flat, tile).abs() * -x.slopes[:, None, None]
    elif x.table is not None:
        column = (offset_ts(x.flat, tile) + x.flat.zero).clamp_(0, x.table.shape[1] - 1)
        s += x.table[:, column]
    elif x.qv is not None:
        s += _skewed(_by_offset(x, tile), tile)
    return s


def grouped(x_bhtd: Tensor, kv_heads: int) -> Tensor:
    """(B, H, T, D) -> (B, Hk, H / Hk * T, D): the queries that share a key head, side by side."""
    batch, _, _, channels = x_bhtd.shape
    return x_bhtd.reshape(batch, kv_heads, -1, channels)


def _offset_rows(x: Prepared, tile: Tile) -> tuple[int, int]:
    """The rows of r that the tile's offsets need, from the lowest offset on."""
    first = tile.s0 - (tile.t1 - 1) + x.flat.delta + x.flat.zero
    return first, first + (tile.s1 - tile.s0) + (tile.t1 - tile.t0) - 1


def _by_offset(x: Prepared, tile: Tile) -> Tensor:
    """g (H, b, t, t + s - 1): the position term by offset instead of by key."""
    assert x.qv is not None
    assert x.r is not None
    qv = x.qv[:, tile.b0 : tile.b1, tile.t0 : tile.t1]
    first, last = _offset_rows(x, tile)
    g = qv.reshape(qv.shape[0], -1, qv.shape[3]) @ x.r[:, first:last].mT
    return g.view(*qv.shape[:3], last - first)


def _skewed(g: Tensor, tile: Tile) -> Tensor:
    """View of g (H, b, t, t + s - 1) as (b, H, t, s): row i starts t - 1 - i columns in."""
    num_rows, num_keys = tile.t1 - tile.t0, tile.s1 - tile.s0
    heads, batch, _, width = g.shape
    strides = (g.stride(1), g.stride(0), width - 1, 1)
    return g.as_strided(
        (batch, heads, num_rows, num_keys), strides, g.storage_offset() + num_rows - 1
    )


def hidden_in(flat: Flat, tile: Tile) -> Tensor:
    """(b', 1, t, s) True where the row does not see the key."""
    assert flat.lo_bt is not None
    assert flat.hi_bt is not None
    rows = slice(tile.b0, tile.b1) if flat.lo_bt.shape[0] > 1 else slice(0, 1)
    key_s = torch.arange(tile.s0, tile.s1, device=flat.q.device)
    lo = flat.lo_bt[rows, tile.t0 : tile.t1, None]
    hi = flat.hi_bt[rows, tile.t0 : tile.t1, None]
    return ((key_s < lo) | (key_s >= hi))[:, None]


def weigh_(x: Prepared, s: Tensor, tile: Tile, hide: bool) -> Tensor:
    """Weights p of the tile before the row factor; `hide` where runs of keys cut the tile.

    The scores may be overwritten where the map's slope is one of p.

    Rows that see no key at all are left to the caller for softmax, whose weights they make uniform.
    """
    flat = x.flat
    hidden = hidden_in(flat, tile) if hide else None
    weight = MAPS[flat.map].weight
    if weight is None:
        if hidden is not None:
            s.masked_fill_(hidden, HIDDEN)
        return torch.softmax(s, -1, out=s)
    p = IN_PLACE[flat.map](s) if flat.map in IN_PLACE else weight(s, flat.power)
    return p if hidden is None else p.masked_fill_(hidden, 0.0)


def unweigh_(x: Prepared, p: Tensor, dp: Tensor, s: Tensor | None, tile: Tile) -> Tensor:
    """ds from dp and p, or the scores where the map has no slope of p, in place of dp.

    dp holds the row factor already.
    """
    flat = x.flat
    one = MAPS[flat.map]
    if flat.map == "sigmoid":
        return sigmoid_backward_(p, dp)
    if one.weight is None:
        return softmax_backward_(p, dp)
    if one.slope is not None:
        dp *= one.slope(p)
        return dp
    assert s is not None
    assert one.slope_of_score is not None
    dp *= one.slope_of_score(s, flat.power)
    return dp if flat.hi_bt is None else dp.masked_fill_(hidden_in(flat, tile), 0.0)


def tile_backward(
    x: Prepared, p: Tensor, s: Tensor | None, do: Tensor, tile: Tile, sums: Sums
) -> None:
    """Add one tile's part to the gradient sums; `do` (b, H, t, Dv) in the precision of p."""
    d = x.channels
    rows, keys = (
        (slice(tile.b0, tile.b1), slice(None), slice(tile.t0, tile.t1)),
        slice(tile.s0, tile.s1),
    )
    k, v = x.k[rows[0], :, keys], x.v[rows[0], :, keys]
    kv_heads = k.shape[1]
    p_g, do_g, q_g = (grouped(y, kv_heads) for y in (p, do, x.q[rows]))
    sums.v[rows[0], :, keys] += p_g.mT @ do_g
    dp = (do_g @ v.mT).view(p.shape)
    ds = unweigh_(x, p, dp, s, tile)
    ds_g = grouped(ds, kv_heads)
    sums.q[rows] += (ds_g @ k[..., :d]).view(*p.shape[:3], d)
    sums.k[rows[0], :, keys] += ds_g.mT @ q_g[..., :d]
    if sums.row is not None:
        sums.row[rows] += ds.sum(3)
    if sums.by_offset is not None:
        first, last = _offset_columns(x, tile)
        g = _unskewed(ds.sum(0, keepdim=True), tile)
        sums.by_offset[:, first:last] += g.sum((1, 2))
    if sums.qv is not None and sums.r is not None and x.qv is not None and x.r is not None:
        first, last = _offset_rows(x, tile)
        g = _unskewed(ds, tile).flatten(1, 2)
        qv = x.qv[:, rows[0], rows[2]]
        sums.qv[:, rows[0], rows[2]] += (g @ x.r[:, first:last]).view(qv.shape)
        sums.r[:, first:last] += g.mT @ qv.flatten(1, 2)


def _offset_columns(x: Prepared, tile: Tile) -> tuple[int, int]:
    """The tile's columns of a (H, T + S - 1) table of all offsets."""
    first = tile.s0 - (tile.t1 - 1) + x.flat.q.shape[2] - 1
    return first, first + (tile.s1 - tile.s0) + (tile.t1 - tile.t0) - 1


def _unskewed(ds: Tensor, tile: Tile) -> Tensor:
    """ds (b, H, t, s) sorted by offset: (H, b, t, t + s - 1), zero elsewhere."""
    batch, heads, num_rows, num_keys = ds.shape
    g = ds.new_zeros(heads, batch, num_rows, num_rows + num_keys - 1)
    _skewed(g, tile).copy_(ds)
    return g


def scaled_rows(flat: Flat, x_bhtd: Tensor) -> Tensor:
    """x times the row factor, where there is one.

    Of sums of weights, and so of the output and of its gradient: once a row, not once a weight.
    """
    if flat.row_factor_bht is None:
        return x_bhtd
    return x_bhtd * flat.row_factor_bht.to(x_bhtd.dtype)[..., None]
