"""From scores by offset to scores by key and back: what Transformer-XL's position term needs.

A tile of BM queries and BN keys meets BM + BN - 1 offsets, taken in bands of BN. Offset and key of a
score agree, but for a rotation of its row, in their place within a band; so the products of all
bands merge into one tile (BM, BN), each entry from the band in which its offset meets a key, and
one gather rotates the rows. No tile is wider than BN.

`zero` is a 0 computed in this turn of a loop (device.anew), so that masks and indices are too.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from .device import load_rows, seen_by


@triton.jit
def load_band(
    r, first, num_offsets, dtype,
    N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """(N, BD): rows of one head's r from `first` on; 0 beyond its ends."""
    offset = first + tl.arange(0, N)
    keep = (offset >= 0) & (offset < num_offsets)
    return load_rows(r, first, D, keep, N, D, BD, True, ASM).to(dtype)


@triton.jit
def relative_term(
    qv, r, first, num_offsets, zero,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    PRECISION: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """x[i, j] = qv[i] . r[first + j - i + BM - 1], (BM, BN)."""
    i, c = tl.arange(0, BM)[:, None] + zero, tl.arange(0, BN)[None, :]
    bands: tl.constexpr = (BM + BN - 2) // BN + 1
    merged = tl.zeros((BM, BN), tl.float32)
    for n in tl.static_range(bands - 1, -1, -1):
        band = load_band(r, first + n * BN, num_offsets, qv.dtype, BN, D, BD, ASM)
        by_offset = tl.dot(qv, tl.trans(band), input_precision=PRECISION)
        merged = tl.where(c + i >= BM - 1 - n * BN, by_offset, merged)
    return tl.gather(merged, (c - i + (BM - 1)) % BN, 1)


@triton.jit
def relative_term_transposed(
    qv, r, first, num_offsets, zero,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    PRECISION: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """relative_term as (BN, BM): keys by queries."""
    i, c = tl.arange(0, BM)[None, :] + zero, tl.arange(0, BN)[:, None]
    bands: tl.constexpr = (BM + BN - 2) // BN + 1
    merged = tl.zeros((BN, BM), tl.float32)
    for n in tl.static_range(bands - 1, -1, -1):
        band = load_band(r, first + n * BN, num_offsets, qv.dtype, BN, D, BD, ASM)
        by_offset = tl.dot(band, tl.trans(qv), input_precision=PRECISION)
        merged = tl.where(c + i >= BM - 1 - n * BN, by_offset, merged)
    return tl.gather(merged, (c - i + (BM - 1)) % BN, 0)


@triton.jit
def add_relative_gradient(
    dq, ds, r, first, num_offsets, zero,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    PRECISION: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """dq[i] + sum_j ds[i, j] r[first + j - i + BM - 1]: the inverse rotation, then band by band."""
    i, c = tl.arange(0, BM)[:, None] + zero, tl.arange(0, BN)[None, :]
    bands: tl.constexpr = (BM + BN - 2) // BN + 1
    rotated = tl.gather(ds, (c + i + (BM * BN - BM + 1)) % BN, 1)
    for n in tl.static_range(bands):
        band = load_band(r, first + n * BN, num_offsets, ds.dtype, BN, D, BD, ASM)
        here = (c + i >= BM - 1 - n * BN) & (c + i < BM - 1 - (n - 1) * BN)
        part = tl.where(here, rotated, tl.zeros_like(rotated))
        dq = tl.dot(part, band, dq, input_precision=PRECISION)
    return dq


@triton.jit
def diagonals(
    a, base, first_key, stride, first_seen, last_seen, zero,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    PRECISION: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """x[o, i] = row first_key + o + i of a matrix, times a[i]; (BN, BM), offsets by queries."""
    tl.static_assert(BM <= BN)
    o, i = tl.arange(0, BN)[:, None], tl.arange(0, BM)[None, :] + zero
    merged = tl.zeros((BN, BM), tl.float32)
    for n in tl.static_range(2):
        at = first_key + n * BN
        keep = seen_by(at + tl.arange(0, BN), first_seen, last_seen)
        tile = load_rows(base, at, stride, keep, BN, D, BD, True, ASM)
        by_key = tl.dot(tile, tl.trans(a), input_precision=PRECISION)
        merged = by_key if n == 0 else tl.where(o >= i, merged, by_key)
    return tl.gather(merged, (o + i) % BN, 0)
