"""The backward kernels: each recomputes the weights from the inputs; no atomics, so deterministic.

ds = p (1 - p) dp with dp = do . v: no pass over the output, for a sigmoid has no normaliser.
query_kernel owns blocks of queries (dq), key_kernel blocks of keys (dk, dv), offset_kernel blocks
of offsets (the gradients of a table, of slopes and of Transformer-XL's r). The gradients of
Transformer-XL's u and v need no tiles of their own: du = sum_j (sum_i ds_ij) k_j over key_kernel's
keys, dv = sum_o (sum of ds at offset o) r_o over offset_kernel's offsets.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from .device import (
    RELATIVE,
    head_slope,
    load_row_term,
    load_rows,
    load_runs,
    load_whole,
    row_offsets,
    seen_by,
    seen_keys,
    store_rows,
    weigh,
)
from .forward import FLOAT16_SCALE, as_factor, key_range, tile_weights
from .skew import add_skewed_gradient, load_band, range_anew, skewed_product


@triton.jit
def query_kernel(
    q, k, v, do, dq, drow, lo, hi, row, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t,
    runs_b, row_b, row_h, row_t,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr, NEED_ROW: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq (B, H, T, D) in a type of the caller's; drow (B, H, T)."""
    item = tl.program_id(1).to(tl.int64)
    batch, head = item // HEADS, item % HEADS
    kv_head = head // GROUP
    row0 = tl.program_id(0) * BM
    rows = row0 + tl.arange(0, BM)
    lo_t, hi_t = load_runs(lo, hi, batch * runs_b, rows, num_queries, num_keys, HAS_RUNS)
    sees = hi_t > lo_t
    q_tile = load_rows(q + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM)
    do_tile = load_rows(do + batch * do_b + head * do_h, row0, do_t, sees, BM, DV, BDV, True, ASM)
    term_t = load_row_term(row + batch * row_b + head * row_h, rows, row_t, num_queries, HAS_ROW)
    slope, table_h = head_slope(slopes, head, POSITION), table + head * num_offsets
    k_base, v_base = k + batch * k_b + kv_head * k_h, v + batch * v_b + kv_head * v_h
    dq_tile = tl.zeros((BM, BD), tl.float32)
    sums = tl.zeros((BM,), tl.float32)
    start, full_from, full_to, end = key_range(lo_t, hi_t, num_keys, BN, HAS_RUNS)
    r_base = r + head * num_offsets * D
    qv_tile = q_tile
    if POSITION == RELATIVE:
        qv_tile = load_rows(qv + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM)
    k_step, v_step = tl.cast(k_t, tl.int64) * BN, tl.cast(v_t, tl.int64) * BN
    k_offsets, v_offsets = row_offsets(k_t, BN, BD), row_offsets(v_t, BN, BDV)
    k_first = k_base + tl.cast(full_from, tl.int64) * k_t
    v_first = v_base + tl.cast(full_from, tl.int64) * v_t
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = start if part == 0 else (full_from if part == 1 else full_to)
        stop = full_from if part == 0 else (full_to if part == 1 else end)
        for key0 in range(begin, stop, BN):
            if part == 1:
                k_tile = load_whole(k_first, k_offsets, D, BD)
                v_tile = load_whole(v_first, v_offsets, DV, BDV)
                k_first += k_step
                v_first += v_step
            else:
                keep = key0 + tl.arange(0, BN) < end
                k_tile = load_rows(k_base, key0, k_t, keep, BN, D, BD, True, ASM)
                v_tile = load_rows(v_base, key0, v_t, keep, BN, DV, BDV, True, ASM)
            p = tile_weights(
                q_tile, qv_tile, k_tile, r_base, row0, key0, key0, lo_t, hi_t, term_t,
                slope, table_h, delta, zero, num_offsets, scale,
                BM, BN, D, BD, POSITION, HAS_ROW, part != 1, False, MODE, PRECISION, ASM,
            )  # fmt: skip
            dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
            ds = (p - p * p) * dp
            if NEED_ROW:
                sums += tl.sum(ds, 1)
            ds_cast = ds.to(k_tile.dtype)
            dq_tile = tl.dot(ds_cast, k_tile, dq_tile, input_precision=PRECISION)
            if POSITION == RELATIVE:
                shift_t = BM - 1 - range_anew(key0, BM, ASM)
                dq_tile = add_skewed_gradient(
                    dq_tile, ds_cast, shift_t, r_base, delta + zero + key0 - (row0 + BM - 1), D,
                    0, num_offsets, BM, BN, D, BD, PRECISION, ASM,
                )  # fmt: skip
    inside = rows < num_queries
    at = item * num_queries
    dq_out = (dq_tile * scale).to(dq.dtype.element_ty)
    store_rows(dq + at * D, row0, D, inside, dq_out, BM, D, BD)
    if NEED_ROW:
        tl.store(drow + at + rows, sums, mask=inside)


@triton.jit
def bounds_kernel(
    lo, hi, bounds, seen, num_queries, num_keys,
    BM: tl.constexpr, BN: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """What key_kernel asks of runs: bounds (B', blocks, 4) int32; seen (B', 2), see seen_keys.

    Of each block of BN keys, in rows, all but the last multiples of BM: start and end of the tiles
    that see any key; and between them start and end of the first tiles whose every row exists and
    sees all keys of the block that anybody sees. Grid (blocks, B').
    """
    block, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    key0 = block * BN
    base = batch * num_queries
    rows0 = tl.arange(0, TILES)[:, None] * BM + tl.arange(0, BM)[None, :]
    first_seen, last_seen = num_keys, 0
    for row0 in range(0, num_queries, TILES * BM):
        lo_mt, hi_mt = load_runs(lo, hi, base, row0 + rows0, num_queries, num_keys, True)
        least = tl.min(tl.min(tl.where(hi_mt > lo_mt, lo_mt, num_keys), 1), 0)
        first_seen = tl.minimum(first_seen, least)
        last_seen = tl.maximum(last_seen, tl.max(tl.max(hi_mt, 1), 0))
    if block == 0:
        tl.store(seen + 2 * batch, first_seen)
        tl.store(seen + 2 * batch + 1, last_seen)
    key_from, key_to = tl.maximum(key0, first_seen), tl.minimum(key0 + BN, last_seen)
    most = tl.cdiv(num_queries, BM)
    start, end, full_from, full_to = most, 0, most, most
    for row0 in range(0, num_queries, TILES * BM):
        lo_mt, hi_mt = load_runs(lo, hi, base, row0 + rows0, num_queries, num_keys, True)
        meets_mt = (hi_mt > lo_mt) & (lo_mt < key_to) & (hi_mt > key_from)
        meets = tl.max(meets_mt.to(tl.int32), 1)
        whole = tl.min((meets_mt & (lo_mt <= key_from) & (hi_mt >= key_to)).to(tl.int32), 1)
        tile = row0 // BM + tl.arange(0, TILES)
        start = tl.minimum(start, tl.min(tl.where(meets > 0, tile, most), 0))
        end = tl.maximum(end, tl.max(tl.where(meets > 0, tile + 1, 0), 0))
        full_from = tl.minimum(full_from, tl.min(tl.where(whole > 0, tile, most), 0))
        cut = (whole == 0) & (tile > full_from)
        full_to = tl.minimum(full_to, tl.min(tl.where(cut, tile, most), 0))
    start = tl.minimum(start, end)
    full_from = tl.minimum(full_from, end)
    full_to = tl.maximum(tl.minimum(full_to, end), full_from)
    at = bounds + 4 * (batch * tl.num_programs(0) + block)
    tl.store(at, start * BM)
    tl.store(at + 1, full_from * BM)
    tl.store(at + 2, full_to * BM)
    tl.store(at + 3, tl.minimum(end * BM, num_queries))


@triton.jit
def row_range(bounds, tiles_b, batch, num_queries, BM: tl.constexpr, HAS_RUNS: tl.constexpr):
    """start, full_from, full_to, end: the rows of a block of keys, as bounds_kernel gives them."""
    if HAS_RUNS:
        at = bounds + 4 * (batch * tiles_b + tl.program_id(0))
        start, full_from, full_to, end = (
            tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
        )  # fmt: skip
    else:
        start = 0
        full_from = 0
        full_to = num_queries // BM * BM
        end = num_queries
    return start, full_from, full_to, end


@triton.jit
def key_kernel(
    q, k, v, do, dk, dv, columns, bounds, seen, lo, hi, row, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t,
    runs_b, row_b, row_h, row_t, tiles_b, seen_b,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk (B, H, S, D), dv (B, H, S, Dv), columns (B, H, S): the sum of ds over queries.

    Each query head has sums of its own; those that share a key head are added by the caller (a loop
    over them around the loop over queries took more registers than there are).
    Grid (blocks of keys, B * H). Weights are masked only where runs cut a tile: rows without keys
    have do = 0, which makes what they add 0, and what keys that nobody sees get is not stored.
    """
    item = tl.program_id(1).to(tl.int64)
    batch, head = item // HEADS, item % HEADS
    kv_head = head // GROUP
    key0 = tl.program_id(0) * BN
    keys = key0 + tl.arange(0, BN)
    start, full_from, full_to, end = row_range(bounds, tiles_b, batch, num_queries, BM, HAS_RUNS)
    first_key, last_key = seen_keys(seen, batch * seen_b, num_keys, HAS_RUNS)
    keep = seen_by(keys, first_key, last_key)
    k_tile = load_rows(k + batch * k_b + kv_head * k_h, key0, k_t, keep, BN, D, BD, True, ASM)
    v_tile = load_rows(v + batch * v_b + kv_head * v_h, key0, v_t, keep, BN, DV, BDV, True, ASM)
    q_base, do_base = q + batch * q_b + head * q_h, do + batch * do_b + head * do_h
    qv_base, row_base = qv + batch * q_b + head * q_h, row + batch * row_b + head * row_h
    slope, table_h = head_slope(slopes, head, POSITION), table + head * num_offsets
    r_base = r + head * num_offsets * D
    dk_tile = tl.zeros((BN, BD), tl.float32)
    dv_tile = tl.zeros((BN, BDV), tl.float32)
    sums = tl.zeros((BN,), tl.float32)
    q_step, do_step = tl.cast(q_t, tl.int64) * BM, tl.cast(do_t, tl.int64) * BM
    q_offsets, do_offsets = row_offsets(q_t, BM, BD), row_offsets(do_t, BM, BDV)
    q_first = q_base + tl.cast(full_from, tl.int64) * q_t
    do_first = do_base + tl.cast(full_from, tl.int64) * do_t
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = start if part == 0 else (full_from if part == 1 else full_to)
        stop = full_from if part == 0 else (full_to if part == 1 else end)
        for row0 in range(begin, stop, BM):
            rows = row0 + tl.arange(0, BM)
            if part == 1:
                lo_t, hi_t = rows, rows
                sees = rows < num_queries
                q_tile = load_whole(q_first, q_offsets, D, BD)
                do_tile = load_whole(do_first, do_offsets, DV, BDV)
                q_first += q_step
                do_first += do_step
            else:
                lo_t, hi_t = load_runs(
                    lo, hi, batch * runs_b, rows, num_queries, num_keys, HAS_RUNS
                )
                sees = hi_t > lo_t
                q_tile = load_rows(q_base, row0, q_t, sees, BM, D, BD, True, ASM)
                do_tile = load_rows(do_base, row0, do_t, sees, BM, DV, BDV, True, ASM)
            qv_tile = q_tile
            if POSITION == RELATIVE:
                qv_tile = load_rows(qv_base, row0, q_t, sees, BM, D, BD, True, ASM)
            term_t = load_row_term(row_base, rows, row_t, num_queries, HAS_ROW)
            # Transposed, (BN, BM): p and ds are then left operands as they come.
            p = tile_weights(
                q_tile, qv_tile, k_tile, r_base, row0, key0, row0, lo_t, hi_t, term_t,
                slope, table_h, delta, zero, num_offsets, scale,
                BM, BN, D, BD, POSITION, HAS_ROW, HAS_RUNS and part != 1, True,
                MODE, PRECISION, ASM,
            )  # fmt: skip
            dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
            ds = (p - p * p) * dp
            if POSITION == RELATIVE:
                sums += tl.sum(ds, 1)
            p_cast = as_factor(p, do_tile.dtype)
            dv_tile = tl.dot(p_cast, do_tile, dv_tile, input_precision=PRECISION)
            dk_tile = tl.dot(ds.to(q_tile.dtype), q_tile, dk_tile, input_precision=PRECISION)
    if do.dtype.element_ty == tl.float16:
        dv_tile = dv_tile * (1.0 / FLOAT16_SCALE)
    inside = keys < num_keys
    at = item * num_keys
    dk_out = tl.where(keep[:, None], dk_tile * scale, 0.0).to(dk.dtype.element_ty)
    dv_out = tl.where(keep[:, None], dv_tile, 0.0).to(dv.dtype.element_ty)
    store_rows(dk + at * D, key0, D, inside, dk_out, BN, D, BD)
    store_rows(dv + at * DV, key0, DV, inside, dv_out, BN, DV, BDV)
    if POSITION == RELATIVE:
        tl.store(columns + at + keys, tl.where(keep, sums, 0.0), mask=inside)


@triton.jit
def offset_kernel(
    q, k, v, do, sums_out, dr, seen, lo, hi, row, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t,
    runs_b, row_b, row_h, row_t, seen_b,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sums_out (B, H, T + S - 1), dr (B, H, T + S - 1, D); grid (blocks of offsets, B * H).

    Column c stands for offset c - (T - 1) + delta. A program walks its BN diagonals down the rows;
    row i of a tile meets diagonal o at key first_key + o + i.
    """
    item = tl.program_id(1).to(tl.int64)
    batch, head = item // HEADS, item % HEADS
    kv_head = head // GROUP
    column0 = tl.program_id(0) * BN
    columns = column0 + tl.arange(0, BN)
    offset0 = columns - (num_queries - 1)  # key minus query, counted in the given tensors
    total = num_queries + num_keys - 1
    slope, table_h = head_slope(slopes, head, POSITION), table + head * num_offsets
    k_base, v_base = k + batch * k_b + kv_head * k_h, v + batch * v_b + kv_head * v_h
    if POSITION == RELATIVE:
        r_base = r + head * num_offsets * D
        at = column0 - (num_queries - 1) + delta + zero
        band = load_band(r_base, at, D, 0, num_offsets, BN, D, BD, ASM)
        dr_tile = tl.zeros((BN, BD), tl.float32)
    sums = tl.zeros((BN,), tl.float32)
    # Rows whose diagonals lie inside the matrix: 0 <= row + column - (T - 1) < S.
    begin = tl.maximum(num_queries - 1 - (column0 + BN - 1), 0)
    stop = tl.minimum(num_queries, num_keys + num_queries - 1 - column0)
    first_seen, last_seen = seen_keys(seen, batch * seen_b, num_keys, HAS_RUNS)
    for row0 in range(begin, stop, BM):
        rows = row0 + tl.arange(0, BM)
        lo_t, hi_t = load_runs(lo, hi, batch * runs_b, rows, num_queries, num_keys, HAS_RUNS)
        sees = hi_t > lo_t
        q_tile = load_rows(q + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM)
        do_tile = load_rows(
            do + batch * do_b + head * do_h, row0, do_t, sees, BM, DV, BDV, True, ASM
        )
        shift_t = range_anew(row0, BM, ASM)
        first_key = row0 + column0 - (num_queries - 1)
        x = skewed_product(
            q_tile, shift_t, k_base, first_key, k_t, first_seen, last_seen,
            BM, BN, D, BD, True, PRECISION, ASM,
        )  # fmt: skip
        if POSITION == RELATIVE:
            qv_tile = load_rows(
                qv + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM
            )
            x = tl.dot(band, tl.trans(qv_tile), x, input_precision=PRECISION)
        base = row + batch * row_b + head * row_h
        term_t = load_row_term(base, rows, row_t, num_queries, HAS_ROW)
        p = weigh(
            x, tl.zeros_like(rows)[None, :], offset0[:, None], term_t[None, :], slope, table_h,
            delta, zero, num_offsets, scale, BN, BM, POSITION, HAS_ROW, MODE, ASM,
        )  # fmt: skip
        visible = seen_by(rows[None, :] + offset0[:, None], lo_t[None, :], hi_t[None, :])
        p = tl.where(visible & sees[None, :], p, 0.0)
        dp = skewed_product(
            do_tile, shift_t, v_base, first_key, v_t, first_seen, last_seen,
            BM, BN, DV, BDV, True, PRECISION, ASM,
        )  # fmt: skip
        ds = (p - p * p) * dp
        sums += tl.sum(ds, 1)
        if POSITION == RELATIVE:
            dr_tile = tl.dot(ds.to(qv_tile.dtype), qv_tile, dr_tile, input_precision=PRECISION)
    at = item * total
    tl.store(sums_out + at + columns, sums, mask=columns < total)
    if POSITION == RELATIVE:
        store_rows(dr + at * D, column0, D, columns < total, dr_tile * scale, BN, D, BD)
