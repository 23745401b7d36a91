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
    seen_by,
    seen_keys,
    store_rows,
    weigh,
)
from .forward import key_range, tile_weights
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
    """dq (B, H, T, D) before the scale; drow (B, H, T)."""
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
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = start if part == 0 else (full_from if part == 1 else full_to)
        stop = full_from if part == 0 else (full_to if part == 1 else end)
        for key0 in range(begin, stop, BN):
            keep = key0 + tl.arange(0, BN) < end
            k_tile = load_rows(k_base, key0, k_t, keep, BN, D, BD, part != 1, ASM)
            v_tile = load_rows(v_base, key0, v_t, keep, BN, DV, BDV, part != 1, ASM)
            p = tile_weights(
                q_tile, qv_tile, k_tile, r_base, row0, key0, key0, lo_t, hi_t, term_t,
                slope, table_h, delta, zero, num_offsets, scale,
                BM, BN, D, BD, POSITION, HAS_ROW, part != 1, False, MODE, PRECISION, ASM,
            )  # fmt: skip
            dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
            ds = p * (1.0 - p) * dp
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
    store_rows(dq + at * D, row0, D, inside, dq_tile, BM, D, BD)
    if NEED_ROW:
        tl.store(drow + at + rows, sums, mask=inside)


@triton.jit
def key_kernel(
    q, k, v, do, dk, dv, columns, first_row, last_row, seen, lo, hi, row, slopes, table, qv, r,
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
    Grid (blocks of keys, B * H). first_row, last_row (B', blocks): the queries that see any key
    of the block.
    """
    item = tl.program_id(1).to(tl.int64)
    batch, head = item // HEADS, item % HEADS
    kv_head = head // GROUP
    key0 = tl.program_id(0) * BN
    keys = key0 + tl.arange(0, BN)
    first, last = 0, num_queries
    if HAS_RUNS:
        first = tl.load(first_row + batch * tiles_b + tl.program_id(0))
        last = tl.load(last_row + batch * tiles_b + tl.program_id(0))
    first_key, last_key = seen_keys(seen, batch * seen_b, num_keys, HAS_RUNS)
    keep = seen_by(keys, first_key, last_key)
    k_tile = load_rows(k + batch * k_b + kv_head * k_h, key0, k_t, keep, BN, D, BD, True, ASM)
    v_tile = load_rows(v + batch * v_b + kv_head * v_h, key0, v_t, keep, BN, DV, BDV, True, ASM)
    q_base, do_base = q + batch * q_b + head * q_h, do + batch * do_b + head * do_h
    slope, table_h = head_slope(slopes, head, POSITION), table + head * num_offsets
    r_base = r + head * num_offsets * D
    dk_tile = tl.zeros((BN, BD), tl.float32)
    dv_tile = tl.zeros((BN, BDV), tl.float32)
    sums = tl.zeros((BN,), tl.float32)
    for row0 in range(first, last, BM):
        rows = row0 + tl.arange(0, BM)
        lo_t, hi_t = load_runs(lo, hi, batch * runs_b, rows, num_queries, num_keys, HAS_RUNS)
        sees = hi_t > lo_t
        q_tile = load_rows(q_base, row0, q_t, sees, BM, D, BD, True, ASM)
        do_tile = load_rows(do_base, row0, do_t, sees, BM, DV, BDV, True, ASM)
        qv_tile = q_tile
        if POSITION == RELATIVE:
            qv_tile = load_rows(
                qv + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM
            )
        base = row + batch * row_b + head * row_h
        term_t = load_row_term(base, rows, row_t, num_queries, HAS_ROW)
        # Transposed, (BN, BM): p and ds are then left operands as they come.
        p = tile_weights(
            q_tile, qv_tile, k_tile, r_base, row0, key0, row0, lo_t, hi_t, term_t,
            slope, table_h, delta, zero, num_offsets, scale,
            BM, BN, D, BD, POSITION, HAS_ROW, True, True, MODE, PRECISION, ASM,
        )  # fmt: skip
        dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
        ds = p * (1.0 - p) * dp
        if POSITION == RELATIVE:
            sums += tl.sum(ds, 1)
        dv_tile = tl.dot(p.to(do_tile.dtype), do_tile, dv_tile, input_precision=PRECISION)
        dk_tile = tl.dot(ds.to(q_tile.dtype), q_tile, dk_tile, input_precision=PRECISION)
    inside = keys < num_keys
    at = item * num_keys
    store_rows(dk + at * D, key0, D, inside, dk_tile * scale, BN, D, BD)
    store_rows(dv + at * DV, key0, DV, inside, dv_tile, BN, DV, BDV)
    if POSITION == RELATIVE:
        tl.store(columns + at + keys, sums, mask=inside)


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
        ds = p * (1.0 - p) * dp
        sums += tl.sum(ds, 1)
        if POSITION == RELATIVE:
            dr_tile = tl.dot(ds.to(qv_tile.dtype), qv_tile, dr_tile, input_precision=PRECISION)
    at = item * total
    tl.store(sums_out + at + columns, sums, mask=columns < total)
    if POSITION == RELATIVE:
        store_rows(dr + at * D, column0, D, columns < total, dr_tile * scale, BN, D, BD)
