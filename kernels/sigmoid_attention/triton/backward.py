"""The backward kernels: each recomputes the weights from the inputs; no atomics, so deterministic.

ds = slope(p) dp with dp = do . v, p (1 - p) for a sigmoid: no pass over the output, for there is no
normaliser. A factor of each row (1 / n) enters ds, and the weights that go into dv.
rows_kernel finds which queries meet a block of keys, before key_kernel.
STEPPED: addresses of whole tiles are held and stepped, where registers allow it.
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
)
from .forward import key_range, tile_weights
from .skew import add_skewed_gradient, load_band, range_anew, skewed_product
from .weightings import as_factor, as_sum, load_row_factor, slopes_of, weigh


@triton.jit
def query_kernel(
    q, k, v, do, dq, drow, lo, hi, row, factor, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t,
    runs_b, row_b, row_h, row_t,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr, NEED_ROW: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr, STEPPED: tl.constexpr,
):  # fmt: skip
    """dq (B, H, T, D), scaled; drow (B, H, T)."""
    item = tl.program_id(1).to(tl.int64)
    batch, head = item // HEADS, item % HEADS
    kv_head = head // GROUP
    row0 = tl.program_id(0) * BM
    rows = row0 + tl.arange(0, BM)
    lo_t, hi_t = load_runs(lo, hi, batch * runs_b, rows, num_queries, num_keys, HAS_RUNS)
    sees = hi_t > lo_t
    q_tile = load_rows(q + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM)
    do_tile = load_rows(do + batch * do_b + head * do_h, row0, do_t, sees, BM, DV, BDV, True, ASM)
    row_at = batch * row_b + head * row_h
    term_t = load_row_term(row + row_at, rows, row_t, num_queries, HAS_ROW)
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
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = start if part == 0 else (full_from if part == 1 else full_to)
        stop = full_from if part == 0 else (full_to if part == 1 else end)
        k_first = k_base + tl.cast(begin, tl.int64) * k_t
        v_first = v_base + tl.cast(begin, tl.int64) * v_t
        for key0 in range(begin, stop, BN):
            keep = key0 + tl.arange(0, BN) < end
            if part == 1 and STEPPED:
                k_tile = load_whole(k_first, k_offsets, D, BD)
                v_tile = load_whole(v_first, v_offsets, DV, BDV)
                k_first += k_step
                v_first += v_step
            else:
                k_tile = load_rows(k_base, key0, k_t, keep, BN, D, BD, part != 1, ASM)
                v_tile = load_rows(v_base, key0, v_t, keep, BN, DV, BDV, part != 1, ASM)
            p = tile_weights(
                q_tile, qv_tile, k_tile, r_base, row0, key0, key0, lo_t, hi_t, term_t,
                slope, table_h, delta, zero, num_offsets, scale,
                BM, BN, D, BD, POSITION, HAS_ROW, part != 1, False, MODE, PRECISION, ASM,
            )  # fmt: skip
            dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
            ds = slopes_of(p, MODE) * dp
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
    if HAS_FACTOR:
        factor_t = load_row_factor(factor + row_at, rows, row_t, num_queries, HAS_FACTOR)
        dq_tile, sums = dq_tile * factor_t[:, None], sums * factor_t
    inside = rows < num_queries
    at = item * num_queries
    store_rows(dq + at * D, row0, D, inside, (dq_tile * scale).to(dq.dtype.element_ty), BM, D, BD)
    if NEED_ROW:
        tl.store(drow + at + rows, sums, mask=inside)


@triton.jit
def rows_kernel(
    lo, hi, ranges, num_queries, num_keys, num_blocks,
    BM: tl.constexpr, BN: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Find the tiles of BM queries that meet each block of BN keys; grid (blocks, B').

    ranges (B', blocks, 6) int32: queries from the first that sees a key of the block to the last
    (exclusive), between them those of whole tiles, every row of which sees all of the block's keys
    that any row of the utterance sees; then the first and last of those keys. Whole tiles that do
    not adjoin the first ones count as cut.
    """
    block, batch = tl.program_id(0), tl.program_id(1)
    base = batch.to(tl.int64) * num_queries
    first_key, last_key = num_keys, 0
    for row0 in range(0, num_queries, TILES * BM):
        rows = row0 + tl.arange(0, TILES * BM)
        lo_t, hi_t = load_runs(lo, hi, base, rows, num_queries, num_keys, True)
        first_key = tl.minimum(first_key, tl.min(tl.where(hi_t > lo_t, lo_t, num_keys), 0))
        last_key = tl.maximum(last_key, tl.max(hi_t, 0))
    key0, beyond = block * BN, num_queries + BM
    low, high = tl.maximum(key0, first_key), tl.minimum(key0 + BN, last_key)
    first, last, whole_from, whole_to = beyond, 0, beyond, beyond
    for row0 in range(0, num_queries, TILES * BM):
        rows = row0 + tl.arange(0, TILES * BM)
        lo_t, hi_t = load_runs(lo, hi, base, rows, num_queries, num_keys, True)
        meets = ((lo_t < high) & (hi_t > low) & (hi_t > lo_t) & (low < high)).to(tl.int32)
        covers = ((lo_t <= low) & (hi_t >= high) & (hi_t > lo_t) & (low < high)).to(tl.int32)
        met = tl.max(tl.reshape(meets, (TILES, BM)), 1) > 0
        whole = tl.min(tl.reshape(covers, (TILES, BM)), 1) > 0
        tile = row0 + tl.arange(0, TILES) * BM
        first = tl.minimum(first, tl.min(tl.where(met, tile, beyond), 0))
        last = tl.maximum(last, tl.max(tl.where(met, tile + BM, 0), 0))
        whole_from = tl.minimum(whole_from, tl.min(tl.where(whole, tile, beyond), 0))
        ended = (tile > whole_from) & ~whole
        whole_to = tl.minimum(whole_to, tl.min(tl.where(ended, tile, beyond), 0))
    # Where no tile is whole, all are cut and come before.
    whole_from, whole_to = tl.minimum(whole_from, last), tl.minimum(whole_to, last)
    out = ranges + (batch * num_blocks + block) * 6
    tl.store(out, tl.minimum(first, last))
    tl.store(out + 1, whole_from)
    tl.store(out + 2, whole_to)
    tl.store(out + 3, last)
    tl.store(out + 4, tl.minimum(first_key, last_key))
    tl.store(out + 5, last_key)


@triton.jit
def key_kernel(
    q, k, v, do, dk, dv, columns, ranges, lo, hi, row, factor, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t,
    runs_b, row_b, row_h, row_t, ranges_b,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr,
    HAS_FACTOR: tl.constexpr, BOUNDED: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr, STEPPED: tl.constexpr,
):  # fmt: skip
    """dk (B, H, S, D), dv (B, H, S, Dv), columns (B, H, S): the sum of ds over queries.

    Each query head has sums of its own; those that share a key head are added by the caller (a loop
    over them around the loop over queries took more registers than there are).
    Grid (blocks of keys, B * H). ranges (B', blocks, 6): see rows_kernel.
    Rows that exist but see nothing, and rows beyond the end, have do = 0 and so add nothing: only
    tiles of which some rows see a part of the block are masked.
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
    row_at = batch * row_b + head * row_h
    slope, table_h = head_slope(slopes, head, POSITION), table + head * num_offsets
    r_base = r + head * num_offsets * D
    dk_tile = tl.zeros((BN, BD), tl.float32)
    dv_tile = tl.zeros((BN, BDV), tl.float32)
    sums = tl.zeros((BN,), tl.float32)
    q_step, do_step = tl.cast(q_t, tl.int64) * BM, tl.cast(do_t, tl.int64) * BM
    q_offsets, do_offsets = row_offsets(q_t, BM, BD), row_offsets(do_t, BM, BDV)
    # Three loops, as in the forward: queries of cut tiles, of whole tiles, of cut tiles.
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = first if part == 0 else (whole_from if part == 1 else whole_to)
        stop = whole_from if part == 0 else (whole_to if part == 1 else last)
        q_first = q_base + tl.cast(begin, tl.int64) * q_t
        qv_first = qv_base + tl.cast(begin, tl.int64) * q_t
        do_first = do_base + tl.cast(begin, tl.int64) * do_t
        for row0 in range(begin, stop, BM):
            rows = row0 + tl.arange(0, BM)
            lo_t, hi_t = rows, rows  # of whole tiles not read
            if part != 1:
                lo_t, hi_t = load_runs(
                    lo, hi, batch * runs_b, rows, num_queries, num_keys, HAS_RUNS
                )
            sees = hi_t > lo_t
            if part == 1 and STEPPED:
                q_tile = load_whole(q_first, q_offsets, D, BD)
                do_tile = load_whole(do_first, do_offsets, DV, BDV)
                qv_tile = q_tile
                if POSITION == RELATIVE:
                    qv_tile = load_whole(qv_first, q_offsets, D, BD)
                    qv_first += q_step
                q_first += q_step
                do_first += do_step
            else:
                q_tile = load_rows(q_base, row0, q_t, sees, BM, D, BD, part != 1, ASM)
                do_tile = load_rows(do_base, row0, do_t, sees, BM, DV, BDV, part != 1, ASM)
                qv_tile = q_tile
                if POSITION == RELATIVE:
                    qv_tile = load_rows(qv_base, row0, q_t, sees, BM, D, BD, part != 1, ASM)
            term_t = load_row_term(row + row_at, rows, row_t, num_queries, HAS_ROW)
            # Transposed, (BN, BM): p and ds are then left operands as they come.
            p = tile_weights(
                q_tile, qv_tile, k_tile, r_base, row0, key0, row0, lo_t, hi_t, term_t,
                slope, table_h, delta, zero, num_offsets, scale, BM, BN, D, BD, POSITION,
                HAS_ROW, HAS_RUNS and part != 1, True, MODE, PRECISION, ASM,
            )  # fmt: skip
            dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION)
            ds = slopes_of(p, MODE) * dp
            if HAS_FACTOR:
                factor_t = load_row_factor(factor + row_at, rows, row_t, num_queries, HAS_FACTOR)
                ds, p = ds * factor_t[None, :], p * factor_t[None, :]
            if POSITION == RELATIVE:
                sums += tl.sum(ds, 1)
            p = as_factor(p, do_tile.dtype, BOUNDED)
            dv_tile = tl.dot(p, do_tile, dv_tile, input_precision=PRECISION)
            dk_tile = tl.dot(ds.to(q_tile.dtype), q_tile, dk_tile, input_precision=PRECISION)
    dv_tile = as_sum(dv_tile, do.dtype.element_ty, BOUNDED)
    dk_tile = dk_tile * scale
    if HAS_RUNS:  # whole tiles weighed keys, too, that nobody sees
        dk_tile = tl.where(keep[:, None], dk_tile, 0.0)
        dv_tile = tl.where(keep[:, None], dv_tile, 0.0)
        sums = tl.where(keep, sums, 0.0)
    inside = keys < num_keys
    at = item * num_keys
    store_rows(dk + at * D, key0, D, inside, dk_tile.to(dk.dtype.element_ty), BN, D, BD)
    store_rows(dv + at * DV, key0, DV, inside, dv_tile.to(dv.dtype.element_ty), BN, DV, BDV)
    if POSITION == RELATIVE:
        tl.store(columns + at + keys, sums, mask=inside)


@triton.jit
def offset_kernel(
    q, k, v, do, sums_out, dr, seen, lo, hi, row, factor, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, do_b, do_h, do_t,
    runs_b, row_b, row_h, row_t, seen_b,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, HAS_ROW: tl.constexpr,
    HAS_FACTOR: tl.constexpr, MODE: tl.constexpr, ASM: tl.constexpr, PRECISION: tl.constexpr,
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
        row_at = batch * row_b + head * row_h
        term_t = load_row_term(row + row_at, rows, row_t, num_queries, HAS_ROW)
        p = weigh(
            x, tl.zeros_like(rows)[None, :], offset0[:, None], term_t[None, :], slope, table_h,
            delta, zero, num_offsets, scale, BN, BM, POSITION, HAS_ROW, MODE, ASM,
        )  # fmt: skip
        visible = seen_by(rows[None, :] + offset0[:, None], lo_t[None, :], hi_t[None, :])
        p = tl.where(visible & sees[None, :], p, 0.0)
        slope_tile = slopes_of(p, MODE)  # before the product, which then needs no p
        if HAS_FACTOR:
            factor_t = load_row_factor(factor + row_at, rows, row_t, num_queries, HAS_FACTOR)
            slope_tile = slope_tile * factor_t[None, :]
        dp = skewed_product(
            do_tile, shift_t, v_base, first_key, v_t, first_seen, last_seen,
            BM, BN, DV, BDV, True, PRECISION, ASM,
        )  # fmt: skip
        ds = slope_tile * dp
        sums += tl.sum(ds, 1)
        if POSITION == RELATIVE:
            dr_tile = tl.dot(ds.to(qv_tile.dtype), qv_tile, dr_tile, input_precision=PRECISION)
    at = item * total
    tl.store(sums_out + at + columns, sums, mask=columns < total)
    if POSITION == RELATIVE:
        store_rows(dr + at * D, column0, D, columns < total, dr_tile * scale, BN, D, BD)
