"""From scores by offset to scores by key and back: what Transformer-XL's position term needs.

A tile of BM rows and BN columns whose rows are shifted against each other meets BM + BN - 1 rows of
a matrix, taken in bands of BN. An entry and its row of the matrix agree, but for a rotation, in their
place within a band; so the products of all bands merge into one tile (BM, BN), each entry from the
band in which it lies, and one gather rotates. No tile is wider than BN.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from .device import anew, load_rows, seen_by


@triton.jit
def range_anew(turn, N: tl.constexpr, ASM: tl.constexpr):
    """0 to N - 1, computed in this turn of a loop (device.anew), and so all that comes of it."""
    return tl.arange(0, N) + (anew(turn, ASM) - turn)


@triton.jit
def load_band(
    base, first, stride, first_row, last_row,
    N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """(N, BD): rows of a matrix from `first` on; 0 before first_row and from last_row on."""
    keep = seen_by(first + tl.arange(0, N), first_row, last_row)
    return load_rows(base, first, stride, keep, N, D, BD, True, ASM)


@triton.jit
def skewed_product(
    a, shift_t, base, first, stride, first_row, last_row,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """x[i, j] = a[i] . row first + j + shift[i] of a matrix, (BM, BN); TRANSPOSED: as (BN, BM).

    shift_t (BM,): 0 to BM - 1 in any order; from range_anew, or the tile's indices are held over a
    loop. Rows of the matrix outside [first_row, last_row) count as 0.
    """
    i_axis: tl.constexpr = 1 if TRANSPOSED else 0
    shift, c = tl.expand_dims(shift_t, 1 - i_axis), tl.expand_dims(tl.arange(0, BN), i_axis)
    bands: tl.constexpr = (BM + BN - 2) // BN + 1
    for n in tl.static_range(bands - 1, -1, -1):
        band = load_band(base, first + n * BN, stride, first_row, last_row, BN, D, BD, ASM)
        if TRANSPOSED:
            product = tl.dot(band, tl.trans(a), input_precision=PRECISION)
        else:
            product = tl.dot(a, tl.trans(band), input_precision=PRECISION)
        # Place c of band n is column c + n BN - shift, if that is one.
        if n == bands - 1:
            merged = product
        else:
            merged = tl.where(c + n * BN >= shift, product, merged)
    return tl.gather(merged, (c + shift) % BN, 1 - i_axis)


@triton.jit
def add_skewed_gradient(
    da, dx, shift_t, base, first, stride, first_row, last_row,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    PRECISION: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """da[i] + sum_j dx[i, j] times row first + j + shift[i]: rotated back, then band by band."""
    shift, c = shift_t[:, None], tl.arange(0, BN)[None, :]
    bands: tl.constexpr = (BM + BN - 2) // BN + 1
    rotated = tl.gather(dx, (c - shift + BM * BN) % BN, 1)
    for n in tl.static_range(bands):
        band = load_band(base, first + n * BN, stride, first_row, last_row, BN, D, BD, ASM)
        column = c + n * BN - shift
        here = (column >= 0) & (column < BN)
        part = tl.where(here, rotated, tl.zeros_like(rotated))
        da = tl.dot(part, band, da, input_precision=PRECISION)
    return da
