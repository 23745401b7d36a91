"""The forward kernel: one program per block of queries and head; no maximum, no sum, no rescaling."""

# mypy: ignore-errors

import triton
import triton.language as tl

from .device import (
    ALIBI,
    RELATIVE,
    head_slope,
    load_row_term,
    load_rows,
    load_runs,
    load_whole,
    only_seen,
    row_offsets,
    seen_by,
    store_rows,
)
from .skew import range_anew, skewed_product
from .weightings import as_factor, as_sum, load_row_factor, weigh, weigh_by_distance


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
def tile_weights(
    q_tile, qv_tile, k_tile, r_base, row0, key0, turn, lo_t, hi_t, term_t, slope, table_h,
    delta, zero, num_offsets, scale,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    POSITION: tl.constexpr, HAS_ROW: tl.constexpr, CUT: tl.constexpr, TRANSPOSED: tl.constexpr,
    MODE: tl.constexpr, PRECISION: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """p (BM, BN) of queries from row0 and keys from key0 on; TRANSPOSED: as (BN, BM).

    CUT: 0 where lo and hi say so. turn: the variable of the loop around, row0 or key0.
    """
    x = tile_products(
        q_tile, qv_tile, k_tile, r_base, row0, key0, turn, delta, zero, num_offsets,
        BM, BN, D, BD, POSITION, TRANSPOSED, PRECISION, ASM,
    )  # fmt: skip
    return product_weights(
        x, row0, key0, lo_t, hi_t, term_t, slope, table_h, delta, zero, num_offsets, scale,
        BM, BN, POSITION, HAS_ROW, CUT, TRANSPOSED, MODE, ASM,
    )  # fmt: skip


@triton.jit
def tile_products(
    q_tile, qv_tile, k_tile, r_base, row0, key0, turn, delta, zero, num_offsets,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    POSITION: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The matrix products of tile_weights: scores but for scale, bias and shift."""
    if POSITION == RELATIVE:
        shift_t = BM - 1 - range_anew(turn, BM, ASM)
        x = skewed_product(
            qv_tile, shift_t, r_base, delta + zero + key0 - (row0 + BM - 1), D, 0, num_offsets,
            BM, BN, D, BD, TRANSPOSED, PRECISION, ASM,
        )  # fmt: skip
    else:
        x = tl.zeros((BN, BM) if TRANSPOSED else (BM, BN), tl.float32)
    if TRANSPOSED:
        x = tl.dot(k_tile, tl.trans(q_tile), x, input_precision=PRECISION)
    else:
        x = tl.dot(q_tile, tl.trans(k_tile), x, input_precision=PRECISION)
    return x


@triton.jit
def product_weights(
    x, row0, key0, lo_t, hi_t, term_t, slope, table_h, delta, zero, num_offsets, scale,
    BM: tl.constexpr, BN: tl.constexpr, POSITION: tl.constexpr, HAS_ROW: tl.constexpr,
    CUT: tl.constexpr, TRANSPOSED: tl.constexpr, MODE: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Turn the products of tile_weights into its weights."""
    i_axis: tl.constexpr = 1 if TRANSPOSED else 0
    rows = tl.expand_dims(row0 + tl.arange(0, BM), 1 - i_axis)
    keys = tl.expand_dims(key0 + tl.arange(0, BN), i_axis)
    M: tl.constexpr = BN if TRANSPOSED else BM
    N: tl.constexpr = BM if TRANSPOSED else BN
    term = tl.expand_dims(term_t, 1 - i_axis)
    if POSITION == ALIBI:
        step: tl.constexpr = -1 if TRANSPOSED else 1
        p = weigh_by_distance(
            x, key0 + delta - row0, step, term, slope, scale, M, N, HAS_ROW, MODE, ASM
        )  # fmt: skip
    else:
        p = weigh(
            x, rows, keys, term, slope, table_h,
            delta, zero, num_offsets, scale, M, N, POSITION, HAS_ROW, MODE, ASM,
        )  # fmt: skip
    if CUT:
        lo, hi = tl.expand_dims(lo_t, 1 - i_axis), tl.expand_dims(hi_t, 1 - i_axis)
        p = only_seen(p, seen_by(keys, lo, hi), ASM)
    return p


@triton.jit
def add_whole_tiles(
    acc, q_tile, qv_tile, k_base, v_base, r_base, row0, begin, stop, k_t, v_t,
    lo_t, hi_t, term_t, slope, table_h, delta, zero, num_offsets, scale,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, POSITION: tl.constexpr, HAS_ROW: tl.constexpr,
    BOUNDED: tl.constexpr, MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
    STEPPED: tl.constexpr,
):  # fmt: skip
    """acc and what the keys of whole tiles, from begin to stop, add to it.

    STEPPED: addresses are held and stepped, for registers allow it; else computed anew.
    """
    k_step, v_step = tl.cast(k_t, tl.int64) * BN, tl.cast(v_t, tl.int64) * BN
    k_offsets, v_offsets = row_offsets(k_t, BN, BD), row_offsets(v_t, BN, BDV)
    k_first = k_base + tl.cast(begin, tl.int64) * k_t
    v_first = v_base + tl.cast(begin, tl.int64) * v_t
    dtype: tl.constexpr = v_base.dtype.element_ty
    for key0 in range(begin, stop, BN):
        if STEPPED:
            k_tile = load_whole(k_first, k_offsets, D, BD)
            k_first += k_step
        else:
            k_tile = load_rows(k_base, key0, k_t, False, BN, D, BD, False, ASM)
        x = tile_products(
            q_tile, qv_tile, k_tile, r_base, row0, key0, key0, delta, zero, num_offsets,
            BM, BN, D, BD, POSITION, False, PRECISION, ASM,
        )  # fmt: skip
        p = product_weights(
            x, row0, key0, lo_t, hi_t, term_t, slope, table_h, delta, zero, num_offsets, scale,
            BM, BN, POSITION, HAS_ROW, False, False, MODE, ASM,
        )  # fmt: skip
        if STEPPED:
            v_tile = load_whole(v_first, v_offsets, DV, BDV)
            v_first += v_step
        else:
            v_tile = load_rows(v_base, key0, v_t, False, BN, DV, BDV, False, ASM)
        acc = tl.dot(as_factor(p, dtype, BOUNDED), v_tile, acc, input_precision=PRECISION)
    return acc


@triton.jit
def forward_kernel(
    q, k, v, o, lo, hi, row, factor, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, o_b, o_h, o_t,
    runs_b, row_b, row_h, row_t,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr,
    HAS_FACTOR: tl.constexpr, BOUNDED: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
    STEPPED: tl.constexpr,
):  # fmt: skip
    """o (B, H, T, Dv); grid (blocks of queries, B * H)."""
    item = tl.program_id(1).to(tl.int64)
    batch, head = item // HEADS, item % HEADS
    kv_head = head // GROUP
    row0 = tl.program_id(0) * BM
    rows = row0 + tl.arange(0, BM)
    lo_t, hi_t = load_runs(lo, hi, batch * runs_b, rows, num_queries, num_keys, HAS_RUNS)
    sees = hi_t > lo_t
    q_tile = load_rows(q + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM)
    term_t = load_row_term(row + batch * row_b + head * row_h, rows, row_t, num_queries, HAS_ROW)
    slope, table_h = head_slope(slopes, head, POSITION), table + head * num_offsets
    k_base, v_base = k + batch * k_b + kv_head * k_h, v + batch * v_b + kv_head * v_h
    acc = tl.zeros((BM, BDV), tl.float32)
    start, full_from, full_to, end = key_range(lo_t, hi_t, num_keys, BN, HAS_RUNS)
    r_base = r + head * num_offsets * D
    qv_tile = q_tile
    if POSITION == RELATIVE:
        qv_tile = load_rows(qv + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM)
    # Three loops: tiles that runs of keys cut, whole tiles, tiles cut again.
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = start if part == 0 else (full_from if part == 1 else full_to)
        stop = full_from if part == 0 else (full_to if part == 1 else end)
        if part == 1:
            acc = add_whole_tiles(
                acc, q_tile, qv_tile, k_base, v_base, r_base, row0, begin, stop, k_t, v_t,
                lo_t, hi_t, term_t, slope, table_h, delta, zero, num_offsets, scale,
                BM, BN, D, DV, BD, BDV, POSITION, HAS_ROW, BOUNDED, MODE, ASM, PRECISION, STEPPED,
            )  # fmt: skip
        else:
            for key0 in range(begin, stop, BN):
                keep = key0 + tl.arange(0, BN) < end
                k_tile = load_rows(k_base, key0, k_t, keep, BN, D, BD, True, ASM)
                p = tile_weights(
                    q_tile, qv_tile, k_tile, r_base, row0, key0, key0, lo_t, hi_t, term_t,
                    slope, table_h, delta, zero, num_offsets, scale,
                    BM, BN, D, BD, POSITION, HAS_ROW, True, False, MODE, PRECISION, ASM,
                )  # fmt: skip
                v_tile = load_rows(v_base, key0, v_t, keep, BN, DV, BDV, True, ASM)
                p = as_factor(p, v_tile.dtype, BOUNDED)
                acc = tl.dot(p, v_tile, acc, input_precision=PRECISION)
    acc = as_sum(acc, v.dtype.element_ty, BOUNDED)
    if HAS_FACTOR:
        at = factor + batch * row_b + head * row_h
        acc = acc * load_row_factor(at, rows, row_t, num_queries, HAS_FACTOR)[:, None]
    o_base = o + batch * o_b + head * o_h
    store_rows(o_base, row0, o_t, rows < num_queries, acc.to(o.dtype.element_ty), BM, DV, BDV)
