"""Dropout that a CPU can afford."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes elements with probability ``rate`` and scales the rest so that the mean stays.

    PyTorch's CPU generator draws one number per element, which costs as much as the matrix product
    beside it. Here one 64-bit draw serves eight elements, a byte each, so on a CPU the rate is rounded
    to 1/256 (and the scale matches the rounded rate exactly). Elsewhere, and where a compiler fuses
    it with what is around, PyTorch's own.
    """

    def __init__(self, rate: float):
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rate = {rate}: must be at least 0 and below 1")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return nn.functional.dropout(x, self.rate, training=True)
        dropped = min(max(round(self.rate * 256), 1), 255)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
