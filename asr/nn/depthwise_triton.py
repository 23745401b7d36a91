"""Triton kernels of the depthwise convolution over time; imported only by who launches them.

A thread holds a few adjacent channels, so every load of a frame is a load of whole lines. Frames pass
one by one: each is read once and multiplied into all sums that it belongs to, which are in registers.
Everything is unrolled, and takes little more than one instruction per multiply-add.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (kernels know no starred expressions)

import torch
import triton
import triton.language as tl
from torch import Tensor

FRAMES = 16  # of a program, all in registers at once
CHUNK = 128  # frames of a partial sum over time, so that a batch occupies all of a large GPU
CHANNELS = 64  # of a program of one warp: two for each thread
MOST_TAPS_OF_TWO = 31  # sums of more taps fit into registers for one channel only


@triton.jit
def _slide(sums, row, others, at: tl.constexpr, SUMS: tl.constexpr, OTHERS: tl.constexpr):
    """Add row * others[at - i] to sums[i] wherever there is such an other."""
    added = ()
    for i in tl.static_range(SUMS):
        if at >= i and at - i < OTHERS:
            added = added + (sums[i] + row * others[at - i],)
        else:
            added = added + (sums[i],)
    return added


@triton.jit
def _frame(x_d, t, num_frames, d, D: tl.constexpr, BD: tl.constexpr):
    """Load one frame in float32; zeros beyond the ends."""
    mask = _inside(t, num_frames, d, D, BD)
    return tl.load(x_d, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _inside(t, num_frames, d, D: tl.constexpr, BD: tl.constexpr):
    """Tell which channels of which frames exist, in one comparison where all channels do."""
    inside = t.to(tl.uint32) < num_frames.to(tl.uint32)  # negative ones are large
    if D % BD == 0:
        mask = tl.full((BD,), True, tl.int1) & inside
    else:
        mask = (d < D) & inside
    return mask


@triton.jit(do_not_specialize=["num_frames", "num_blocks", "has_bias"])
def convolve_kernel(
    x,
    taps,
    bias,
    y,
    num_frames,
    num_blocks,
    has_bias,
    stride_b,
    STRIDE_T: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    FRAMES: tl.constexpr,
    BD: tl.constexpr,
):
    """Compute FRAMES frames of y_btd from x_btd and taps_kd, a program per block of frames."""
    b = (tl.program_id(0) // num_blocks).to(tl.int64)
    start = tl.program_id(0) % num_blocks * FRAMES
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    is_channel = d < D
    element = y.dtype.element_ty
    x += b * stride_b + (start - K // 2) * STRIDE_T + d
    y += (b * num_frames + start) * D + d
    first = tl.load(bias + d, mask=is_channel & (has_bias != 0), other=0.0).to(tl.float32)
    sums = ()
    for _ in tl.static_range(FRAMES):
        sums = sums + (first,)
    seen = ()
    for at in tl.static_range(FRAMES + K - 1):
        if at < K:
            tap = tl.load(taps + at * D + d, mask=is_channel, other=0.0).to(tl.float32)
            seen = seen + (tap,)
        row = _frame(x + at * STRIDE_T, start + at - K // 2, num_frames, d, D, BD)
        sums = _slide(sums, row, seen, at, FRAMES, K)
        if at >= K - 1:  # this was the last frame of one sum
            mask = _inside(start + at - (K - 1), num_frames, d, D, BD)
            done = sums[at - (K - 1)].to(element)
            tl.store(y + (at - (K - 1)) * D, done, mask=mask)


@triton.jit(do_not_specialize=["num_frames", "num_chunks"])
def correlate_kernel(
    x,
    dy,
    partial,
    num_frames,
    num_chunks,
    stride_b,
    STRIDE_T: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    FRAMES: tl.constexpr,
    CHUNK: tl.constexpr,
    BD: tl.constexpr,
):
    """Sum dy_btd times x_btd for each tap, and dy_btd itself, over a chunk into partial_p(K+1)d."""
    b = (tl.program_id(0) // num_chunks).to(tl.int64)
    begin = tl.program_id(0) % num_chunks * CHUNK
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    is_channel = d < D
    x += b * stride_b + (begin - K // 2) * STRIDE_T + d
    dy += (b * num_frames + begin) * D + d
    sums = ()
    for _ in tl.static_range(K):
        sums = sums + (tl.zeros((BD,), tl.float32),)
    total = tl.zeros((BD,), tl.float32)
    for step in range(tl.cdiv(tl.minimum(CHUNK, num_frames - begin), FRAMES)):
        start = begin + step * FRAMES
        grads = ()
        for at in tl.static_range(FRAMES + K - 1):
            if at < FRAMES:
                grad = _frame(dy + at * D, start + at, num_frames, d, D, BD)
                total += grad
                grads = grads + (grad,)
            row = _frame(x + at * STRIDE_T, start + at - K // 2, num_frames, d, D, BD)
            sums = _slide(sums, row, grads, at, K, FRAMES)
        x += FRAMES * STRIDE_T
        dy += FRAMES * D
    partial += tl.program_id(0).to(tl.int64) * (K + 1) * D
    for k in tl.static_range(K):
        tl.store(partial + k * D + d, sums[k], mask=is_channel)
    tl.store(partial + K * D + d, total, mask=is_channel)


def _stride_t(x_btd: Tensor) -> int:
    """The step from frame to frame, which the kernels have as a constant; a single frame has none."""
    return x_btd.stride(1) if x_btd.shape[1] > 1 else x_btd.shape[2]


def convolve(x_btd: Tensor, taps_kd: Tensor, bias_d: Tensor | None) -> Tensor:
    """Launch the convolution; y_btd is contiguous and of x_btd's type."""
    num_utts, num_frames, dim = x_btd.shape
    y_btd = x_btd.new_empty(x_btd.shape)
    blocks = triton.cdiv(num_frames, FRAMES)
    with torch.cuda.device_of(x_btd):  # Triton launches on the current device
        convolve_kernel[(num_utts * blocks, triton.cdiv(dim, CHANNELS))](
            x_btd,
            taps_kd,
            taps_kd if bias_d is None else bias_d,
            y_btd,
            num_frames,
            blocks,
            int(bias_d is not None),  # no constant: one kernel fewer to compile
            x_btd.stride(0),
            STRIDE_T=_stride_t(x_btd),
            D=dim,
            K=taps_kd.shape[0],
            FRAMES=FRAMES,
            BD=CHANNELS,
            num_warps=1,
        )
    return y_btd


def correlate(x_btd: Tensor, dy_btd: Tensor, kernel: int) -> Tensor:
    """Launch the sums over chunks and add them up: the gradients (K + 1, D), the last of the bias."""
    num_utts, num_frames, dim = x_btd.shape
    chunks = triton.cdiv(num_frames, CHUNK)
    channels = CHANNELS if kernel <= MOST_TAPS_OF_TWO else CHANNELS // 2
    partial_pkd = x_btd.new_empty((num_utts * chunks, kernel + 1, dim), dtype=torch.float32)
    with torch.cuda.device_of(x_btd):
        correlate_kernel[(num_utts * chunks, triton.cdiv(dim, channels))](
            x_btd,
            dy_btd,
            partial_pkd,
            num_frames,
            chunks,
            x_btd.stride(0),
            STRIDE_T=_stride_t(x_btd),
            D=dim,
            K=kernel,
            FRAMES=FRAMES,
            CHUNK=CHUNK,
            BD=channels,
            num_warps=1,
        )
    return partial_pkd.sum(0)
