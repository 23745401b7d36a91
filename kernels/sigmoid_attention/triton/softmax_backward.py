"""Softmax backward: ds = p (dp - rowsum(do * o)), p = 2^(score - lse); no atomics.

The kernels own what the sigmoid's own (backward.py): blocks of queries, of keys, of offsets.
The query kernel runs first and leaves the rows' sums of do * o for the others.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from .device import (
    RELATIVE,
    exp2,
    head_slope,
    load_rows,
    load_runs,
    only_seen,
    seen_by,
    seen_keys,
    store_rows,
)
from .forward import key_range
from .skew import add_skewed_gradient, load_band, range_anew, skewed_product
from .softmax_forward import NO_WEIGHTS, biased, product


@triton.jit
def load_of_rows(base, rows, sees, other):
    return tl.load(base + rows, mask=sees, other=other)


@triton.jit
def weight_of(x, lse, ASM: tl.constexpr):
    """2^(x - lse), at most 1: the difference of two large numbers may round to more. NaN is kept."""
    return exp2(tl.minimum(x - lse, 0.0, propagate_nan=tl.PropagateNan.ALL), ASM)


@triton.jit
def softmax_query_kernel(
    q, k, v, do, o, lse, dots, dq, lo, hi, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t, o_b, o_h, o_t, runs_b,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq (B, H, T, D), and dots (B, H, T): do . o of each row."""
    item = tl.program_id(1).to(tl.int64)
    batch, head = item // HEADS, item % HEADS
    kv_head = head // GROUP
    row0 = tl.program_id(0) * BM
    rows = row0 + tl.arange(0, BM)
    lo_t, hi_t = load_runs(lo, hi, batch * runs_b, rows, num_queries, num_keys, HAS_RUNS)
    sees, inside = hi_t > lo_t, rows < num_queries
    o_tile = load_rows(o + batch * o_b + head * o_h, row0, o_t, sees, BM, DV, BDV, True, ASM)
    do_tile = load_rows(do + batch * do_b + head * do_h, row0, do_t, sees, BM, DV, BDV, True, ASM)
    dot_t = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
    at = item * num_queries
    tl.store(dots + at + rows, dot_t, mask=inside)
    lse_t = load_of_rows(lse + at, rows, sees, NO_WEIGHTS)
    q_tile = load_rows(q + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM)
    slope, table_h = head_slope(slopes, head, POSITION), table + head * num_offsets
    k_base, v_base = k + batch * k_b + kv_head * k_h, v + batch * v_b + kv_head * v_h
    dq_tile = tl.zeros((BM, BD), tl.float32)
    start, full_from, full_to, end = key_range(lo_t, hi_t, num_keys, BN, HAS_RUNS)
    r_base = r + head * num_offsets * D
    qv_tile = q_tile
    if POSITION == RELATIVE:
        qv_tile = load_rows(qv + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM)
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = start if part == 0 else (full_from if part == 1 else full_to)
        stop = full_from if part == 0 else (full_to if part == 1 else end)
        for key0 in range(begin, stop, BN):
            keys = key0 + tl.arange(0, BN)
            keep = keys < end
            k_tile = load_rows(k_base, key0, k_t, keep, BN, D, BD, part != 1, ASM)
            v_tile = load_rows(v_base, key0, v_t, keep, BN, DV, BDV, part != 1, ASM)
            x = product(
                q_tile, qv_tile, k_tile, r_base, row0, key0, key0, delta, zero, num_offsets,
                BM, BN, D, BD, POSITION, False, PRECISION, ASM,
            )  # fmt: skip
            x = biased(
                x, rows[:, None], keys[None, :], slope, table_h,
                delta, zero, num_offsets, scale, POSITION,
            )  # fmt: skip
            p = weight_of(x, lse_t[:, None], ASM)
            if part != 1:
                p = only_seen(p, seen_by(keys[None, :], lo_t[:, None], hi_t[:, None]), ASM)
            dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
            ds = (p * (dp - dot_t[:, None])).to(k_tile.dtype)
            dq_tile = tl.dot(ds, k_tile, dq_tile, input_precision=PRECISION)
            if POSITION == RELATIVE:
                shift_t = BM - 1 - range_anew(key0, BM, ASM)
                dq_tile = add_skewed_gradient(
                    dq_tile, ds, shift_t, r_base, delta + zero + key0 - (row0 + BM - 1), D,
                    0, num_offsets, BM, BN, D, BD, PRECISION, ASM,
                )  # fmt: skip
    dq_tile = (dq_tile * scale).to(dq.dtype.element_ty)
    store_rows(dq + at * D, row0, D, inside, dq_tile, BM, D, BD)


@triton.jit
def softmax_key_kernel(
    q, k, v, do, lse, dots, dk, dv, columns, ranges, lo, hi, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t, runs_b, ranges_b,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk (B, H, S, D), dv (B, H, S, Dv), columns (B, H, S): the sum of ds over queries.

    Grid (blocks of keys, B * H); ranges: see backward.rows_kernel. Tiles are transposed, (BN, BM):
    p and ds are then left operands as they come.
    """
    item = tl.program_id(1).to(tl.int64)
    batch, head = item // HEADS, item % HEADS
    kv_head = head // GROUP
    key0 = tl.program_id(0) * BN
    keys = key0 + tl.arange(0, BN)
    first, whole_from, whole_to, last = 0, 0, num_queries // BM * BM, num_queries
    first_key, last_key = 0, num_keys
    if HAS_RUNS:
        at = ranges + (batch * ranges_b + tl.program_id(0)) * 6
        first, whole_from, whole_to = tl.load(at), tl.load(at + 1), tl.load(at + 2)
        last, first_key, last_key = tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)
    keep = seen_by(keys, first_key, last_key)
    k_tile = load_rows(k + batch * k_b + kv_head * k_h, key0, k_t, keep, BN, D, BD, True, ASM)
    v_tile = load_rows(v + batch * v_b + kv_head * v_h, key0, v_t, keep, BN, DV, BDV, True, ASM)
    q_base, do_base = q + batch * q_b + head * q_h, do + batch * do_b + head * do_h
    qv_base = qv + batch * q_b + head * q_h
    slope, table_h = head_slope(slopes, head, POSITION), table + head * num_offsets
    r_base = r + head * num_offsets * D
    dk_tile = tl.zeros((BN, BD), tl.float32)
    dv_tile = tl.zeros((BN, BDV), tl.float32)
    sums = tl.zeros((BN,), tl.float32)
    of_rows = item * num_queries
    # Three loops, as in the forward: queries of cut tiles, of whole tiles, of cut tiles.
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = first if part == 0 else (whole_from if part == 1 else whole_to)
        stop = whole_from if part == 0 else (whole_to if part == 1 else last)
        for row0 in range(begin, stop, BM):
            rows = row0 + tl.arange(0, BM)
            lo_t, hi_t = rows, rows + 1
            if part != 1:
                lo_t, hi_t = load_runs(
                    lo, hi, batch * runs_b, rows, num_queries, num_keys, HAS_RUNS
                )
            sees = hi_t > lo_t
            q_tile = load_rows(q_base, row0, q_t, sees, BM, D, BD, part != 1, ASM)
            do_tile = load_rows(do_base, row0, do_t, sees, BM, DV, BDV, part != 1, ASM)
            qv_tile = q_tile
            if POSITION == RELATIVE:
                qv_tile = load_rows(qv_base, row0, q_t, sees, BM, D, BD, part != 1, ASM)
            lse_t = load_of_rows(lse + of_rows, rows, sees, NO_WEIGHTS)
            dot_t = load_of_rows(dots + of_rows, rows, sees, 0.0)
            x = product(
                q_tile, qv_tile, k_tile, r_base, row0, key0, row0, delta, zero, num_offsets,
                BM, BN, D, BD, POSITION, True, PRECISION, ASM,
            )  # fmt: skip
            x = biased(
                x, rows[None, :], keys[:, None], slope, table_h,
                delta, zero, num_offsets, scale, POSITION,
            )  # fmt: skip
            p = weight_of(x, lse_t[None, :], ASM)
            # Without runs a row sees all keys or lies beyond the last, where lse makes p 0.
            if HAS_RUNS and part != 1:
                p = only_seen(p, seen_by(keys[:, None], lo_t[None, :], hi_t[None, :]), ASM)
            dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
            ds = p * (dp - dot_t[None, :])
            if POSITION == RELATIVE:
                sums += tl.sum(ds, 1)
            dv_tile = tl.dot(p.to(do_tile.dtype), do_tile, dv_tile, input_precision=PRECISION)
            dk_tile = tl.dot(ds.to(q_tile.dtype), q_tile, dk_tile, input_precision=PRECISION)
    # Of a key that no row sees the weights may be anything, even infinite, but its sums alone.
    dk_tile = tl.where(keep[:, None], dk_tile * scale, 0.0).to(dk.dtype.element_ty)
    dv_tile = tl.where(keep[:, None], dv_tile, 0.0).to(dv.dtype.element_ty)
    inside = keys < num_keys
    at = item * num_keys
    store_rows(dk + at * D, key0, D, inside, dk_tile, BN, D, BD)
    store_rows(dv + at * DV, key0, DV, inside, dv_tile, BN, DV, BDV)
    if POSITION == RELATIVE:
        tl.store(columns + at + keys, tl.where(keep, sums, 0.0), mask=inside)


@triton.jit
def softmax_offset_kernel(
    q, k, v, do, lse, dots, sums_out, dr, seen, lo, hi, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t, runs_b, seen_b,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sums_out (B, H, T + S - 1), dr (B, H, T + S - 1, D), by diagonals as backward.offset_kernel."""
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
    of_rows = item * num_queries
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
        lse_t = load_of_rows(lse + of_rows, rows, sees, NO_WEIGHTS)
        dot_t = load_of_rows(dots + of_rows, rows, sees, 0.0)
        x = biased(
            x, tl.zeros_like(rows)[None, :], offset0[:, None], slope, table_h,
            delta, zero, num_offsets, scale, POSITION,
        )  # fmt: skip
        visible = seen_by(rows[None, :] + offset0[:, None], lo_t[None, :], hi_t[None, :])
        p = only_seen(weight_of(x, lse_t[None, :], ASM), visible, ASM)
        dp = skewed_product(
            do_tile, shift_t, v_base, first_key, v_t, first_seen, last_seen,
            BM, BN, DV, BDV, True, PRECISION, ASM,
        )  # fmt: skip
        ds = p * (dp - dot_t[None, :])
        sums += tl.sum(ds, 1)
        if POSITION == RELATIVE:
            dr_tile = tl.dot(ds.to(qv_tile.dtype), qv_tile, dr_tile, input_precision=PRECISION)
    at = item * total
    tl.store(sums_out + at + columns, sums, mask=columns < total)
    if POSITION == RELATIVE:
        store_rows(dr + at * D, column0, D, columns < total, dr_tile * scale, BN, D, BD)
