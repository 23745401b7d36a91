"""Time the depthwise convolution over time on a GPU: our kernels beside PyTorch's, inside CUDA graphs.

    python tools/bench_depthwise.py --out depthwise.json
    TRITON_INTERPRET=1 python tools/bench_depthwise.py --rehearse

Prints JSON: milliseconds of the forward, of all gradients, and the largest error against float64
relative to the largest value, of y and the gradients of input, weight and bias.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from gpu_timing import Clock, Run
from measure import environment
from torch import Tensor, nn

from asr.nn.depthwise import depthwise_conv

TENSORS = ("y", "input", "weight", "bias")


def contenders(leaves: list[Tensor]) -> dict[str, Run]:
    """All from the same x_btd, weight_d11k, bias_d to y_btd; layouts are views."""
    x_btd, weight, bias = leaves
    dim, _, _, kernel = weight.shape

    def conv2d() -> Tensor:
        x_bd1t = x_btd.mT.unsqueeze(2)
        y = nn.functional.conv2d(x_bd1t, weight, bias, padding=(0, kernel // 2), groups=dim)
        return y.squeeze(2).mT

    def conv1d() -> Tensor:
        return nn.functional.conv1d(
            x_btd.mT, weight[:, :, 0], bias, padding=kernel // 2, groups=dim
        ).mT

    return {
        "ours": lambda: depthwise_conv(x_btd, weight, bias),
        "nn.Conv2d": conv2d,
        "nn.Conv1d": conv1d,
    }


def values(run: Run, leaves: list[Tensor], dy_btd: Tensor) -> list[Tensor]:
    y_btd = run()
    return [y_btd.detach(), *torch.autograd.grad(y_btd, leaves, dy_btd)]


def expected(leaves: list[Tensor], dy_btd: Tensor) -> list[Tensor]:
    doubled = [leaf.detach().double().requires_grad_() for leaf in leaves]
    return values(contenders(doubled)["nn.Conv1d"], doubled, dy_btd.double())


def errors(got: list[Tensor], exact: list[Tensor]) -> dict[str, float]:
    pairs = zip(TENSORS, got, exact, strict=True)
    return {
        name: float((mine - other).abs().max() / other.abs().max()) for name, mine, other in pairs
    }


def measure(shape: list[int], kernel: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    torch.manual_seed(0)
    b, t, d = shape
    sizes = ((b, t, d), (d, 1, 1, kernel), (d,), (b, t, d))
    *leaves, dy_btd = (torch.randn(size, device=device).to(dtype) for size in sizes)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    clock, rows = Clock(device), {}
    exact = expected(leaves, dy_btd)
    for name, run in contenders(leaves).items():
        try:
            row: dict[str, Any] = {"error": errors(values(run, leaves, dy_btd), exact)}
            row["forward"] = clock.forward(run)
            row["gradients"] = clock.backward(run, leaves, dy_btd)
        except (RuntimeError, NotImplementedError) as problem:
            row = {"refused": str(problem)[:200]}
        rows[name] = row
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--shape", type=int, nargs=3, default=[63, 350, 512], metavar=("B", "T", "D")
    )
    parser.add_argument("--kernel", type=int, default=31)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    args = parser.parse_args()
    if args.rehearse:
        args.shape, args.kernel, args.dtype = [2, 20, 16], 7, "float16"
    device = "cpu" if args.rehearse else "cuda"
    found = {
        "environment": environment("python tools/bench_depthwise.py", ("torch", "triton")),
        "gpu": "rehearsal on the CPU" if args.rehearse else torch.cuda.get_device_name(),
        "shape_btd": args.shape,
        "kernel": args.kernel,
        "dtype": args.dtype,
        "rows": measure(args.shape, args.kernel, getattr(torch, args.dtype), device),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
