"""Softmax forward: as the sigmoid's, with a running maximum and sum a row (FlashAttention 2).

Beside the output each row leaves lse = log2 of the sum of 2^score, from which the backward has its
weights, p = 2^(score - lse), without another pass.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from .device import (
    ALIBI,
    LOG2E,
    NONE,
    RELATIVE,
    TABLE,
    exp2,
    head_slope,
    load_rows,
    load_runs,
    seen_by,
    store_rows,
)
from .forward import key_range
from .skew import range_anew, skewed_product

# The maximum before the first score: finite, so that no difference of two of them is NaN.
LOWEST = tl.constexpr(-1.0e30)
# lse of rows without weights: 2^(score - this) is 0.
NO_WEIGHTS = tl.constexpr(1.0e30)


@triton.jit
def product(
    q_tile, qv_tile, k_tile, r_base, row0, key0, turn, delta, zero, num_offsets,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    POSITION: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """q . k, and Transformer-XL's term, of queries from row0 and keys from key0 on: (BM, BN);
    TRANSPOSED: as (BN, BM). turn: the variable of the loop around, row0 or key0."""
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
def biased(
    x, rows, keys, slope, table, delta, zero, num_offsets, scale, POSITION: tl.constexpr
):  # fmt: skip
    """Scores in units of log 2 from products; rows and keys broadcast to the tile."""
    x = x * (scale * LOG2E)
    if POSITION == ALIBI:
        x = x - slope * tl.abs((keys + delta).to(tl.float32) - rows.to(tl.float32))
    if POSITION == TABLE:
        column = tl.minimum(tl.maximum(keys + delta - rows + zero, 0), num_offsets - 1)
        x = x + tl.load(table + column).to(tl.float32) * LOG2E
    return x


@triton.jit
def softmax_forward_kernel(
    q, k, v, o, lse, lo, hi, slopes, table, qv, r,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, o_b, o_h, o_t, runs_b,
    num_queries, num_keys, delta, zero, num_offsets, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
    POSITION: tl.constexpr, HAS_RUNS: tl.constexpr, POSITIVE: tl.constexpr,
    ASM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o (B, H, T, Dv), lse (B, H, T); grid (blocks of queries, B * H).

    POSITIVE: the scale is, so the largest product is the largest score, and where no bias is added
    scaling and subtracting the maximum are one instruction.
    """
    item = tl.program_id(1).to(tl.int64)
    batch, head = item // HEADS, item % HEADS
    kv_head = head // GROUP
    row0 = tl.program_id(0) * BM
    rows = row0 + tl.arange(0, BM)
    lo_t, hi_t = load_runs(lo, hi, batch * runs_b, rows, num_queries, num_keys, HAS_RUNS)
    sees = hi_t > lo_t
    q_tile = load_rows(q + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM)
    slope, table_h = head_slope(slopes, head, POSITION), table + head * num_offsets
    k_base, v_base = k + batch * k_b + kv_head * k_h, v + batch * v_b + kv_head * v_h
    acc = tl.zeros((BM, BDV), tl.float32)
    most, total = tl.full((BM,), LOWEST, tl.float32), tl.zeros((BM,), tl.float32)
    start, full_from, full_to, end = key_range(lo_t, hi_t, num_keys, BN, HAS_RUNS)
    r_base = r + head * num_offsets * D
    qv_tile = q_tile
    if POSITION == RELATIVE:
        qv_tile = load_rows(qv + batch * q_b + head * q_h, row0, q_t, sees, BM, D, BD, True, ASM)
    LATE_SCALE: tl.constexpr = POSITIVE and (POSITION == NONE or POSITION == RELATIVE)  # noqa: SIM109
    # Three loops: tiles that runs of keys cut, whole tiles, tiles cut again.
    for part in tl.static_range(0 if HAS_RUNS else 1, 3):
        begin = start if part == 0 else (full_from if part == 1 else full_to)
        stop = full_from if part == 0 else (full_to if part == 1 else end)
        for key0 in range(begin, stop, BN):
            keys = key0 + tl.arange(0, BN)
            keep = keys < end
            k_tile = load_rows(k_base, key0, k_t, keep, BN, D, BD, part != 1, ASM)
            x = product(
                q_tile, qv_tile, k_tile, r_base, row0, key0, key0, delta, zero, num_offsets,
                BM, BN, D, BD, POSITION, False, PRECISION, ASM,
            )  # fmt: skip
            if not LATE_SCALE:
                x = biased(
                    x, rows[:, None], keys[None, :], slope, table_h,
                    delta, zero, num_offsets, scale, POSITION,
                )  # fmt: skip
            if part != 1:
                seen = seen_by(keys[None, :], lo_t[:, None], hi_t[:, None])
                x = tl.where(seen, x, float("-inf"))
            if LATE_SCALE:
                largest = tl.maximum(most, tl.max(x, 1) * (scale * LOG2E))
                p = exp2(x * (scale * LOG2E) - largest[:, None], ASM)
            else:
                largest = tl.maximum(most, tl.max(x, 1))
                p = exp2(x - largest[:, None], ASM)
            shrink = exp2(most - largest, ASM)
            most = largest
            total = total * shrink + tl.sum(p, 1)
            acc = acc * shrink[:, None]
            v_tile = load_rows(v_base, key0, v_t, keep, BN, DV, BDV, part != 1, ASM)
            acc = tl.dot(p.to(v_tile.dtype), v_tile, acc, input_precision=PRECISION)
    # Without a visible key, or with none but scores of -inf, all weights are 0.
    none = total == 0.0
    acc = acc / tl.where(none, 1.0, total)[:, None]
    inside = rows < num_queries
    log_sum = tl.where(none, NO_WEIGHTS, most + tl.log2(tl.where(none, 1.0, total)))
    tl.store(lse + item * num_queries + rows, log_sum, mask=inside)
    o_base = o + batch * o_b + head * o_h
    store_rows(o_base, row0, o_t, inside, acc.to(o.dtype.element_ty), BM, DV, BDV)
