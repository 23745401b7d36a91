"""Every kernel once, small, for compute-sanitizer: which names the accesses that are out of bounds.

compute-sanitizer --tool memcheck --error-exitcode 9 python tools/gpu_sanitize.py [PART ...]

A part is a position (`none`, `alibi`, `table`, `relative`: sigmoid and softmax, with and without
lengths, 64 and 128 channels) or `depthwise`; without one, all.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import gpu_cases
import torch

from asr.nn import depthwise

POSITIONS = ("none", "alibi", "table", "relative")


def attention(position: str, frames: int) -> None:
    dims = (64, 128) if gpu_cases.DEVICE == "cuda" else (16,)
    for d, weighting, mask in itertools.product(dims, ("sigmoid", "softmax"), ("lens", "none")):
        case: dict[str, Any] = {"dtype": "bfloat16", "d": d, "shift": "visible", "strided": False}
        case |= {"position": position, "mask": mask, "queries": frames, "keys": frames}
        case |= {"map": weighting, "name": f"sanitize {position} {mask}"}
        inputs = gpu_cases.make(case)
        do = torch.randn(inputs.leaves["q"].shape, device=gpu_cases.DEVICE).to(torch.bfloat16)
        got = inputs.run(inputs.leaves, "triton", do)
        ok = all(torch.isfinite(x).all() for x in got.values())
        told = "finite" if ok else "NOT FINITE"
        print(f"{position} d{d} {weighting} {mask}: ran, {told}", flush=True)


def convolution(frames: int) -> None:
    """Both kernels, whose last block of channels and last chunk of frames are not full."""
    for kernel in (31, 15):
        x_btd = torch.randn(2, frames, 90, device=gpu_cases.DEVICE, requires_grad=True)
        taps_d11k = torch.randn(90, 1, 1, kernel, device=gpu_cases.DEVICE, requires_grad=True)
        bias_d = torch.randn(90, device=gpu_cases.DEVICE, requires_grad=True)
        depthwise.depthwise_conv(x_btd, taps_d11k, bias_d).square().sum().backward()
        grads = [x.grad for x in (x_btd, taps_d11k, bias_d)]
        ok = all(grad is not None and grad.isfinite().all() for grad in grads)
        print(f"depthwise {kernel}: ran, {'finite' if ok else 'NOT FINITE'}", flush=True)


def main() -> None:
    frames = 200 if gpu_cases.DEVICE == "cuda" else 20
    for part in sys.argv[1:] or [*POSITIONS, "depthwise"]:
        if part == "depthwise":
            convolution(frames)
        else:
            attention(part, frames)


if __name__ == "__main__":
    main()
