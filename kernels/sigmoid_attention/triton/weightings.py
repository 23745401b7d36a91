"""Weights from scores in the kernels, and what flows back: a mode for each map.

Sigmoid's several modes are those of device.py, and softmax has kernels of its own.
"""

# Kernel code, as in device.py.
# mypy: ignore-errors

import triton
import triton.language as tl

from .device import ALIBI, LOG2E, TABLE, less_distance, shifted, sigmoid

LN2 = tl.constexpr(0.6931471805599453)

RELU = tl.constexpr(16)
# By the name of a map.
MODES = {"relu": RELU.value}

# float16 is subnormal below 2^-14, which is where weights of at most 1 lie from 16k keys on.
FLOAT16_SCALE = tl.constexpr(16384.0)


@triton.jit
def weights(x, M: tl.constexpr, N: tl.constexpr, MODE: tl.constexpr, ASM: tl.constexpr):
    """Weights of a tile (M, N) of scores in units of log 2. NaN stays."""
    if MODE == RELU:
        p = tl.maximum(x * LN2, 0.0, propagate_nan=tl.PropagateNan.ALL)
    else:
        p = sigmoid(x, M, N, MODE, ASM)
    return p


@triton.jit
def slopes_of(p, MODE: tl.constexpr):
    """The derivative of weights by their scores; 0 where p is 0."""
    if MODE == RELU:
        slope = tl.where(p > 0.0, 1.0, 0.0)
    else:
        slope = p - p * p
    return slope


@triton.jit
def as_factor(p, dtype: tl.constexpr, BOUNDED: tl.constexpr):
    """Weights as the product with values takes them. BOUNDED: none is above 1."""
    if dtype == tl.float16 and BOUNDED:
        p = p * FLOAT16_SCALE
    return p.to(dtype)


@triton.jit
def as_sum(acc, dtype: tl.constexpr, BOUNDED: tl.constexpr):
    """A sum of products with as_factor's weights."""
    if dtype == tl.float16 and BOUNDED:
        acc = acc * (1.0 / FLOAT16_SCALE)
    return acc


@triton.jit
def load_row_factor(factor, rows, stride, num_queries, HAS_FACTOR: tl.constexpr):
    """Load what the weights of each row are multiplied by. HAS_FACTOR: as HAS_ROW of load_row_term."""
    if HAS_FACTOR == 2:
        times = tl.load(factor + rows * stride, mask=rows < num_queries, other=0.0)
    elif HAS_FACTOR == 1:
        times = tl.zeros_like(rows).to(tl.float32) + tl.load(factor)
    else:
        times = tl.zeros_like(rows).to(tl.float32)
    return times


@triton.jit
def weigh(
    x, rows, keys, term, slope, table, delta, zero, num_offsets, scale,
    M: tl.constexpr, N: tl.constexpr, POSITION: tl.constexpr, HAS_ROW: tl.constexpr,
    MODE: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Weights of a tile (M, N) from its products x; rows, keys and term broadcast to the tile.

    Offsets are floats for ALiBi: one add and no conversion per score.
    """
    x = shifted(x, term, scale, HAS_ROW)
    if POSITION == ALIBI:
        x = x - slope * tl.abs((keys + delta).to(tl.float32) - rows.to(tl.float32))
    if POSITION == TABLE:
        column = tl.minimum(tl.maximum(keys + delta - rows + zero, 0), num_offsets - 1)
        x = x + tl.load(table + column).to(tl.float32) * LOG2E
    return weights(x, M, N, MODE, ASM)


@triton.jit
def weigh_by_distance(
    x, first, step, term, slope, scale,
    M: tl.constexpr, N: tl.constexpr, HAS_ROW: tl.constexpr, MODE: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The same with ALiBi, where the offset of entry (i, j) is first + step (j - i)."""
    x = less_distance(shifted(x, term, scale, HAS_ROW), first, step, slope, M, N)
    return weights(x, M, N, MODE, ASM)
