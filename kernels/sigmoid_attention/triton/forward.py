"""The forward kernel: one program per block of queries and head; no maximum, no sum, no rescaling."""

# mypy: ignore-errors

import triton
import triton.language as tl

from .device import (
    ALIBI,
    LOG2E,
    RELATIVE,
    add_head,
    add_offset_bias,
    load_row_term,
    load_rows,
    load_runs,
    sigmoid,
    store_rows,
    tile_offsets,
)


@triton.jit
def key_range(lo_t, hi_t, num_keys, BN: tl.constexpr, HAS_RUNS: tl.constexpr):
    """start, full_from, full_to, end: tiles of BN keys from start, unmasked between the fulls."""
    if HAS_RUNS:
        seen = hi_t > lo_t
        start = tl.min(tl.where(seen, lo_t, num_keys), 0)
        end = tl.max(hi_t, 0)
        start = tl.minimum(start, end)
        full_from = start + tl.cdiv(tl.max(lo_t, 0) - start, BN) * BN
        full_from = tl.minimum(tl.maximum(full_from, start), start + tl.cdiv(end - start, BN) * BN)
        full_to = full_from + tl.maximum(tl.min(hi_t, 0) - full_from, 0) // BN * BN
    else:
        start = 0
        full_from = 0
        full_to = num_keys // BN * BN
        end = num_keys
    return start, full_from, full_to, end


@triton.jit
def relative_term(
    qv, r, head, rows, keys, delta, zero, num_offsets,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """qv . r[offset] of a tile: a band of BM + BN offsets, each row of it read from its own start."""
    tl.static_assert(BM == BN)
    row0, key0 = tl.min(rows, 0), tl.min(keys, 0)
    band = key0 - (row0 + BM - 1) + delta + zero + tl.arange(0, BM + BN)
    keep = (band >= 0) & (band < num_offsets)
    r_tile = load_rows(r + head.to(tl.int64) * num_offsets * D, band, D, keep, D, BD, True)
    by_offset = tl.dot(qv, tl.trans(r_tile.to(qv.dtype)), input_precision=PRECISION)
    index = (keys - key0)[None, :] - (rows - row0)[:, None] + BM - 1
    return tl.gather(by_offset, index, 1)


@triton.jit
def forward_kernel(
    q, k, v, o, lo, hi, row, slopes, table, u, vb, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, o_b, o_h, o_t,
    runs_b, row_b, row_h, row_t,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o (B, H, T, Dv); grid (blocks of queries, B * H)."""
    batch, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    b64, kv_head = batch.to(tl.int64), (head // GROUP).to(tl.int64)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    lo_t, hi_t = load_runs(lo, hi, b64 * runs_b, rows, num_queries, num_keys, HAS_RUNS)
    sees = hi_t > lo_t
    q_tile = load_rows(q + b64 * q_b + head * q_h, rows, q_t, sees, D, BD, True)
    row_t_term = load_row_term(
        row + batch * row_b + head * row_h, rows, row_t, num_queries, HAS_ROW
    )
    slope, table_h = 0.0, table
    if POSITION == ALIBI:
        slope = tl.load(slopes + head).to(tl.float32) * LOG2E
    table_h = table + head * num_offsets
    qv_tile = q_tile
    if POSITION == RELATIVE:
        qv_tile = add_head(q_tile, vb, head, D, BD)
        q_tile = add_head(q_tile, u, head, D, BD)
    k_base, v_base = k + b64 * k_b + kv_head * k_h, v + b64 * v_b + kv_head * v_h
    acc = tl.zeros((BM, BDV), tl.float32)
    start, full_from, full_to, end = key_range(lo_t, hi_t, num_keys, BN, HAS_RUNS)
    # Three loops: tiles that runs of keys cut, whole tiles, tiles cut again.
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = start if part == 0 else (full_from if part == 1 else full_to)
        stop = full_from if part == 0 else (full_to if part == 1 else end)
        for key0 in range(begin, stop, BN):
            keys = key0 + tl.arange(0, BN)
            keep = keys < end
            k_tile = load_rows(k_base, keys, k_t, keep, D, BD, part != 1)
            x = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
            if POSITION == RELATIVE:
                x += relative_term(
                    qv_tile, r, head, rows, keys, delta, zero, num_offsets, D, BD, BM, BN, PRECISION
                )
            x = x * (scale * LOG2E)
            if HAS_ROW:
                x = x + row_t_term[:, None]
            offset = tile_offsets(rows, keys, delta, POSITION)
            x = add_offset_bias(x, offset, slope, table_h, zero, num_offsets, POSITION)
            p = sigmoid(x, BM, BN, MODE, ASM)
            if part != 1:
                p = tl.where(
                    (keys[None, :] >= lo_t[:, None]) & (keys[None, :] < hi_t[:, None]), p, 0.0
                )
            v_tile = load_rows(v_base, keys, v_t, keep, DV, BDV, part != 1)
            acc = tl.dot(p.to(v_tile.dtype), v_tile, acc, input_precision=PRECISION)
    o_base = o + b64 * o_b + head * o_h
    store_rows(o_base, rows, o_t, rows < num_queries, acc.to(o.dtype.element_ty), DV, BDV)
