"""Fewer bits for speed: dynamic int8 on a CPU, bfloat16 on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr.errors import InputError
from asr.search.options_checks import shown, word

PRECISIONS = ("fp32", "int8", "bf16")


def check_precision(precision: str, device: torch.device) -> None:
    """
    Raises:
        InputError: no such precision, or not on this device.
    """
    if word("precision", precision) not in PRECISIONS:
        raise InputError(f"precision {shown(precision)}: choose one of {', '.join(PRECISIONS)}")
    needed = {"int8": "cpu", "bf16": "cuda"}.get(precision, device.type)
    if device.type != needed:
        raise InputError(f"precision {precision} runs on {needed}, the device is {device.type}")


class Int8Linear(nn.Module):
    """A linear layer with weights in 8 bits, scaled for each output channel; inputs become 8 bits by
    their own range in each call (dynamic quantisation)."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight_oi = linear.weight.detach().float()
        scale_o = weight_oi.abs().amax(1).clamp(min=1e-12) / 127
        zero_o = torch.zeros(len(scale_o), dtype=torch.int64)
        quantised_oi = torch.quantize_per_channel(weight_oi, scale_o, zero_o, 0, torch.qint8)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self._packed = torch.ops.quantized.linear_prepack(quantised_oi, bias)

    def forward(self, x: Tensor) -> Tensor:
        # 7 bits of the input: sums of two products stay within 16 bits on CPUs that need it
        out: Tensor = torch.ops.quantized.linear_dynamic(x, self._packed, reduce_range=True)
        return out


def quantise(module: nn.Module) -> None:
    """Replace every linear layer within ``module`` by its int8 form; convolutions stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            quantise(child)
