"""The flat form of a call: tensors and numbers only, what kernels and torch.library see.

Every mask of `Mask` leaves a row one run of visible keys, [lo, hi); so a kernel knows two integers
per row and no mask by name. The same runs give the counts that n may mean (counts.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .counts import log_counts
from .spec import Mask, PositionBias, Weighting, default_scale
from .weightings import MAPS


class Flat(NamedTuple):
    """One call. B' is 1 where all utterances agree, else B; runs and rows may be missing.

    lo_bt, hi_bt: (B', T) int32, row t sees keys lo <= s < hi; none visible as lo = hi = 0.
    row_shift_bht: (B', H', T') added to scores; an axis is 1 where all get the same.
    row_factor_bht: the same, times the weights, for maps that are not bounded (the factor of those
    that are may wait for the sum: `row_factor`).
    prefix: rows without keys aside, lo is 0 and hi does not depend on t.
    delta: offset of key 0 and query 0.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    lo_bt: Tensor | None
    hi_bt: Tensor | None
    row_shift_bht: Tensor | None
    row_factor_bht: Tensor | None
    bias_h: Tensor | None
    slopes_h: Tensor | None
    table_hp: Tensor | None
    u_hd: Tensor | None
    vb_hd: Tensor | None
    r_hpd: Tensor | None
    map: str
    power: int
    precision: str
    scale: float
    shift: float
    delta: int
    zero: int
    prefix: bool


def flatten(
    q_bhtd: Tensor,
    k_bhsd: Tensor,
    v_bhsd: Tensor,
    weighting: Weighting,
    position: PositionBias | None,
    mask: Mask,
    scale: float | None,
) -> Flat:
    """The flat form of one checked call; no channels become one of zeros, which kernels can tile."""
    scale = float(default_scale(q_bhtd, scale))
    widen = _with_a_channel if q_bhtd.shape[3] == 0 else _same
    num_keys = k_bhsd.shape[2]
    runs = visible_runs(mask, q_bhtd.shape[2], num_keys, q_bhtd.device)
    shift, row_shift_bht, row_factor_bht = 0.0, None, None
    if weighting.shift is not None and not isinstance(weighting.shift, str):
        shift = float(weighting.shift)
    if weighting.counts:
        log_n_bht = log_counts(weighting, position, mask, runs, q_bhtd, num_keys)
        if weighting.shift == "-log n":
            row_shift_bht = -log_n_bht
            if weighting.exponent_h is not None:
                row_shift_bht = row_shift_bht * weighting.exponent_h.to(log_n_bht)[:, None]
        if not MAPS[weighting.map].bounded:
            row_factor_bht = _factor(weighting, log_n_bht)
    p = position
    return Flat(
        widen(q_bhtd),
        widen(k_bhsd),
        v_bhsd,
        runs[0] if runs else None,
        runs[1] if runs else None,
        row_shift_bht,
        row_factor_bht,
        weighting.bias_h,
        p.slopes_h if p else None,
        p.table_hp if p else None,
        widen(p.u_hd) if p and p.u_hd is not None else None,
        widen(p.v_hd) if p and p.v_hd is not None else None,
        widen(p.r_hpd) if p and p.r_hpd is not None else None,
        weighting.map,
        weighting.power,
        weighting.precision,
        scale,
        shift,
        mask.k_start - mask.q_start,
        p.zero if p else 0,
        not mask.banded,
    )


def _same(x: Tensor) -> Tensor:
    return x


def _with_a_channel(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1))


def visible_runs(
    mask: Mask, num_queries: int, num_keys: int, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """(lo_bt, hi_bt) int32 of shape (B', T), or None where every row sees every key."""
    if not mask.kind:
        return None
    i_t = torch.arange(num_queries, device=device)
    query_t = i_t + mask.q_start
    first_t: Tensor | int = mask.k_start
    last_t: Tensor | int = mask.k_start + num_keys
    base_t: Tensor | int = mask.k_start
    if mask.cu_seqlens is not None:
        ends = mask.cu_seqlens.long()
        segment_t = torch.searchsorted(ends[1:].contiguous(), i_t, right=True)
        base_t = -ends[segment_t]
        query_t, first_t, last_t = i_t + base_t, 0, ends[segment_t + 1] + base_t
    lo_t = torch.zeros_like(i_t) + first_t
    hi_t = torch.zeros_like(i_t) + last_t
    left, right = mask.window_sides
    if mask.causal:
        right = 0 if right is None else min(right, 0)
    if left is not None:
        lo_t = torch.maximum(lo_t, query_t - left)
    if right is not None:
        hi_t = torch.minimum(hi_t, query_t + right + 1)
    size, left_chunks = mask.chunk_size_left
    if size is not None:
        chunk_t = query_t // size
        hi_t = torch.minimum(hi_t, (chunk_t + 1) * size)
        if left_chunks is not None:
            # No position is below 0, and a huge number of chunks times their size would overflow.
            lo_t = torch.maximum(lo_t, (chunk_t - left_chunks).clamp(min=0) * size)
    lo_bt, hi_bt = (lo_t - base_t)[None], (hi_t - base_t)[None]
    if mask.key_lens is not None:
        hi_bt = torch.minimum(hi_bt, mask.key_lens.long()[:, None])
    empty_bt = hi_bt <= lo_bt
    if mask.query_lens is not None:
        empty_bt = empty_bt | (i_t >= mask.query_lens[:, None])
    lo_bt, hi_bt = torch.broadcast_tensors(lo_bt, hi_bt.expand(empty_bt.shape))
    return lo_bt.masked_fill(empty_bt, 0).int(), hi_bt.masked_fill(empty_bt, 0).int()


def row_factor(
    q_bhtd: Tensor, num_keys: int, weighting: Weighting, position: PositionBias | None, mask: Mask
) -> Tensor | None:
    """Return what a bounded map's output is multiplied by, (B', H', T'); None for nothing."""
    if not MAPS[weighting.map].bounded or weighting.row_scale is None:
        return None
    runs = visible_runs(mask, q_bhtd.shape[2], num_keys, q_bhtd.device)
    return _factor(weighting, log_counts(weighting, position, mask, runs, q_bhtd, num_keys))


def _factor(weighting: Weighting, log_n_bht: Tensor) -> Tensor | None:
    powers = {"1/n": 1.0, "1/sqrt n": 0.5}
    if weighting.row_scale is None:
        return None
    return (-powers[weighting.row_scale] * log_n_bht.clamp(min=0.0)).exp()


def row_term(flat: Flat) -> Tensor | None:
    """(B or 1, H or 1, T or 1) float32: what each score of a row gets; None for nothing."""
    if not (flat.shift or flat.row_shift_bht is not None or flat.bias_h is not None):
        return None
    term = torch.full((1, 1, 1), flat.shift, dtype=torch.float32, device=flat.q.device)
    if flat.row_shift_bht is not None:
        term = term + flat.row_shift_bht.float()
    if flat.bias_h is not None:
        term = term + flat.bias_h.float()[:, None]
    return term


def offset_bias(flat: Flat) -> Tensor | None:
    """(H, T + S - 1): ALiBi or a table as one bias per offset, lowest offset first."""
    if flat.slopes_h is None and flat.table_hp is None:
        return None
    lowest = flat.delta - (flat.q.shape[2] - 1)
    offset_o = torch.arange(lowest, flat.delta + flat.k.shape[2], device=flat.q.device)
    if flat.slopes_h is not None:
        return -flat.slopes_h.float()[:, None] * offset_o.abs()
    assert flat.table_hp is not None
    return flat.table_hp.float()[:, (offset_o + flat.zero).clamp_(0, flat.table_hp.shape[1] - 1)]
