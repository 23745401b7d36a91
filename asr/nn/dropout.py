"""Dropout whose random numbers cost little: on a CPU, and where a compiler fuses it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes elements with probability ``rate`` and scales the rest so that the mean stays.

    PyTorch draws a number per element from a counter-based generator, which on a CPU costs as much as
    the matrix product beside it, and in a compiled kernel more than reading and writing the element.
    Here one 64-bit draw serves eight elements on a CPU, a byte each, so the rate is rounded to 1/256
    (and the scale matches the rounded rate exactly). Where torch.compile fuses it with what is around,
    the number is a hash of the element's place and of two words drawn per call, 31 bits of it, which the
    gradient computes once more instead of reading a mask. Elsewhere, PyTorch's own.
    """

    def __init__(self, rate: float):
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rate = {rate}: must be at least 0 and below 1")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        if torch.compiler.is_compiling():
            return torch.where(hashed(x, self.rate), x * (1.0 / (1.0 - self.rate)), 0.0)
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.rate, training=True)
        dropped = min(max(round(self.rate * 256), 1), 255)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def hashed(x: Tensor, rate: float) -> Tensor:
    """Draw which elements of x stay: True with probability ``1 - rate``, in x's shape."""
    words = torch.randint(-(2**31), 2**31, (2,), dtype=torch.int64, device=x.device).int()
    place = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
    return mixed(place, words[0], words[1]) & 0x7FFFFFFF >= round(rate * 2**31)


def mixed(place: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Mix the bits of 32-bit places and of two words: two multiplications between three shifts (the
    constants are C. Wellons' "lowbias32", hash-prospector, 2018). The second word enters between, or
    the numbers of one call would be those of another in another order."""
    bits = place ^ first
    bits = (bits ^ _right(bits, 16)) * 0x7FEB352D ^ second
    bits = (bits ^ _right(bits, 15)) * (0x846CA68B - 2**32)
    return bits ^ _right(bits, 16)


def _right(bits: Tensor, count: int) -> Tensor:
    """Shift right and fill with zeros; PyTorch fills with the sign."""
    return bits >> count & (2 ** (32 - count) - 1)
