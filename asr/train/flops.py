"""Floating-point operations of training, for model FLOPs utilisation (Chowdhery et al. 2022,
arXiv 2204.02311, appendix B); docs/training.md has the formula."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Dense bf16 operations per second that the manufacturer states, by a word of the device's name.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
}

# A backward pass computes two products of matrices for each one of the forward pass.
TRAINING_OVER_FORWARD = 3.0


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass, padding not counted.

    per_sample          linear and convolutional layers, per audio sample
    per_squared_sample  attention's two products, per pair of samples that see each other
    sides               samples that a sample sees before and after itself
    """

    per_sample: float
    per_squared_sample: float
    sides: tuple[float, float] = (math.inf, math.inf)

    def training(self, wave_lens_b: Tensor) -> float:
        """Forward and backward of utterances of these lengths (on the host)."""
        lens_b = wave_lens_b.double()
        pairs_b = lens_b.square()
        for side in self.sides:  # beyond it lies a triangle of pairs
            pairs_b = pairs_b - (lens_b - side).clamp(min=0).square() / 2
        forward = self.per_sample * lens_b.sum() + self.per_squared_sample * pairs_b.sum()
        return TRAINING_OVER_FORWARD * float(forward)


def peak_flops(device: torch.device) -> float | None:
    """Return the device's peak rate, None where that is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for word, peak in PEAKS.items() if word in name), None)


@contextmanager
def count_layers(net: nn.Module) -> Iterator[list[float]]:
    """While in here each forward pass of a linear or convolutional layer adds its operations: every
    weight is multiplied and added once per output position. Compiled layers are computed as if they
    were not: compiled code would not see the hooks, or be compiled anew for each number counted."""
    counted = [0.0]

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        weight = module.get_parameter("weight")
        positions = output.numel() / weight.shape[0]
        counted[0] += 2.0 * weight.numel() * positions

    layers = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield counted
    finally:
        for handle in handles:
            handle.remove()
