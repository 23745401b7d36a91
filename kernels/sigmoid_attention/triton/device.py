"""Device functions shared by the kernels: exponentials, the sigmoid, one tile of scores.

Scores are carried in units of log 2 (x = s * log2 e), so that 2^x serves for e^s.
What Triton's interpreter cannot run (inline assembly) sits in three functions switched by ASM, each
beside a twin in plain `tl`.
"""

# Kernel code: the names below are read by Triton's compiler, not by a type checker.
# mypy: ignore-errors

import triton
import triton.language as tl

# How a weight is computed, in special-function operations (MUFU) per score.
SEPARATE = tl.constexpr(0)  # 2: an exponential and a reciprocal each
SHARED = tl.constexpr(1)  # 1.5: two scores share a reciprocal
MIXED = tl.constexpr(2)  # 1: as SHARED, and every second exponential is a polynomial
TANH = tl.constexpr(3)  # 1: tanh.approx; absolute error 1e-5, wrong in the left tail

NONE = tl.constexpr(0)
ALIBI = tl.constexpr(1)
TABLE = tl.constexpr(2)
RELATIVE = tl.constexpr(3)

LOG2E = tl.constexpr(1.4426950408889634)
# Exponents of a pair end here, lest the product of two denominators overflow and one score's
# extreme poison the other. 2^-62 is far below any weight that matters.
HIGHEST = tl.constexpr(62.0)


@triton.jit
def reciprocal(x, ASM: tl.constexpr):
    """1 / x for normal x, relative error 2^-23."""
    if ASM:
        y = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        y = 1.0 / x
    return y


@triton.jit
def exp2(x, ASM: tl.constexpr):
    """2^x, relative error 2^-22; results below 2^-126 are 0."""
    if ASM:
        y = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        y = tl.exp2(x)
    return y


@triton.jit
def tanh(x, ASM: tl.constexpr):
    """tanh with an absolute error around 1e-5 where ASM is on."""
    if ASM:
        y = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        y = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))
    return y


@triton.jit
def exp2_polynomial(x):
    """2^x for |x| <= HIGHEST on the multiply-add units, relative error 2e-7 (degree 6, Taylor).

    Adding 1.5 * 2^23 leaves round(x) in the low bits; shifted up, they are added to the exponent.
    """
    x = tl.maximum(x, -HIGHEST)
    rounded = x + 12582912.0
    f = x - (rounded - 12582912.0)
    y = f * 1.540353039338161e-4 + 1.333355814642844e-3
    y = y * f + 9.618129107628477e-3
    y = y * f + 5.550410866482158e-2
    y = y * f + 2.402265069591007e-1
    y = y * f + 6.931471805599453e-1
    y = y * f + 1.0
    exponent = rounded.to(tl.int32, bitcast=True) << 23
    return (y.to(tl.int32, bitcast=True) + exponent).to(tl.float32, bitcast=True)


@triton.jit
def sigmoid(x, M: tl.constexpr, N: tl.constexpr, MODE: tl.constexpr, ASM: tl.constexpr):
    """1 / (1 + 2^-x) of a tile (M, N); relative error is kept in the left tail but for TANH.

    Neighbours along N share a reciprocal: matrix instructions leave them in one thread, so pairing
    moves nothing.
    """
    if MODE == TANH:
        p = 0.5 + 0.5 * tanh(x * 0.34657359027997264, ASM)  # ln(2) / 2
    elif MODE == SEPARATE:
        p = reciprocal(1.0 + exp2(tl.minimum(-x, 126.0), ASM), ASM)
    else:
        left, right = tl.split(tl.reshape(tl.minimum(-x, HIGHEST), (M, N // 2, 2)))
        a = 1.0 + exp2(left, ASM)
        if MODE == MIXED:
            b = 1.0 + exp2_polynomial(right)
        else:
            b = 1.0 + exp2(right, ASM)
        shared = reciprocal(a * b, ASM)
        p = tl.reshape(tl.join(b * shared, a * shared), (M, N))
    return p


@triton.jit
def load_rows(base, rows, stride, keep, D: tl.constexpr, BD: tl.constexpr, MASKED: tl.constexpr):
    """(rows, BD) of a matrix whose channels are adjacent; 0 where keep is False or beyond D."""
    channel = tl.arange(0, BD)
    pointers = base + rows.to(tl.int64)[:, None] * stride + channel[None, :]
    if MASKED:
        tile = tl.load(pointers, mask=keep[:, None] & (channel[None, :] < D), other=0.0)
    elif D < BD:
        tile = tl.load(pointers, mask=channel[None, :] < D, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def store_rows(base, rows, stride, keep, tile, D: tl.constexpr, BD: tl.constexpr):
    channel = tl.arange(0, BD)
    pointers = base + rows.to(tl.int64)[:, None] * stride + channel[None, :]
    tl.store(pointers, tile, mask=keep[:, None] & (channel[None, :] < D))


@triton.jit
def add_head(tile, base, head, D: tl.constexpr, BD: tl.constexpr):
    """tile + base[head] along channels, rounded once to the tile's type."""
    channel = tl.arange(0, BD)
    vector = tl.load(base + head * D + channel, mask=channel < D, other=0.0).to(tl.float32)
    return (tile.to(tl.float32) + vector[None, :]).to(tile.dtype)


@triton.jit
def load_runs(lo, hi, base, rows, num_queries, num_keys, HAS_RUNS: tl.constexpr):
    """Each row's run of visible keys; rows beyond the end see none."""
    inside = rows < num_queries
    if HAS_RUNS:
        first = tl.load(lo + base + rows, mask=inside, other=0)
        last = tl.load(hi + base + rows, mask=inside, other=0)
    else:
        first = tl.zeros_like(rows)
        last = tl.where(inside, num_keys, 0)
    return first, last


@triton.jit
def seen_keys(seen, batch, num_keys, HAS_RUNS: tl.constexpr):
    """First and last (exclusive) key of an utterance that any row sees; beyond may lie NaN."""
    first, last = 0, num_keys
    if HAS_RUNS:
        first = tl.load(seen + 2 * batch)
        last = tl.load(seen + 2 * batch + 1)
    return first, last


@triton.jit
def load_row_term(row, rows, stride, num_queries, HAS_ROW: tl.constexpr):
    if HAS_ROW:
        term = tl.load(row + rows * stride, mask=rows < num_queries, other=0.0) * LOG2E
    else:
        term = tl.zeros_like(rows).to(tl.float32)
    return term


@triton.jit
def add_offset_bias(x, offset, slope, table, zero, num_offsets, POSITION: tl.constexpr):
    """x plus ALiBi or the table at each score's offset (float for ALiBi: one add, no conversion)."""
    if POSITION == ALIBI:
        x = x - slope * tl.abs(offset)
    if POSITION == TABLE:
        column = tl.minimum(tl.maximum(offset + zero, 0), num_offsets - 1)
        x = x + tl.load(table + column).to(tl.float32) * LOG2E
    return x


@triton.jit
def tile_offsets(rows, keys, delta, POSITION: tl.constexpr):
    """Key minus query for each score of a tile (rows, keys)."""
    if POSITION == ALIBI:
        offset = (keys + delta).to(tl.float32)[None, :] - rows.to(tl.float32)[:, None]
    else:
        offset = keys[None, :] + delta - rows[:, None]
    return offset
