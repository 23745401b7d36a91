"""Linear layers and depthwise convolutions whose CPU paths in float32 are the fastest that PyTorch has.

Both are PyTorch's modules in every other respect: parameters, initialisation, names, other devices and
types. What is exchanged is which of PyTorch's own kernels computes them. On CUDA the depthwise
convolution has kernels of our own, which `depthwise.ENABLED` turns on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from asr.nn import depthwise


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


class Linear(nn.Linear):
    """``nn.Linear`` by oneDNN instead of MKL. At a width of 256 that takes 10 to 20 % less time forward
    and for the gradient of the input (AMD Zen 4; the gradient of the weights stays MKL's)."""

    def forward(self, input: Tensor) -> Tensor:
        if not _plain_float32_on_cpu(input):
            return super().forward(input)
        y: Tensor = _OnednnLinear.apply(input, self.weight, self.bias)
        return y


class _OnednnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_nd, x_nd = grad.flatten(0, -2), x.flatten(0, -2)
        return (
            _onednn_linear(grad, weight.t(), None) if needs_x else None,
            grad_nd.t() @ x_nd if needs_weight else None,
            grad_nd.sum(0) if needs_bias else None,
        )


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # the operator that torch.compile puts in the place of F.linear
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution over time, (b, d, 1, t) -> (b, d, 1, t), an odd kernel, zeros beyond the
    ends. Fast where the channels lie next to each other in memory, as in a transposed (b, t, d).

    Two-dimensional with a height of 1, since PyTorch's CPU kernel is three times as fast that way. The
    gradient of the weights is four times as fast with height and width exchanged, and that of the
    input is a convolution with the kernel reversed. On CUDA see ``asr.nn.depthwise``.
    """

    def __init__(self, dim: int, kernel: int):
        if kernel % 2 == 0:
            raise ValueError(f"kernel = {kernel}: must be odd, or frames would move")
        super().__init__(dim, dim, (1, kernel), padding=(0, kernel // 2), groups=dim)

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cuda" and input.dim() == 4 and input.shape[2] == 1:
            x_btd = input.squeeze(2).mT
            if depthwise.serves(x_btd, self.weight):
                y_btd = depthwise.depthwise_conv(x_btd, self.weight, self.bias)
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
