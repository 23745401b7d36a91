"""Depthwise convolution over time as Triton kernels, for CUDA: one multiply-add per tap and element.

The libraries' kernels treat it as a convolution in general and take several times as long, above all for
the gradient of the weights. Sums are in float32 and in a fixed order: the same bits on every run.

Shapes: b utterance, t frame, d channel, k tap; (b, t, d) with neighbouring channels.
"""

# Kernel code: its names are read by Triton's compiler, not by a type checker.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

FRAMES, CHANNELS = 64, 64
# Frames that one program sums up for the gradient of the weights.
SUMMED = 64


@triton.jit
def taps_kernel(
    x, weight_kd, bias, y, frames, dim,
    K: tl.constexpr, HAS_BIAS: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    real = d < dim
    total = tl.zeros([BT, BD], tl.float32)
    base = x + b * frames * dim + d
    for k in tl.static_range(K):
        at = t + (k - K // 2)
        w = tl.load(weight_kd + k * dim + d, mask=real, other=0.0).to(tl.float32)
        inside = (at >= 0) & (at < frames)
        value = tl.load(base + at[:, None] * dim, mask=inside[:, None] & real, other=0.0)
        total += value.to(tl.float32) * w
    if HAS_BIAS:
        total += tl.load(bias + d, mask=real, other=0.0).to(tl.float32)
    out = y + b * frames * dim + t[:, None] * dim + d
    tl.store(out, total.to(y.dtype.element_ty), mask=(t < frames)[:, None] & real)


@triton.jit
def weight_kernel(
    x, grad, partial, frames, dim,
    K: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """partial (b, pieces of t, BK, d): sums of grad[t] x[t + k - K // 2]; row K holds those of grad."""
    piece, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    k = tl.arange(0, BK)
    real = d < dim
    total = tl.zeros([BK, BD], tl.float32)
    base = b * frames * dim
    first = piece * SUM
    last = tl.minimum(first + SUM, frames)
    for t in range(first, last):
        g = tl.load(grad + base + t * dim + d[None, :], mask=real[None, :], other=0.0)
        at = t + k - K // 2
        inside = (at >= 0) & (at < frames) & (k < K)
        value = tl.load(
            x + base + at[:, None] * dim + d, mask=inside[:, None] & real, other=0.0
        ).to(tl.float32)
        total += tl.where((k == K)[:, None], 1.0, value) * g.to(tl.float32)
    out = partial + ((b * tl.num_programs(0) + piece) * BK + k[:, None]) * dim + d
    tl.store(out, total, mask=(k >= 0)[:, None] & real)


def _convolve(x_btd: Tensor, weight_dk: Tensor, bias_d: Tensor | None, back: bool) -> Tensor:
    batch, frames, dim = x_btd.shape
    y_btd = torch.empty_like(x_btd)
    weight_kd = (weight_dk.flip(1) if back else weight_dk).t().contiguous()
    grid = (triton.cdiv(frames, FRAMES), triton.cdiv(dim, CHANNELS), batch)
    if y_btd.numel():
        taps_kernel[grid](
            x_btd, weight_kd, x_btd if bias_d is None else bias_d, y_btd, frames, dim,
            K=weight_dk.shape[1], HAS_BIAS=bias_d is not None,
            BT=FRAMES, BD=CHANNELS, num_warps=4,
        )  # fmt: skip
    return y_btd


@torch.library.custom_op("asr::taps", mutates_args=())
def taps(x_btd: Tensor, weight_dk: Tensor, bias_d: Tensor) -> Tensor:
    """``y[t] = bias + sum over k of weight[k] x[t + k - K // 2]``, zeros beyond the ends."""
    return _convolve(x_btd.contiguous(), weight_dk, bias_d, back=False)


@taps.register_fake
def _(x_btd: Tensor, weight_dk: Tensor, bias_d: Tensor) -> Tensor:
    return torch.empty_like(x_btd, memory_format=torch.contiguous_format)


@torch.library.custom_op("asr::taps_backward", mutates_args=())
def taps_backward(grad_btd: Tensor, x_btd: Tensor, weight_dk: Tensor) -> list[Tensor]:
    """Gradients of x, in its type, and of weight and bias, in float32."""
    grad_btd, x_btd = grad_btd.contiguous(), x_btd.contiguous()
    batch, frames, dim = x_btd.shape
    taps_k = weight_dk.shape[1]
    rows, pieces = triton.next_power_of_2(taps_k + 1), triton.cdiv(frames, SUMMED)
    partial = torch.empty(batch, pieces, rows, dim, dtype=torch.float32, device=x_btd.device)
    if partial.numel():
        weight_kernel[(pieces, triton.cdiv(dim, CHANNELS), batch)](
            x_btd, grad_btd, partial, frames, dim,
            K=taps_k, BK=rows, BD=CHANNELS, SUM=SUMMED, num_warps=4,
        )  # fmt: skip
    summed_kd = partial.sum((0, 1))
    grad_x_btd = _convolve(grad_btd, weight_dk, None, back=True)
    return [grad_x_btd, summed_kd[:taps_k].t().contiguous(), summed_kd[taps_k].clone()]


@taps_backward.register_fake
def _(grad_btd: Tensor, x_btd: Tensor, weight_dk: Tensor) -> list[Tensor]:
    dim, taps_k = weight_dk.shape
    return [
        torch.empty_like(x_btd, memory_format=torch.contiguous_format),
        x_btd.new_empty(dim, taps_k, dtype=torch.float32),
        x_btd.new_empty(dim, dtype=torch.float32),
    ]


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.types = inputs[1].dtype, inputs[2].dtype


def _grad(ctx: Any, grad_btd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x_btd, weight_dk = ctx.saved_tensors
    grad_x, grad_w, grad_b = torch.ops.asr.taps_backward(grad_btd, x_btd, weight_dk)
    return grad_x, grad_w.to(ctx.types[0]), grad_b.to(ctx.types[1])


taps.register_autograd(_grad, setup_context=_setup)
