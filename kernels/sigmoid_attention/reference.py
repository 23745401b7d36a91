"""The specification: full-matrix attention, written to be read.

Scores and weights are formed in float32 (float64 for float64 inputs). Memory grows as T * S; use it
for tests, pictures and diagnostics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .spec import NO_MASK, Mask, PositionBias, Weighting, compute_dtype, default_scale
from .weightings import MAPS


def attend(
    q_bhtd: Tensor,
    k_bhsd: Tensor,
    v_bhsd: Tensor,
    *,
    weighting: Weighting,
    position: PositionBias | None = None,
    mask: Mask | None = None,
    scale: float | None = None,
) -> Tensor:
    """o_bhtd = weights @ v, in the dtype of q. Same signature as `sigmoid_attention.attend`."""
    mask = mask or NO_MASK
    visible_bts = visible(mask, q_bhtd, k_bhsd)
    p_bhts = attention_weights(
        q_bhtd, k_bhsd, weighting=weighting, position=position, mask=mask, scale=scale
    )
    v = _repeat_heads(v_bhsd, q_bhtd.shape[1]).to(p_bhts.dtype)
    # A frame nobody may see holds anything, even NaN, and 0 * NaN would leak it.
    seen_bs = visible_bts.any(1)
    return (p_bhts @ v.masked_fill(~seen_bs[:, None, :, None], 0.0)).to(q_bhtd.dtype)


def attention_weights(
    q_bhtd: Tensor,
    k_bhsd: Tensor,
    *,
    weighting: Weighting,
    position: PositionBias | None = None,
    mask: Mask | None = None,
    scale: float | None = None,
) -> Tensor:
    """The matrix p_bhts itself, for pictures and diagnostics; exactly 0 where masked."""
    mask = mask or NO_MASK
    visible_bts = visible(mask, q_bhtd, k_bhsd)
    q = q_bhtd.masked_fill(~visible_bts.any(2)[:, None, :, None], 0.0)
    k = k_bhsd.masked_fill(~visible_bts.any(1)[:, None, :, None], 0.0)
    s_bhts = scores(q, k, position, mask.k_start - mask.q_start, default_scale(q_bhtd, scale))
    hidden = ~visible_bts[:, None]
    weight = MAPS[weighting.map].weight
    if weight is None:
        # The inner fill keeps rows without keys away from 0/0; the outer one makes them exactly 0.
        lowest = torch.finfo(s_bhts.dtype).min
        return s_bhts.masked_fill(hidden, lowest).softmax(-1).masked_fill(hidden, 0.0)
    log_n_bht1 = log_counts(weighting, position, mask, visible_bts, s_bhts.dtype)[..., None]
    if weighting.bias_h is not None:
        s_bhts = s_bhts + weighting.bias_h.to(s_bhts.dtype)[:, None, None]
    if weighting.shift == "-log n":
        exponent_h = weighting.exponent_h
        times = 1.0 if exponent_h is None else exponent_h.to(s_bhts.dtype)[:, None, None]
        s_bhts = s_bhts - times * log_n_bht1
    elif weighting.shift is not None:
        s_bhts = s_bhts + float(weighting.shift)
    p_bhts = weight(s_bhts, weighting.power)
    if weighting.row_scale == "1/n":
        p_bhts = p_bhts / log_n_bht1.exp().clamp(min=1.0)
    elif weighting.row_scale == "1/sqrt n":
        p_bhts = p_bhts / log_n_bht1.exp().clamp(min=1.0).sqrt()
    return p_bhts.masked_fill(hidden, 0.0)


def scores(
    q_bhtd: Tensor, k_bhsd: Tensor, position: PositionBias | None, delta: int, scale: float
) -> Tensor:
    """s_bhts before weighting and mask; offset of key j and query i is j - i + delta."""
    dtype = compute_dtype(q_bhtd.dtype)
    q, k = q_bhtd.to(dtype), _repeat_heads(k_bhsd, q_bhtd.shape[1]).to(dtype)
    if position is None:
        return q @ k.mT * scale
    offset_ts = offsets(q.shape[2], k.shape[2], delta, q.device)
    if position.r_hpd is None:
        return q @ k.mT * scale + position_bias(position, offset_ts, dtype)
    assert position.u_hd is not None
    assert position.v_hd is not None
    assert position.r_hpd is not None
    content = (q + position.u_hd.to(dtype)[:, None]) @ k.mT
    by_offset_bhtp = (q + position.v_hd.to(dtype)[:, None]) @ position.r_hpd.to(dtype).mT
    column_bhts = (offset_ts + position.zero).expand(content.shape)
    return (content + by_offset_bhtp.gather(3, column_bhts)) * scale


def position_bias(position: PositionBias, offset_ts: Tensor, dtype: torch.dtype) -> Tensor:
    """bias_hts of ALiBi or a table: what they add to a score, whatever q and k are."""
    if position.slopes_h is not None:
        return -position.slopes_h.to(dtype)[:, None, None] * offset_ts.abs()
    assert position.table_hp is not None
    column_ts = (offset_ts + position.zero).clamp(0, position.table_hp.shape[1] - 1)
    return position.table_hp.to(dtype)[:, column_ts]


def offsets(num_queries: int, num_keys: int, delta: int, device: torch.device) -> Tensor:
    """offset_ts = key position minus query position."""
    query_t = torch.arange(num_queries, device=device)
    key_s = torch.arange(num_keys, device=device)
    return key_s[None, :] - query_t[:, None] + delta


def visible(mask: Mask, q_bhtd: Tensor, k_bhsd: Tensor) -> Tensor:
    """visible_bts, True where the row may see the key: the meaning of each of Mask's fields."""
    batch, num_queries, num_keys = q_bhtd.shape[0], q_bhtd.shape[2], k_bhsd.shape[2]
    device = q_bhtd.device
    i_t, j_s = torch.arange(num_queries, device=device), torch.arange(num_keys, device=device)
    visible_bts = torch.ones(batch, num_queries, num_keys, dtype=torch.bool, device=device)
    query_t, key_s = i_t + mask.q_start, j_s + mask.k_start
    if mask.cu_seqlens is not None:
        ends = mask.cu_seqlens.long()[1:]
        segment_t = torch.searchsorted(ends, i_t, right=True)
        visible_bts &= segment_t[:, None] == segment_t
        query_t = key_s = i_t - mask.cu_seqlens.long()[segment_t]
    offset_ts = key_s[None, :] - query_t[:, None]
    if mask.key_lens is not None:
        visible_bts &= (j_s < mask.key_lens[:, None])[:, None, :]
    if mask.query_lens is not None:
        visible_bts &= (i_t < mask.query_lens[:, None])[:, :, None]
    if mask.causal:
        visible_bts &= offset_ts <= 0
    left, right = mask.window_sides
    if left is not None:
        visible_bts &= offset_ts >= -left
    if right is not None:
        visible_bts &= offset_ts <= right
    size, left_chunks = mask.chunk_size_left
    if size is not None:
        chunks_ago_ts = (query_t // size)[:, None] - (key_s // size)[None, :]
        visible_bts &= chunks_ago_ts >= 0
        if left_chunks is not None:
            visible_bts &= chunks_ago_ts <= left_chunks
    return visible_bts


def log_counts(
    weighting: Weighting,
    position: PositionBias | None,
    mask: Mask,
    visible_bts: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """log n of each row, (B, H or 1, T); 0 for rows that see no key."""
    batch, num_queries, num_keys = visible_bts.shape
    if weighting.counts_biases(position):
        assert position is not None
        delta = mask.k_start - mask.q_start
        offset_ts = offsets(num_queries, num_keys, delta, visible_bts.device)
        lowest = torch.finfo(dtype).min / 2
        bias_hts = position_bias(position, offset_ts, dtype).clamp(min=lowest)
        bias_bhts = torch.where(visible_bts[:, None], bias_hts, lowest)
        log_n_bht = bias_bhts.logsumexp(3)  # lowest for a row that no bias lets see anything
        return log_n_bht.masked_fill(log_n_bht < lowest / 2, 0.0)
    if isinstance(weighting.n, Tensor) and weighting.n.dim() == 3:
        return weighting.n.to(dtype).clamp(min=torch.finfo(dtype).tiny).log()
    if isinstance(weighting.n, Tensor):
        n_bt = weighting.n if weighting.n.dim() == 2 else weighting.n[:, None]
    elif isinstance(weighting.n, int):
        n_bt = visible_bts.new_full((1, 1), weighting.n, dtype=torch.int64)
    elif weighting.n != "sequence":
        n_bt = visible_bts.sum(2)
    elif mask.cu_seqlens is not None:
        lens_n = mask.cu_seqlens.long().diff()
        n_bt = lens_n.repeat_interleave(lens_n, output_size=num_queries)[None]
    elif mask.key_lens is not None:
        n_bt = mask.key_lens[:, None]
    else:
        n_bt = visible_bts.new_full((1, 1), num_keys, dtype=torch.int64)
    n_bt = n_bt.clamp(min=1).expand(batch, num_queries)
    return n_bt.to(dtype).log()[:, None]


def _repeat_heads(x_bhsd: Tensor, num_heads: int) -> Tensor:
    repeats = num_heads // x_bhsd.shape[1]
    return x_bhsd if repeats == 1 else x_bhsd.repeat_interleave(repeats, 1)
