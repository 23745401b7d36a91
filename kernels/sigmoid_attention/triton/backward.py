"""The backward kernels: each recomputes the weights from the inputs; no atomics, so deterministic.

ds = p (1 - p) dp with dp = do . v: no pass over the output, for a sigmoid has no normaliser.
query_kernel owns blocks of queries (dq), key_kernel blocks of keys (dk, dv), offset_kernel blocks
of offsets (the gradients of a table, of slopes and of Transformer-XL's r).
"""

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
    seen_keys,
    sigmoid,
    store_rows,
    tile_offsets,
)
from .forward import key_range, relative_term


@triton.jit
def query_kernel(
    q, k, v, do, dq, dqv, drow, lo, hi, row, slopes, table, u, vb, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t,
    runs_b, row_b, row_h, row_t,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr, NEED_ROW: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq (B, H, T, D), for relative positions only q's content part and dqv apart; drow (B, H, T)."""
    batch, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    b64, kv_head = batch.to(tl.int64), (head // GROUP).to(tl.int64)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    lo_t, hi_t = load_runs(lo, hi, b64 * runs_b, rows, num_queries, num_keys, HAS_RUNS)
    sees = hi_t > lo_t
    q_tile = load_rows(q + b64 * q_b + head * q_h, rows, q_t, sees, D, BD, True)
    do_tile = load_rows(do + b64 * do_b + head * do_h, rows, do_t, sees, DV, BDV, True)
    row_t_term = load_row_term(
        row + batch * row_b + head * row_h, rows, row_t, num_queries, HAS_ROW
    )
    slope, table_h = 0.0, table + head * num_offsets
    if POSITION == ALIBI:
        slope = tl.load(slopes + head).to(tl.float32) * LOG2E
    qv_tile = q_tile
    if POSITION == RELATIVE:
        qv_tile = add_head(q_tile, vb, head, D, BD)
        q_tile = add_head(q_tile, u, head, D, BD)
    k_base, v_base = k + b64 * k_b + kv_head * k_h, v + b64 * v_b + kv_head * v_h
    dq_tile = tl.zeros((BM, BD), tl.float32)
    dqv_tile = tl.zeros((BM, BD), tl.float32)
    sums = tl.zeros((BM,), tl.float32)
    start, full_from, full_to, end = key_range(lo_t, hi_t, num_keys, BN, HAS_RUNS)
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = start if part == 0 else (full_from if part == 1 else full_to)
        stop = full_from if part == 0 else (full_to if part == 1 else end)
        for key0 in range(begin, stop, BN):
            keys = key0 + tl.arange(0, BN)
            keep = keys < end
            k_tile = load_rows(k_base, keys, k_t, keep, D, BD, part != 1)
            v_tile = load_rows(v_base, keys, v_t, keep, DV, BDV, part != 1)
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
            dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
            ds = p * (1.0 - p) * dp
            if NEED_ROW:
                sums += tl.sum(ds, 1)
            ds_cast = ds.to(k_tile.dtype)
            dq_tile = tl.dot(ds_cast, k_tile, dq_tile, input_precision=PRECISION)
            if POSITION == RELATIVE:
                dqv_tile = add_relative_gradient(
                    dqv_tile, ds, r, k_tile.dtype, head, rows, keys, delta, zero, num_offsets,
                    D, BD, BM, BN, PRECISION,
                )  # fmt: skip
    inside = rows < num_queries
    at = tl.program_id(1).to(tl.int64) * num_queries
    store_rows(dq + at * D, rows, D, inside, dq_tile, D, BD)
    if POSITION == RELATIVE:
        store_rows(dqv + at * D, rows, D, inside, dqv_tile, D, BD)
    if NEED_ROW:
        tl.store(drow + at + rows, sums, mask=inside)


@triton.jit
def add_relative_gradient(dqv, ds, r, dtype, head, rows, keys, delta, zero, num_offsets,
                          D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                          PRECISION: tl.constexpr):  # fmt: skip
    """dqv + (ds sorted by offset) R: the inverse of the skew in relative_term."""
    row0, key0 = tl.min(rows, 0), tl.min(keys, 0)
    column = tl.arange(0, BM + BN)
    band = key0 - (row0 + BM - 1) + delta + zero + column
    keep = (band >= 0) & (band < num_offsets)
    r_tile = load_rows(r + head.to(tl.int64) * num_offsets * D, band, D, keep, D, BD, True)
    index = column[None, :] + (rows - row0)[:, None] - (BM - 1)
    valid = (index >= 0) & (index < BN)
    by_offset = tl.gather(ds, tl.where(valid, index, 0), 1)
    by_offset = tl.where(valid, by_offset, 0.0).to(dtype)
    return tl.dot(by_offset, r_tile.to(dtype), dqv, input_precision=PRECISION)


@triton.jit
def relative_term_transposed(
    qv, r, head, rows, keys, delta, zero, num_offsets,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """relative_term as (keys, queries)."""
    row0, key0 = tl.min(rows, 0), tl.min(keys, 0)
    band = key0 - (row0 + BM - 1) + delta + zero + tl.arange(0, BM + BN)
    keep = (band >= 0) & (band < num_offsets)
    r_tile = load_rows(r + head.to(tl.int64) * num_offsets * D, band, D, keep, D, BD, True)
    by_offset = tl.dot(r_tile.to(qv.dtype), tl.trans(qv), input_precision=PRECISION)
    index = (keys - key0)[:, None] - (rows - row0)[None, :] + BM - 1
    return tl.gather(by_offset, index, 0)


@triton.jit
def key_kernel(
    q, k, v, do, dk, dv, first_row, last_row, seen, lo, hi, row, slopes, table, u, vb, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t,
    runs_b, row_b, row_h, row_t, tiles_b, seen_b,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk (B, Hk, S, D) without q's bias or scale undone, dv (B, Hk, S, Dv); grid (blocks, B * Hk).

    first_row, last_row (B', blocks of keys): the queries that see any key of the block.
    """
    kv_heads: tl.constexpr = HEADS // GROUP
    batch, kv_head = tl.program_id(1) // kv_heads, tl.program_id(1) % kv_heads
    b64 = batch.to(tl.int64)
    keys = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = keys < num_keys
    first, last = 0, num_queries
    if HAS_RUNS:
        first = tl.load(first_row + batch * tiles_b + tl.program_id(0))
        last = tl.load(last_row + batch * tiles_b + tl.program_id(0))
    first_key, last_key = seen_keys(seen, batch * seen_b, num_keys, HAS_RUNS)
    keep = (keys >= first_key) & (keys < last_key)
    k_tile = load_rows(k + b64 * k_b + kv_head * k_h, keys, k_t, keep, D, BD, True)
    v_tile = load_rows(v + b64 * v_b + kv_head * v_h, keys, v_t, keep, DV, BDV, True)
    dk_tile = tl.zeros((BN, BD), tl.float32)
    dv_tile = tl.zeros((BN, BDV), tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        slope, table_h = 0.0, table + head * num_offsets
        if POSITION == ALIBI:
            slope = tl.load(slopes + head).to(tl.float32) * LOG2E
        for row0 in range(first, last, BM):
            rows = row0 + tl.arange(0, BM)
            lo_t, hi_t = load_runs(lo, hi, b64 * runs_b, rows, num_queries, num_keys, HAS_RUNS)
            sees = hi_t > lo_t
            q_tile = load_rows(q + b64 * q_b + head * q_h, rows, q_t, sees, D, BD, True)
            do_tile = load_rows(do + b64 * do_b + head * do_h, rows, do_t, sees, DV, BDV, True)
            qv_tile = q_tile
            if POSITION == RELATIVE:
                qv_tile = add_head(q_tile, vb, head, D, BD)
                q_tile = add_head(q_tile, u, head, D, BD)
            # Transposed, (BN, BM): p and ds are then left operands as they come.
            x = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION)
            if POSITION == RELATIVE:
                x += relative_term_transposed(
                    qv_tile, r, head, rows, keys, delta, zero, num_offsets, D, BD, BM, BN, PRECISION
                )
            x = x * (scale * LOG2E)
            if HAS_ROW:
                base = row + batch * row_b + head * row_h
                x = x + load_row_term(base, rows, row_t, num_queries, HAS_ROW)[None, :]
            if POSITION == ALIBI:
                offset = (keys + delta).to(tl.float32)[:, None] - rows.to(tl.float32)[None, :]
            else:
                offset = keys[:, None] + delta - rows[None, :]
            x = add_offset_bias(x, offset, slope, table_h, zero, num_offsets, POSITION)
            p = sigmoid(x, BN, BM, MODE, ASM)
            p = tl.where((keys[:, None] >= lo_t[None, :]) & (keys[:, None] < hi_t[None, :]), p, 0.0)
            dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
            ds = p * (1.0 - p) * dp
            dv_tile = tl.dot(p.to(do_tile.dtype), do_tile, dv_tile, input_precision=PRECISION)
            dk_tile = tl.dot(ds.to(q_tile.dtype), q_tile, dk_tile, input_precision=PRECISION)
    at = tl.program_id(1).to(tl.int64) * num_keys
    store_rows(dk + at * D, keys, D, inside, dk_tile * scale, D, BD)
    store_rows(dv + at * DV, keys, DV, inside, dv_tile, DV, BDV)


@triton.jit
def offset_kernel(
    q, k, v, do, by_offset, dr, seen, lo, hi, row, slopes, table, u, vb, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t,
    runs_b, row_b, row_h, row_t, seen_b,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """by_offset (B, H, T + S - 1), and dr (B, H, T + S - 1, D); grid (blocks of offsets, B * H).

    Column c stands for offset c - (T - 1) + delta. A program walks its diagonals down the rows; the
    window of BM + BN keys they touch is cut to (BM, BN), so scores stand in columns of offsets.
    """
    tl.static_assert(BM == BN)
    batch, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    b64, kv_head = batch.to(tl.int64), (head // GROUP).to(tl.int64)
    column0 = tl.program_id(0) * BN
    columns = column0 + tl.arange(0, BN)
    total = num_queries + num_keys - 1
    slope, table_h = 0.0, table + head * num_offsets
    if POSITION == ALIBI:
        slope = tl.load(slopes + head).to(tl.float32) * LOG2E
    r_tile = tl.zeros((BN, BD), q.dtype.element_ty)
    if POSITION == RELATIVE:
        band = columns - (num_queries - 1) + delta + zero
        known = (band >= 0) & (band < num_offsets)
        r_tile = load_rows(r + head.to(tl.int64) * num_offsets * D, band, D, known, D, BD, True)
        r_tile = r_tile.to(q.dtype.element_ty)
    dr_tile = tl.zeros((BN, BD), tl.float32)
    sums = tl.zeros((BN,), tl.float32)
    # Rows whose diagonals lie inside the matrix: 0 <= row + column - (T - 1) < S.
    begin = tl.maximum(num_queries - 1 - (column0 + BN - 1), 0)
    stop = tl.minimum(num_queries, num_keys + num_queries - 1 - column0)
    index = tl.arange(0, BN)[None, :] + tl.arange(0, BM)[:, None]
    first_key, last_key = seen_keys(seen, batch * seen_b, num_keys, HAS_RUNS)
    for row0 in range(begin, stop, BM):
        rows = row0 + tl.arange(0, BM)
        keys = row0 + column0 - (num_queries - 1) + tl.arange(0, BM + BN)
        lo_t, hi_t = load_runs(lo, hi, b64 * runs_b, rows, num_queries, num_keys, HAS_RUNS)
        sees = hi_t > lo_t
        q_tile = load_rows(q + b64 * q_b + head * q_h, rows, q_t, sees, D, BD, True)
        do_tile = load_rows(do + b64 * do_b + head * do_h, rows, do_t, sees, DV, BDV, True)
        keep = (keys >= first_key) & (keys < last_key)
        k_tile = load_rows(k + b64 * k_b + kv_head * k_h, keys, k_t, keep, D, BD, True)
        v_tile = load_rows(v + b64 * v_b + kv_head * v_h, keys, v_t, keep, DV, BDV, True)
        qv_tile = q_tile
        if POSITION == RELATIVE:
            qv_tile = add_head(q_tile, vb, head, D, BD)
            q_tile = add_head(q_tile, u, head, D, BD)
        x = tl.gather(tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION), index, 1)
        dp = tl.gather(tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION), index, 1)
        if POSITION == RELATIVE:
            x += tl.dot(qv_tile, tl.trans(r_tile), input_precision=PRECISION)
        x = x * (scale * LOG2E)
        if HAS_ROW:
            base = row + batch * row_b + head * row_h
            x = x + load_row_term(base, rows, row_t, num_queries, HAS_ROW)[:, None]
        offset = (columns - (num_queries - 1) + delta)[None, :] + tl.zeros_like(rows)[:, None]
        if POSITION == ALIBI:
            offset = offset.to(tl.float32)
        x = add_offset_bias(x, offset, slope, table_h, zero, num_offsets, POSITION)
        p = sigmoid(x, BM, BN, MODE, ASM)
        key = rows[:, None] + columns[None, :] - (num_queries - 1)
        visible = (key >= lo_t[:, None]) & (key < hi_t[:, None]) & sees[:, None]
        ds = tl.where(visible, p * (1.0 - p) * dp, 0.0)
        sums += tl.sum(ds, 0)
        if POSITION == RELATIVE:
            dr_tile = tl.dot(
                tl.trans(ds.to(qv_tile.dtype)), qv_tile, dr_tile, input_precision=PRECISION
            )
    at = tl.program_id(1).to(tl.int64) * total
    if POSITION == RELATIVE:
        store_rows(dr + at * D, columns, D, columns < total, dr_tile * scale, D, BD)
    else:
        tl.store(by_offset + at + columns, sums, mask=columns < total)
