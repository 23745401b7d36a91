"""The forward kernel: a warp that loads, groups of warps that multiply and weigh.

A block works on items: one utterance and head and a block of CONSUMERS * 64 queries. Its partitions
are CONSUMERS groups of four warps, each of which owns 64 rows, and one warp that loads tiles of
keys and values into a ring of STAGES slots, and the queries of an item.

Barriers and who arrives; every partition passes the same items and the same tiles in the same
order, so each counts turns by itself. Turn n of the ring (n counts over all items) uses slot
n % STAGES in round n // STAGES; item number m of the block uses the only buffer of queries.

    q_ready        loader, when the bytes have come       round m; consumers wait for it
    q_free         each consumer, after its last product with q    loader waits for round m - 1
    k_ready[slot]  loader, when the bytes have come       consumers wait for round n // STAGES
    k_free[slot]   each consumer, after the product with k[slot]   loader waits for the round before
    v_ready, v_free   the same for values

Waiting for round r of a barrier means waiting for the end of its phase r, whose parity is r & 1.
The loader's wait for the round before the first is for parity 1 of a fresh barrier and returns at
once. Between a consumer's wait for products and its arrival lies a barrier of its four warps: one
thread arrives for all.

Products run asynchronously: while a consumer weighs tile j, the tensor cores work on q k[j + 1]^T
and p[j - 1] v[j - 1].
"""

# mypy: ignore-errors

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)

from .weights import LIFT, LOG2E, weigh


@gluon.jit
def advance(slot, phase, STAGES: gl.constexpr):
    """The next slot of the ring, and the parity of its round."""
    slot = slot + 1
    around = slot == STAGES
    return gl.where(around, 0, slot), gl.where(around, phase ^ 1, phase)


@gluon.jit
def locate(item, blocks, pairs, span):
    """Utterance-and-head and block of queries of an item: `span` heads at a time, last block first."""
    group = item // (blocks * span)
    width = gl.minimum(span, pairs - group * span)
    rest = item - group * (blocks * span)
    return group * span + rest % width, blocks - 1 - rest // width


@gluon.jit
def tile_range(
    ranges, batch, block, blocks, ranges_b, num_keys, N: gl.constexpr, HAS_RUNS: gl.constexpr
):
    """First key, end, tiles, and the tiles between which none is cut by a run of keys."""
    if HAS_RUNS:
        at = ranges + batch * ranges_b + block * 5
        start, end, tiles = gl.load(at), gl.load(at + 1), gl.load(at + 2)
        full_from, full_to = gl.load(at + 3), gl.load(at + 4)
    else:
        start = num_keys * 0
        end = num_keys
        tiles = gl.cdiv(num_keys, N)
        full_from = start
        full_to = tiles
    return start, end, tiles, full_from, full_to


@gluon.jit
def load_partition(
    q_desc, k_desc, v_desc, ranges, ranges_b, num_keys, heads, group, blocks, pairs, span,
    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
    CONSUMERS: gl.constexpr, N: gl.constexpr,
    STAGES: gl.constexpr, HAS_RUNS: gl.constexpr,
):  # fmt: skip
    Q_BYTES: gl.constexpr = CONSUMERS * q_desc.block_type.nbytes
    K_BYTES: gl.constexpr = k_desc.block_type.nbytes
    V_BYTES: gl.constexpr = v_desc.block_type.nbytes
    slot = gl.to_tensor(0)
    phase = gl.to_tensor(1)
    q_phase = gl.to_tensor(1)
    for item in range(gl.program_id(0), pairs * blocks, gl.num_programs(0)):
        pair, block = locate(item, blocks, pairs, span)
        batch, head = pair // heads, pair % heads
        kv_head = head // group
        start, _, tiles, _, _ = tile_range(
            ranges, batch, block, blocks, ranges_b, num_keys, N, HAS_RUNS
        )
        mbarrier.wait(q_free, q_phase)
        mbarrier.expect(q_ready, Q_BYTES)
        for part in gl.static_range(CONSUMERS):
            row0 = (block * CONSUMERS + part) * q_desc.block_type.shape[2]
            tma.async_copy_global_to_shared(
                q_desc, [batch, head, row0, 0], q_ready, q_buf.index(part)
            )
        q_phase ^= 1
        for j in range(0, tiles):
            key0 = start + j * N
            mbarrier.wait(k_free.index(slot), phase)
            mbarrier.expect(k_ready.index(slot), K_BYTES)
            tma.async_copy_global_to_shared(
                k_desc, [batch, kv_head, key0, 0], k_ready.index(slot), k_buf.index(slot)
            )
            mbarrier.wait(v_free.index(slot), phase)
            mbarrier.expect(v_ready.index(slot), V_BYTES)
            tma.async_copy_global_to_shared(
                v_desc, [batch, kv_head, key0, 0], v_ready.index(slot), v_buf.index(slot)
            )
            slot, phase = advance(slot, phase, STAGES)


@gluon.jit
def weights_of(
    s, key0, lo_t, hi_t, row_t, term_t, slope, factor,
    dtype: gl.constexpr, N: gl.constexpr, S_LAYOUT: gl.constexpr, ALIBI: gl.constexpr,
    ROW: gl.constexpr, CUT: gl.constexpr, MODE: gl.constexpr,
):  # fmt: skip
    """p (rows, N) of products s; CUT: 0 where lo and hi say so.

    Scores of unseen keys are replaced before they are weighed, because what lies there may be NaN
    and shares a reciprocal with what is seen.
    """
    x = s * factor
    if ROW == 2:
        x = x + term_t[:, None]
    elif ROW == 1:
        x = x + term_t
    if ALIBI or CUT:
        keys = key0 + gl.arange(0, N, layout=gl.SliceLayout(0, S_LAYOUT))
    if ALIBI:
        x = x - slope * gl.abs(keys.to(gl.float32)[None, :] - row_t[:, None])
    if CUT:
        seen = (keys[None, :] >= lo_t[:, None]) & (keys[None, :] < hi_t[:, None])
        x = gl.where(seen, x, -8.0)
    p = weigh(x, dtype, MODE)
    if CUT:
        p = gl.where(seen, p, 0.0)
    return p


@gluon.jit
def hide_values(v_tile, key0, end, N: gl.constexpr, D: gl.constexpr, PIECE: gl.constexpr):
    """Rows from `end` on become 0: what nobody sees may be NaN, and 0 times NaN is NaN.

    Every consumer does this for itself before its product and writes what the others write, so they
    need not meet.
    """
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [gl.num_warps(), 1], [1, 0])
    for piece in gl.static_range(N // PIECE):
        if key0 + (piece + 1) * PIECE > end:
            part = v_tile.slice(piece * PIECE, PIECE)
            keys = key0 + piece * PIECE + gl.arange(0, PIECE, layout=gl.SliceLayout(1, layout))
            values = part.load(layout)
            part.store(gl.where((keys < end)[:, None], values, 0.0))
    fence_async_shared()
    gl.thread_barrier()


@gluon.jit
def turn(
    j, s, acc, q_tile, k_buf, v_buf, k_ready, k_free, v_ready, v_free,
    k_slot, k_phase, v_slot, v_phase,
    start, end, lo_t, hi_t, row_t, term_t, slope, factor,
    N: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr,
    S_LAYOUT: gl.constexpr, P_LAYOUT: gl.constexpr, ALIBI: gl.constexpr, ROW: gl.constexpr,
    CUT: gl.constexpr, LAST: gl.constexpr, MODE: gl.constexpr,
    OVERLAP: gl.constexpr,
):  # fmt: skip
    """Add tile j, whose products are s; return those of tile j + 1 and the sums under way.

    In flight at entry: p v of tile j - 1. (k_slot, k_phase) is of tile j + 1, (v_slot, v_phase) of
    tile j. `acc` is a product under way throughout.
    """
    dtype: gl.constexpr = v_buf.dtype
    if not LAST:
        mbarrier.wait(k_ready.index(k_slot), k_phase)
        k_tile = k_buf.index(k_slot).reshape((N, D)).permute((1, 0))
        nothing = gl.zeros((16 * gl.num_warps(), N), gl.float32, S_LAYOUT)
        s_next = warpgroup_mma(q_tile, k_tile, nothing, use_acc=False, is_async=True)
    if not OVERLAP:
        # Before anything may be written to the registers that held p of tile j - 1.
        acc = warpgroup_mma_wait(0 if LAST else 1, deps=(acc,))
        acc = warpgroup_mma_init(acc)
    p = weights_of(
        s, start + j * N, lo_t, hi_t, row_t, term_t, slope, factor,
        dtype, N, S_LAYOUT, ALIBI, ROW, CUT, MODE,
    )  # fmt: skip
    p = gl.convert_layout(p, P_LAYOUT, assert_trivial=True)
    # Of the two products under way the older, p v of tile j - 1.
    if OVERLAP:
        acc = warpgroup_mma_wait(0 if LAST else 1, deps=(acc,))
    if j > 0:
        before = gl.where(v_slot == 0, STAGES - 1, v_slot - 1)
        mbarrier.arrive(v_free.index(before))
    mbarrier.wait(v_ready.index(v_slot), v_phase)
    v_tile = v_buf.index(v_slot).reshape((N, D))
    if CUT:
        if start + (j + 1) * N > end:
            hide_values(v_tile, start + j * N, end, N, D, 16)
    acc = warpgroup_mma(p, v_tile, acc, is_async=True)
    if LAST:
        s_next = s
    else:
        s_next = warpgroup_mma_wait(1, deps=(s_next,))
        mbarrier.arrive(k_free.index(k_slot))
        k_slot, k_phase = advance(k_slot, k_phase, STAGES)
    v_slot, v_phase = advance(v_slot, v_phase, STAGES)
    return s_next, acc, k_slot, k_phase, v_slot, v_phase


@gluon.jit
def row_facts(
    lo, hi, row, batch, head, rows, runs_b, row_b, row_h, row_t, num_queries, num_keys,
    HAS_RUNS: gl.constexpr, ROW: gl.constexpr,
):  # fmt: skip
    """Each row's run of keys and term, the latter in units of log 2."""
    inside = rows < num_queries
    if HAS_RUNS:
        lo_t = gl.load(lo + batch * runs_b + rows, mask=inside, other=0)
        hi_t = gl.load(hi + batch * runs_b + rows, mask=inside, other=0)
    else:
        lo_t = rows * 0
        hi_t = rows * 0 + num_keys
    if ROW == 2:
        at = row + batch * row_b + head * row_h + rows.to(gl.int64) * row_t
        term_t = gl.load(at, mask=inside, other=0.0) * LOG2E
    elif ROW == 1:
        term_t = gl.load(row + batch * row_b + head * row_h) * LOG2E
    else:
        term_t = 0.0
    return lo_t, hi_t, term_t


@gluon.jit
def consume_partition(
    o, lo, hi, row, slopes, ranges, runs_b, ranges_b, row_b, row_h, row_t, o_b, o_h, o_t,
    num_queries, num_keys, delta, heads, group, blocks, pairs, span, scale,
    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
    PART: gl.constexpr, CONSUMERS: gl.constexpr, N: gl.constexpr,
    D: gl.constexpr, STAGES: gl.constexpr, HAS_RUNS: gl.constexpr, ROW: gl.constexpr,
    ALIBI: gl.constexpr, MODE: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = v_buf.dtype
    WARPS: gl.constexpr = gl.num_warps()
    ROWS: gl.constexpr = 16 * WARPS
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, N, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, D, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, O_LAYOUT, 2)
    k_slot, v_slot = gl.to_tensor(0), gl.to_tensor(0)
    k_phase, v_phase, q_phase = gl.to_tensor(0), gl.to_tensor(0), gl.to_tensor(0)
    factor = scale * LOG2E
    for item in range(gl.program_id(0), pairs * blocks, gl.num_programs(0)):
        pair, block = locate(item, blocks, pairs, span)
        batch, head = (pair // heads).to(gl.int64), (pair % heads).to(gl.int64)
        start, end, tiles, full_from, full_to = tile_range(
            ranges, batch, block, blocks, ranges_b, num_keys, N, HAS_RUNS
        )
        row0 = (block * CONSUMERS + PART) * ROWS
        rows = row0 + gl.arange(0, ROWS, layout=gl.SliceLayout(1, S_LAYOUT))
        lo_t, hi_t, term_t = row_facts(
            lo, hi, row, batch, head, rows, runs_b, row_b, row_h, row_t, num_queries, num_keys,
            HAS_RUNS, ROW,
        )  # fmt: skip
        slope = 0.0
        if ALIBI:
            slope = gl.load(slopes + head).to(gl.float32) * LOG2E
        row_f = (rows - delta).to(gl.float32)
        mbarrier.wait(q_ready, q_phase)
        q_phase ^= 1
        q_tile = q_buf.index(PART).reshape((ROWS, D))
        sums = gl.zeros((ROWS, D), gl.float32, O_LAYOUT)
        if tiles > 0:
            mbarrier.wait(k_ready.index(k_slot), k_phase)
            k_tile = k_buf.index(k_slot).reshape((N, D)).permute((1, 0))
            s = gl.zeros((ROWS, N), gl.float32, S_LAYOUT)
            s = warpgroup_mma(q_tile, k_tile, s, use_acc=False)
            gl.thread_barrier()
            mbarrier.arrive(k_free.index(k_slot))
            k_slot, k_phase = advance(k_slot, k_phase, STAGES)
            acc = warpgroup_mma_init(sums)
            # Tiles that runs of keys cut, whole ones, cut ones again, and the last.
            for part in gl.static_range(0 if HAS_RUNS else 1, 3 if HAS_RUNS else 2):
                first = 0 if part == 0 else (full_from if part == 1 else full_to)
                stop = full_from if part == 0 else (full_to if part == 1 else tiles)
                for j in range(first, gl.minimum(stop, tiles - 1)):
                    s, acc, k_slot, k_phase, v_slot, v_phase = turn(
                        j, s, acc, q_tile, k_buf, v_buf, k_ready, k_free, v_ready, v_free,
                        k_slot, k_phase, v_slot, v_phase,
                        start, end, lo_t, hi_t, row_f, term_t, slope, factor,
                        N, D, STAGES, S_LAYOUT, P_LAYOUT, ALIBI, ROW, part != 1, False, MODE,
                        OVERLAP,
                    )  # fmt: skip
            gl.thread_barrier()
            mbarrier.arrive(q_free)
            s, acc, k_slot, k_phase, v_slot, v_phase = turn(
                tiles - 1, s, acc, q_tile, k_buf, v_buf, k_ready, k_free, v_ready, v_free,
                k_slot, k_phase, v_slot, v_phase,
                start, end, lo_t, hi_t, row_f, term_t, slope, factor,
                N, D, STAGES, S_LAYOUT, P_LAYOUT, ALIBI, ROW, HAS_RUNS, True, MODE, OVERLAP,
            )  # fmt: skip
            sums = warpgroup_mma_wait(0, deps=(acc,))
            gl.thread_barrier()
            mbarrier.arrive(v_free.index(gl.where(v_slot == 0, STAGES - 1, v_slot - 1)))
        else:
            mbarrier.arrive(q_free)
        out_rows = row0 + gl.arange(0, ROWS, layout=gl.SliceLayout(1, O_LAYOUT))
        channels = gl.arange(0, D, layout=gl.SliceLayout(0, O_LAYOUT))
        if dtype == gl.float16:
            sums = sums * (1.0 / LIFT)
        if HAS_RUNS:
            # Rows that see nothing passed whole tiles with the others.
            sees = gl.convert_layout(hi_t > lo_t, gl.SliceLayout(1, O_LAYOUT))
            sums = gl.where(sees[:, None], sums, 0.0)
        at = o + batch * o_b + head * o_h + out_rows.to(gl.int64)[:, None] * o_t + channels[None, :]
        gl.store(at, sums.to(dtype), mask=(out_rows < num_queries)[:, None])


@gluon.jit(
    do_not_specialize=[
        "num_queries",
        "num_keys",
        "delta",
        "heads",
        "group",
        "blocks",
        "pairs",
        "span",
        "runs_b",
        "ranges_b",
        "row_b",
        "row_h",
        "row_t",
    ]
)
def forward_kernel(
    q_desc, k_desc, v_desc, o, lo, hi, row, slopes, ranges,
    runs_b, ranges_b, row_b, row_h, row_t, o_b, o_h, o_t,
    num_queries, num_keys, delta, heads, group, blocks, pairs, span, scale,
    CONSUMERS: gl.constexpr, N: gl.constexpr,
    D: gl.constexpr, STAGES: gl.constexpr, HAS_RUNS: gl.constexpr, ROW: gl.constexpr,
    ALIBI: gl.constexpr, MODE: gl.constexpr, OVERLAP: gl.constexpr,
    CONSUMER_REGISTERS: gl.constexpr, LOADER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """o (B, H, T, D); any grid: blocks take items by turns."""
    dtype: gl.constexpr = q_desc.dtype
    q_buf = gl.allocate_shared_memory(dtype, [CONSUMERS] + q_desc.block_shape, q_desc.layout)
    k_buf = gl.allocate_shared_memory(dtype, [STAGES] + k_desc.block_shape, k_desc.layout)
    v_buf = gl.allocate_shared_memory(dtype, [STAGES] + v_desc.block_shape, v_desc.layout)
    q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    q_free = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_ready, count=1)
    mbarrier.init(q_free, count=CONSUMERS)
    for slot in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(slot), count=1)
        mbarrier.init(v_ready.index(slot), count=1)
        mbarrier.init(k_free.index(slot), count=CONSUMERS)
        mbarrier.init(v_free.index(slot), count=CONSUMERS)
    fence_async_shared()
    gl.thread_barrier()
    # Arguments are spelled out: a tuple with a name would turn compile-time numbers into values.
    if CONSUMERS == 1:
        gl.warp_specialize(
            [
                (consume_partition, (
                    o, lo, hi, row, slopes, ranges, runs_b, ranges_b, row_b, row_h, row_t, o_b, o_h, o_t,
                    num_queries, num_keys, delta, heads, group, blocks, pairs, span, scale,
                    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
                    0, CONSUMERS, N, D, STAGES, HAS_RUNS, ROW, ALIBI, MODE, OVERLAP,
                )),
                (load_partition, (
                    q_desc, k_desc, v_desc, ranges, ranges_b, num_keys, heads, group, blocks, pairs, span,
                    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
                    CONSUMERS, N, STAGES, HAS_RUNS,
                )),
            ],
            [1], [LOADER_REGISTERS],
        )  # fmt: skip
    elif CONSUMERS == 2:
        gl.warp_specialize(
            [
                (consume_partition, (
                    o, lo, hi, row, slopes, ranges, runs_b, ranges_b, row_b, row_h, row_t, o_b, o_h, o_t,
                    num_queries, num_keys, delta, heads, group, blocks, pairs, span, scale,
                    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
                    0, CONSUMERS, N, D, STAGES, HAS_RUNS, ROW, ALIBI, MODE, OVERLAP,
                )),
                (consume_partition, (
                    o, lo, hi, row, slopes, ranges, runs_b, ranges_b, row_b, row_h, row_t, o_b, o_h, o_t,
                    num_queries, num_keys, delta, heads, group, blocks, pairs, span, scale,
                    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
                    1, CONSUMERS, N, D, STAGES, HAS_RUNS, ROW, ALIBI, MODE, OVERLAP,
                )),
                (load_partition, (
                    q_desc, k_desc, v_desc, ranges, ranges_b, num_keys, heads, group, blocks, pairs, span,
                    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
                    CONSUMERS, N, STAGES, HAS_RUNS,
                )),
            ],
            [4, 1], [CONSUMER_REGISTERS, LOADER_REGISTERS],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (consume_partition, (
                    o, lo, hi, row, slopes, ranges, runs_b, ranges_b, row_b, row_h, row_t, o_b, o_h, o_t,
                    num_queries, num_keys, delta, heads, group, blocks, pairs, span, scale,
                    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
                    0, CONSUMERS, N, D, STAGES, HAS_RUNS, ROW, ALIBI, MODE, OVERLAP,
                )),
                (consume_partition, (
                    o, lo, hi, row, slopes, ranges, runs_b, ranges_b, row_b, row_h, row_t, o_b, o_h, o_t,
                    num_queries, num_keys, delta, heads, group, blocks, pairs, span, scale,
                    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
                    1, CONSUMERS, N, D, STAGES, HAS_RUNS, ROW, ALIBI, MODE, OVERLAP,
                )),
                (consume_partition, (
                    o, lo, hi, row, slopes, ranges, runs_b, ranges_b, row_b, row_h, row_t, o_b, o_h, o_t,
                    num_queries, num_keys, delta, heads, group, blocks, pairs, span, scale,
                    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
                    2, CONSUMERS, N, D, STAGES, HAS_RUNS, ROW, ALIBI, MODE, OVERLAP,
                )),
                (load_partition, (
                    q_desc, k_desc, v_desc, ranges, ranges_b, num_keys, heads, group, blocks, pairs, span,
                    q_buf, k_buf, v_buf, q_ready, q_free, k_ready, k_free, v_ready, v_free,
                    CONSUMERS, N, STAGES, HAS_RUNS,
                )),
            ],
            [4, 4, 1], [CONSUMER_REGISTERS, CONSUMER_REGISTERS, LOADER_REGISTERS],
        )  # fmt: skip
