"""Weights of a tile in inline assembly: eight scores of a thread at a time, packed for the product.

Scores arrive as x in units of log 2, weights are 1 / (1 + 2^-x). A thread of a matrix instruction
holds, of every sixteen columns, 0 1 8 9 (plus its own first column) of row r and of row r + 8, in
the order r: 0 1, r + 8: 0 1, r: 8 9, r + 8: 8 9. Four scores of one row share a reciprocal, so a
NaN stays in its row.
"""

# mypy: ignore-errors

import struct

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

# How weights are computed, with special-function operations per score.
QUAD = gl.constexpr(0)  # 1.25: four scores share a reciprocal
MIX = gl.constexpr(1)  # 1: and one of four exponentials is a polynomial
TAIL = gl.constexpr(2)  # 1: where a warp's sixteen scores all lie at x <= -2; else as QUAD
TANH = gl.constexpr(3)  # 1: tanh.approx; absolute error 1e-5, wrong in the left tail

# Float16 is subnormal below 6e-5, where weights of long rows lie: they are carried 2^14 times.
LIFT = gl.constexpr(16384.0)
LOG2E = gl.constexpr(1.4426950408889634)

ROWS = ((0, 1, 4, 5), (2, 3, 6, 7))  # which of eight consecutive registers lie in one row
# 1 / (1 + 2^-x) = E + E^2 (C1 + C2 E) with E = 2^x <= 1/4: relative error 2^-11, towards 0 none.
TAIL_1, TAIL_2 = -0.98041906, 0.72727272
# 2^f for |f| <= 1/2, relative error 2^-13.7 (degree 3, minimax).
POLYNOMIAL = (
    9.999280735413216e-1,
    6.932609854983658e-1,
    2.4261112217756947e-1,
    5.517166885357328e-2,
)


def _float(x: float) -> str:
    return f"0f{int.from_bytes(struct.pack('<f', x), 'little'):08X}"


def _quad(x: list[str], p: list[str], mix: bool, lift: bool) -> list[str]:
    """Four weights p of one row from its scores x, by one reciprocal of the product.

    Exponents end at 31, so the product of four stays below 2^126. 1 + e is formed for every second
    score only; the others enter by multiply-adds.
    """
    out = []
    for i in range(4):
        out += [f"neg.f32 e{i}, {x[i]};", f"min.NaN.f32 e{i}, e{i}, {_float(31.0)};"]
        if mix and i == 3:
            out += [
                f"max.NaN.f32 e3, e3, {_float(-31.0)};",
                f"add.rn.f32 t0, e3, {_float(12582912.0)};",
            ]
            out += [f"sub.rn.f32 t1, t0, {_float(12582912.0)};", "sub.rn.f32 t1, e3, t1;"]
            c0, c1, c2, c3 = (_float(c) for c in POLYNOMIAL)
            out += [f"mov.f32 t2, {c2};", f"fma.rn.f32 t2, t1, {c3}, t2;"]
            out += [f"fma.rn.f32 t2, t2, t1, {c1};", f"fma.rn.f32 t2, t2, t1, {c0};"]
            out += ["mov.b32 i0, t0;", "mov.b32 i1, t2;", "shl.b32 i0, i0, 23;"]
            out += ["add.s32 i1, i1, i0;", "mov.b32 e3, i1;"]
        else:
            out.append(f"ex2.approx.ftz.f32 e{i}, e{i};")
    one = _float(1.0)
    out += [f"add.f32 e0, e0, {one};", f"add.f32 e2, e2, {one};"]
    out += ["fma.rn.f32 ab, e1, e0, e0;", "fma.rn.f32 cd, e3, e2, e2;"]
    out += ["mul.f32 s, ab, cd;", "rcp.approx.ftz.f32 s, s;"]
    if lift:
        out.append(f"mul.f32 s, s, {_float(LIFT.value)};")
    out += ["mul.f32 cd, cd, s;", "mul.f32 ab, ab, s;"]  # 1 / ab and 1 / cd
    out += [f"fma.rn.f32 {p[0]}, e1, cd, cd;", f"mul.f32 {p[1]}, e0, cd;"]
    out += [f"fma.rn.f32 {p[2]}, e3, ab, ab;", f"mul.f32 {p[3]}, e2, ab;"]
    return out


def _series(x: str, p: str, lift: bool) -> list[str]:
    """A weight far left: a series in 2^x."""
    lines = [f"ex2.approx.ftz.f32 t0, {x};"]
    lines += [f"mov.f32 t1, {_float(TAIL_1)};", f"fma.rn.f32 t1, t0, {_float(TAIL_2)}, t1;"]
    lines += ["mul.f32 t2, t0, t0;", f"fma.rn.f32 {p}, t1, t2, t0;"]
    if lift:
        lines.append(f"mul.f32 {p}, {p}, {_float(LIFT.value)};")
    return lines


def _tanh(x: str, p: str, lift: bool) -> list[str]:
    half = 0.5 * (LIFT.value if lift else 1.0)
    lines = [f"mul.f32 t0, {x}, {_float(0.34657359027997264)};", "tanh.approx.f32 t0, t0;"]
    return [*lines, f"mov.f32 t1, {_float(half)};", f"fma.rn.f32 {p}, t0, t1, t1;"]


def _assembly(mode: int, half: bool, pack: int) -> str:
    """One statement of `pack` scores: outputs $0 on, pairs of 16 bits, then inputs."""
    kind, lift = ("f16x2" if half else "bf16x2"), half
    x = [f"${pack // 2 + i}" for i in range(pack)]
    p = [f"p{i}" for i in range(pack)]
    lines = [".reg .f32 e<4>, t<3>, ab, cd, s;", f".reg .f32 p<{pack}>;", ".reg .b32 i<2>, m;"]
    lines.append(".reg .pred left;")
    pack_up = [f"cvt.rn.{kind}.f32 ${i}, p{2 * i + 1}, p{2 * i};" for i in range(pack // 2)]
    quads = []
    for first in range(0, pack, 8):
        for row in ROWS:
            at = [first + i for i in row]
            quads += _quad([x[i] for i in at], [p[i] for i in at], mode == MIX.value, lift)
    if mode == TANH.value:
        for i in range(pack):
            lines += _tanh(x[i], p[i], lift)
    elif mode == TAIL.value:
        # x <= -2 has the two highest bits set, and so has the conjunction of all only then.
        lines.append("mov.b32 m, -1;")
        for i in range(pack):
            lines += [f"mov.b32 i0, {x[i]};", "and.b32 m, m, i0;"]
        lines += ["setp.ge.u32 left, m, 0xC0000000;", "vote.sync.all.pred left, left, -1;"]
        lines += ["@left bra.uni LEFT;", *quads, "bra.uni DONE;", "LEFT:"]
        for i in range(pack):
            lines += _series(x[i], p[i], lift)
        lines.append("DONE:")
    else:
        lines += quads
    return "{ " + " ".join([*lines, *pack_up]) + " }"


def _operands(pack: int) -> str:
    return ",".join(["=&r"] * (pack // 2) + ["f"] * pack)


# By mode, bfloat16 first.
PACK = (8, 8, 16, 8)
ASM = gl.constexpr(
    tuple(tuple(_assembly(mode, half, PACK[mode]) for mode in range(4)) for half in (False, True))
)
OPERANDS = gl.constexpr(tuple(_operands(pack) for pack in PACK))
PACKS = gl.constexpr(PACK)


@gluon.constexpr_function
def assembly(mode, half):
    return ASM.value[int(half)][mode]


@gluon.constexpr_function
def operands(mode):
    return OPERANDS.value[mode]


@gluon.constexpr_function
def pack_of(mode):
    return PACKS.value[mode]


@gluon.jit
def weigh(x, dtype: gl.constexpr, MODE: gl.constexpr):
    """Weights of scores x in units of log 2, as `dtype`; float16 is LIFT times too large."""
    if dtype == gl.float16:
        p = gl.inline_asm_elementwise(
            assembly(MODE, True), operands(MODE), [x],
            dtype=gl.float16, is_pure=True, pack=pack_of(MODE),
        )  # fmt: skip
    else:
        p = gl.inline_asm_elementwise(
            assembly(MODE, False), operands(MODE), [x],
            dtype=gl.bfloat16, is_pure=True, pack=pack_of(MODE),
        )  # fmt: skip
    return p
