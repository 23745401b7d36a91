"""Device functions shared by the kernels: exponentials, the sigmoid, one tile of scores.

Scores are carried in units of log 2 (x = s * log2 e), so that 2^x serves for e^s.
What Triton's interpreter cannot run (inline assembly) sits in functions switched by ASM, each beside
a twin in plain `tl`.
"""

# Kernel code: the names below are read by Triton's compiler, not by a type checker.
# mypy: ignore-errors

import triton
import triton.language as tl

# How a weight is computed, with special-function operations (MUFU) per score; `launch.mode_for`
# chooses. Polynomials in place of some exponentials were slower on every tile timed on an H100.
SEPARATE = tl.constexpr(0)  # 2: an exponential and a reciprocal each
SHARED = tl.constexpr(1)  # 1.5: two scores share a reciprocal
TANH = tl.constexpr(2)  # 1: tanh.approx; absolute error 1e-5, wrong in the left tail
# For inputs of half precision, whose rounding hides what these leave out (weights below 2^-31).
QUAD = tl.constexpr(3)  # 1.25: four scores share a reciprocal

NONE = tl.constexpr(0)
ALIBI = tl.constexpr(1)
TABLE = tl.constexpr(2)
RELATIVE = tl.constexpr(3)

LOG2E = tl.constexpr(1.4426950408889634)
# Exponents of a pair end here, lest the product of two denominators overflow and one score's
# extreme poison the other. 2^-62 is far below any weight that matters.
HIGHEST = tl.constexpr(62.0)
# The same for a product of four.
HIGHEST_OF_FOUR = tl.constexpr(31.0)


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
def anew(i, ASM: tl.constexpr):
    """i, a loop's variable, behind an instruction that the compiler does not look into.

    What depends on it is computed in each turn of the loop; or addresses and indices of every
    element would be held in registers over the whole loop, and accumulators would be spilled.
    """
    if ASM:
        i = tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [i], dtype=tl.int32, is_pure=True, pack=1
        )
    return i


@triton.jit
def only_seen(p, seen, ASM: tl.constexpr):
    """p where `seen`, else 0, chosen before p is converted.

    The compiler would choose between converted values, two of which share a register: three
    instructions more for each. It does not look behind the move, which itself costs nothing.
    """
    p = tl.where(seen, p, 0.0)
    if ASM:
        p = tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [p], dtype=tl.float32, is_pure=True, pack=1
        )
    return p


@triton.jit
def negated(x, most):
    """-x, at most `most`; NaN stays. x * -1 is the sign of an operand, -x (0 - x) an instruction."""
    return tl.minimum(x * -1.0, most, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def in_quads(x, M: tl.constexpr, N: tl.constexpr):
    """Four tiles that hold columns j, j + 1, j + 8, j + 9 of a tile (M, N).

    Matrix instructions leave these in one thread, so nothing moves.
    """
    x = tl.permute(tl.reshape(x, (M, N // 16, 2, 4, 2)), (0, 1, 3, 2, 4))
    even, odd = tl.split(x)
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def from_quads(a, b, c, d, M: tl.constexpr, N: tl.constexpr):
    """The tile (M, N) of which in_quads made four."""
    x = tl.join(tl.join(a, c), tl.join(b, d))
    return tl.reshape(tl.permute(x, (0, 1, 3, 2, 4)), (M, N))


@triton.jit
def quad(a, b, c, d, ASM: tl.constexpr):
    """Sigmoids of four tiles by one reciprocal of the four denominators' product.

    1 + e is formed for every second only; the others enter by multiply-adds.
    """
    a, b = exp2(negated(a, HIGHEST_OF_FOUR), ASM), exp2(negated(b, HIGHEST_OF_FOUR), ASM)
    c, d = negated(c, HIGHEST_OF_FOUR), exp2(negated(d, HIGHEST_OF_FOUR), ASM)
    c = exp2(c, ASM)
    a, c = 1.0 + a, 1.0 + c
    ab, cd = b * a + a, d * c + c
    shared = reciprocal(ab * cd, ASM)
    by_ab, by_cd = cd * shared, ab * shared
    return b * by_ab + by_ab, a * by_ab, d * by_cd + by_cd, c * by_cd


@triton.jit
def sigmoid(x, M: tl.constexpr, N: tl.constexpr, MODE: tl.constexpr, ASM: tl.constexpr):
    """1 / (1 + 2^-x) of a tile (M, N); relative error is kept in the left tail but for TANH.

    Scores that share a reciprocal lie in one row and, as matrix instructions leave them, in one
    thread, so that grouping moves nothing and a NaN stays in its row.
    """
    if MODE == TANH:
        p = 0.5 + 0.5 * tanh(x * 0.34657359027997264, ASM)  # ln(2) / 2
    elif MODE == SEPARATE:
        p = reciprocal(1.0 + exp2(negated(x, 126.0), ASM), ASM)
    elif MODE == QUAD:
        a, b, c, d = in_quads(x, M, N)
        a, b, c, d = quad(a, b, c, d, ASM)
        p = from_quads(a, b, c, d, M, N)
    else:
        left, right = tl.split(tl.reshape(negated(x, HIGHEST), (M, N // 2, 2)))
        a, b = 1.0 + exp2(left, ASM), 1.0 + exp2(right, ASM)
        shared = reciprocal(a * b, ASM)
        p = tl.reshape(tl.join(b * shared, a * shared), (M, N))
    return p


@triton.jit
def row_offsets(stride, N: tl.constexpr, BD: tl.constexpr):
    """Return where the elements of N rows lie behind the first, (N, BD), below 2^31."""
    return tl.arange(0, N)[:, None] * tl.cast(stride, tl.int32) + tl.arange(0, BD)[None, :]


@triton.jit
def load_whole(first, offsets, D: tl.constexpr, BD: tl.constexpr):
    """Rows from the one at `first` on, every one of which exists, (N, BD); 0 beyond D.

    Two additions for each row that a thread reads; load_rows takes seven instructions.
    """
    pointers = first + offsets
    if D < BD:
        tile = tl.load(pointers, mask=tl.arange(0, BD)[None, :] < D, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def load_rows(
    base, row0, stride, keep, N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    MASKED: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Rows row0 to row0 + N of a matrix whose channels are adjacent, (N, BD); 0 beyond D and, if
    MASKED, where keep (N,) is False."""
    rows, channel = anew(row0, ASM) + tl.arange(0, N), tl.arange(0, BD)
    pointers = base + rows.to(tl.int64)[:, None] * stride + channel[None, :]
    if MASKED:
        tile = tl.load(pointers, mask=keep[:, None] & (channel[None, :] < D), other=0.0)
    elif D < BD:
        tile = tl.load(pointers, mask=channel[None, :] < D, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def store_rows(base, row0, stride, keep, tile, N: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):
    rows, channel = row0 + tl.arange(0, N), tl.arange(0, BD)
    pointers = base + rows.to(tl.int64)[:, None] * stride + channel[None, :]
    tl.store(pointers, tile, mask=keep[:, None] & (channel[None, :] < D))


@triton.jit
def load_runs(lo, hi, base, rows, num_queries, num_keys, HAS_RUNS: tl.constexpr):
    """Load each row's run of visible keys; rows beyond the end see none."""
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
    """Load what each row adds to its scores. HAS_ROW: 0 nothing, 1 one number for all rows, 2 one each.

    One number takes one register, where numbers of rows take one for each row of a thread.
    """
    if HAS_ROW == 2:
        term = tl.load(row + rows * stride, mask=rows < num_queries, other=0.0) * LOG2E
    elif HAS_ROW == 1:
        term = tl.zeros_like(rows).to(tl.float32) + tl.load(row) * LOG2E
    else:
        term = tl.zeros_like(rows).to(tl.float32)
    return term


@triton.jit
def head_slope(slopes, head, POSITION: tl.constexpr):
    if POSITION == ALIBI:
        slope = tl.load(slopes + head).to(tl.float32) * LOG2E
    else:
        slope = 0.0
    return slope


@triton.jit
def seen_by(keys, lo, hi):
    """Tell whether each key lies in the row's run; the shapes say which axis is which."""
    return (keys >= lo) & (keys < hi)


@triton.jit
def shifted(x, term, scale, HAS_ROW: tl.constexpr):
    """Scores in units of log 2 from products."""
    x = x * (scale * LOG2E)
    if HAS_ROW:
        x = x + term
    return x


@triton.jit
def less_distance(x, first, step, slope, M: tl.constexpr, N: tl.constexpr):
    """x[i, j] - slope |first + step (j - i)|, where step is 1 or -1.

    One addition and one multiply-add a score: a lane's columns are 8 apart, and in a tensor with an
    axis of its own for these the compiler has them as constants, where it would otherwise convert
    each column's number to a float in each turn of a loop.
    """
    i, j = tl.arange(0, M)[:, None], tl.arange(0, 8)[None, :]
    near = (first + step * (j - i)).to(tl.float32)
    far = (tl.arange(0, N // 8) * (8 * step)).to(tl.float32)
    distance = tl.abs(near[:, None, :] + far[None, :, None])
    return tl.reshape(tl.reshape(x, (M, N // 8, 8)) - slope * distance, (M, N))
