"""Depthwise convolution over time: a module that chooses among PyTorch's kernels and our own.

On the CPU in float32 it exchanges which of PyTorch's kernels computes what. On NVIDIA's GPUs, where
channels lie next to each other, cuDNN and PyTorch take 8 to 20 times what reading and writing takes;
there Triton kernels serve (``ENABLED = False`` leaves all to PyTorch). They are two operators, so that
torch.compile takes each as one node: the convolution, which with its taps reversed is the gradient of
its input too, and the gradients of taps and bias, summed in two passes and so in a fixed order.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.grad import conv2d_weight

ENABLED = True
MOST_TAPS = 63  # their sums are in registers, and kernels are unrolled over them
TYPES = (torch.bfloat16, torch.float16, torch.float32)
# Triton builds its launchers with a C compiler; on other makers' GPUs the kernels have not been tried.
_CAN_LAUNCH = (
    importlib.util.find_spec("triton") is not None
    and torch.version.hip is None
    and (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")) is not None
)


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution over time, (b, d, 1, t) -> (b, d, 1, t), an odd kernel, zeros beyond the
    ends. Fast where the channels lie next to each other in memory, as in a transposed (b, t, d).

    Two-dimensional with a height of 1, since PyTorch's CPU kernel is three times as fast that way. The
    gradient of the weights is four times as fast with height and width exchanged, and that of the
    input is a convolution with the kernel reversed. On CUDA see ``depthwise_conv``.
    """

    def __init__(self, dim: int, kernel: int):
        if kernel % 2 == 0:
            raise ValueError(f"kernel = {kernel}: must be odd, or frames would move")
        super().__init__(dim, dim, (1, kernel), padding=(0, kernel // 2), groups=dim)

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cuda" and input.dim() == 4 and input.shape[2] == 1:
            x_btd = input.squeeze(2).mT
            if serves(x_btd, self.weight):
                y_btd = depthwise_conv(x_btd, self.weight, self.bias)
                return y_btd.mT.unsqueeze(2)
        if not _plain_float32_on_cpu(input):
            return super().forward(input)
        y: Tensor = _DepthwiseOverTime.apply(input, self.weight, self.bias)
        return y


class _DepthwiseOverTime(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_bd1t: Tensor, weight_d11k: Tensor, bias_d: Tensor) -> Tensor:
        ctx.save_for_backward(x_bd1t, weight_d11k)
        return _depthwise(x_bd1t, weight_d11k, bias_d)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_bd1t,) = grads
        x_bd1t, weight_d11k = ctx.saved_tensors
        dim, _, _, kernel = weight_d11k.shape
        grad_weight_d1k1 = conv2d_weight(
            x_bd1t.mT, (dim, 1, kernel, 1), grad_bd1t.mT, padding=(kernel // 2, 0), groups=dim
        )
        return (
            _depthwise(grad_bd1t, weight_d11k.flip(-1), None),
            grad_weight_d1k1.mT,
            grad_bd1t.sum((0, 2, 3)),
        )


def _depthwise(x_bd1t: Tensor, weight_d11k: Tensor, bias_d: Tensor | None) -> Tensor:
    dim, _, _, kernel = weight_d11k.shape
    return nn.functional.conv2d(x_bd1t, weight_d11k, bias_d, padding=(0, kernel // 2), groups=dim)


def _plain_float32_on_cpu(x: Tensor) -> bool:
    return (
        # the compiler chooses kernels itself, and cannot trace what follows
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


def serves(x_btd: Tensor, weight_d11k: Tensor) -> bool:
    """Tell whether ``depthwise_conv`` takes these: on CUDA, channels adjacent, not too many taps."""
    return (
        ENABLED
        and x_btd.device.type == "cuda"
        and _CAN_LAUNCH
        and x_btd.dim() == 3
        and x_btd.stride(2) == 1
        and weight_d11k.shape[3] <= MOST_TAPS
        and x_btd.dtype in TYPES
        and weight_d11k.dtype in TYPES
        and (torch.is_autocast_enabled("cuda") or x_btd.dtype == weight_d11k.dtype)
        and not _has_tangent(x_btd, weight_d11k)
    )


def _has_tangent(*tensors: Tensor) -> bool:
    """Tell whether forward-mode derivatives are asked for, which an operator drops without a word."""
    if torch.compiler.is_compiling():
        return False
    return any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def depthwise_conv(x_btd: Tensor, weight_d11k: Tensor, bias_d: Tensor | None) -> Tensor:
    """Convolve each channel over time with zeros beyond the ends; (b, t, d) of the input's type.

    Under autocast, input, weight and bias are cast as nn.Conv2d casts them, and so are the gradients.
    """
    device = x_btd.device.type
    if torch.is_autocast_enabled(device):
        x_btd = x_btd.to(torch.get_autocast_dtype(device))
    taps_kd = weight_d11k[:, 0, 0].to(x_btd.dtype).t().contiguous()
    bias_d = None if bias_d is None else bias_d.to(x_btd.dtype)
    return _convolve(x_btd, taps_kd, bias_d)


@torch.library.custom_op("sigmoid_asr::depthwise", mutates_args=())
def _convolve(x_btd: Tensor, taps_kd: Tensor, bias_d: Tensor | None) -> Tensor:
    from asr.nn import depthwise_triton  # triton is imported where it is used and nowhere else

    if x_btd.numel() == 0:
        return x_btd.new_empty(x_btd.shape)
    return depthwise_triton.convolve(_adjacent(x_btd), taps_kd.contiguous(), bias_d)


@torch.library.custom_op("sigmoid_asr::depthwise_weight_grad", mutates_args=())
def _correlate(x_btd: Tensor, dy_btd: Tensor, kernel: int) -> Tensor:
    """Gradients (kernel + 1, d) in float32: of each tap, and of the bias."""
    from asr.nn import depthwise_triton

    if x_btd.numel() == 0:
        return x_btd.new_zeros((kernel + 1, x_btd.shape[2]), dtype=torch.float32)
    return depthwise_triton.correlate(_adjacent(x_btd), dy_btd.contiguous(), kernel)


def _adjacent(x_btd: Tensor) -> Tensor:
    return x_btd if x_btd.stride(2) == 1 else x_btd.contiguous()


@_convolve.register_fake
def _fake_convolve(x_btd: Tensor, taps_kd: Tensor, bias_d: Tensor | None) -> Tensor:
    return x_btd.new_empty(x_btd.shape)


@_correlate.register_fake
def _fake_correlate(x_btd: Tensor, dy_btd: Tensor, kernel: int) -> Tensor:
    return x_btd.new_empty((kernel + 1, x_btd.shape[2]), dtype=torch.float32)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x_btd, taps_kd, bias_d = inputs
    ctx.save_for_backward(x_btd, taps_kd)
    ctx.bias_type = None if bias_d is None else bias_d.dtype


def _grad(ctx: Any, dy_btd: Tensor) -> tuple[Tensor | None, ...]:
    x_btd, taps_kd = ctx.saved_tensors
    needs_x, needs_taps, needs_bias = ctx.needs_input_grad
    kernel = taps_kd.shape[0]
    dx_btd = _convolve(dy_btd.contiguous(), taps_kd.flip(0), None) if needs_x else None
    if not (needs_taps or needs_bias):
        return dx_btd, None, None
    sums_kd = _correlate(x_btd, dy_btd.contiguous(), kernel)
    dtaps_kd = sums_kd[:kernel].to(taps_kd.dtype) if needs_taps else None
    dbias_d = sums_kd[kernel].to(ctx.bias_type) if needs_bias else None
    return dx_btd, dtaps_kd, dbias_d


def _no_second_grad(ctx: Any, *grads: Any) -> None:
    raise NotImplementedError("second derivatives of the fused depthwise convolution's weights")


_convolve.register_autograd(_grad, setup_context=_setup)
# Without a formula PyTorch takes the gradients for constants and gives 0.
_correlate.register_autograd(_no_second_grad)
