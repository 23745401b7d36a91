"""The rate that attention cannot exceed on this machine, for bench_attention.py.

On the CPU the larger of two measurements: matrix products of several shapes, and multiply-adds on
registers alone (roof.cpp), since a library's product need not reach what the processor can do.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from sigmoid_attention import cpp_build

CPU_SIZES = (768, 1024, 1536)
CUDA_SIZES = (4096, 8192, 16384)
FUSED_STEPS = 20_000_000


class Roof:
    """The best rate seen by any of its measurements, in TFLOP/s."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.best_tflops = 0.0
        self.fused = _library() if device == "cpu" and dtype == torch.float32 else None

    def measure(self) -> None:
        """Once more; called between the shapes, so that a busy moment does not lower the roof."""
        for size in CUDA_SIZES if self.device == "cuda" else CPU_SIZES:
            a = torch.randn(size, size, device=self.device, dtype=self.dtype)
            torch.mm(a, a)
            for _ in range(3):
                self._keep(2.0 * size**3, lambda a=a: torch.mm(a, a))  # type: ignore[misc]
        if self.fused is not None:
            threads = torch.get_num_threads()
            flops = self.fused.multiply_adds(threads, 1000)  # the threads start here
            for _ in range(3):
                start = time.perf_counter()
                flops = self.fused.multiply_adds(threads, FUSED_STEPS)
                self._seen(flops / (time.perf_counter() - start))

    def _keep(self, flops: float, step) -> None:  # type: ignore[no-untyped-def]
        self._wait()
        start = time.perf_counter()
        step()
        self._wait()
        self._seen(flops / (time.perf_counter() - start))

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _seen(self, flops_per_s: float) -> None:
        self.best_tflops = max(self.best_tflops, flops_per_s / 1e12)


def _library() -> ctypes.CDLL | None:
    """roof.cpp compiled as the CPU engine is; None where that has no compiler either."""
    if cpp_build.library() is None:
        return None
    source = Path(__file__).with_name("roof.cpp")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "roof.so"
        command = cpp_build.command(source, built)
        subprocess.run(command, check=True, capture_output=True, timeout=cpp_build.TIMEOUT_S)
        loaded = ctypes.CDLL(str(built))
    loaded.multiply_adds.argtypes = [ctypes.c_int64, ctypes.c_int64]
    loaded.multiply_adds.restype = ctypes.c_double
    return loaded
