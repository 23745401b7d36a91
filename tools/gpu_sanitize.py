"""Every kernel once, small, for compute-sanitizer: which names the accesses that are out of bounds.

    compute-sanitizer --tool memcheck --error-exitcode 9 python tools/gpu_sanitize.py
"""

from __future__ import annotations

import sys
from typing import Any

import gpu_cases
import torch


def main() -> None:
    positions = sys.argv[1:] or ["none", "alibi", "table", "relative"]
    frames = 200 if gpu_cases.DEVICE == "cuda" else 20
    for position in positions:
        for mask in ("lens", "none"):
            case: dict[str, Any] = {"dtype": "bfloat16", "d": 64, "shift": "visible", "strided": False}
            case |= {"position": position, "mask": mask, "queries": frames, "keys": frames}
            inputs = gpu_cases.make({**case, "name": f"sanitize {position} {mask}"})
            do = torch.randn(inputs.leaves["q"].shape, device=gpu_cases.DEVICE).to(torch.bfloat16)
            got = inputs.run(inputs.leaves, "triton", do)
            ok = all(torch.isfinite(x).all() for x in got.values())
            print(f"{position} {mask}: ran, {'finite' if ok else 'NOT FINITE'}", flush=True)


if __name__ == "__main__":
    main()
