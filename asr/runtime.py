"""The process: devices, threads, memory. Called once, at the start of a command."""

from __future__ import annotations

import ctypes
import faulthandler
import platform

import numpy as np
import torch

from asr.errors import InputError

# glibc's mallopt parameters, from malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def choose_device(name: str) -> torch.device:
    """``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r}: choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r}: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def prepare_cpu(num_threads: int = 0) -> None:
    """Set threads, denormals, a stack for signal handlers, and an allocator that keeps what it has.

    Call it from the main thread, which is the one that receives signals.

    glibc gives every freed tensor above 128 KB back to the kernel and takes it again a moment later,
    page fault by page fault; keeping it makes memory-bound layers 1.5 to 3 times as fast.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    # Kernels of oneDNN before 3.12 may point the stack pointer into the heap, where the frame of a
    # signal handler would overwrite whatever is there. Python's handlers run on the alternate stack
    # that the fault handler sets up (https://github.com/uxlfoundation/oneDNN/issues/4845).
    if not faulthandler.is_enabled():
        faulthandler.enable(file=2)
    # numpy computes its limits once, on first use, and warns where denormals are flushed by then
    for kind in (np.float32, np.float64):
        np.finfo(kind)
    # decayed weights and gradients end up denormal, and those are computed in microcode
    torch.set_flush_denormal(True)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 64 << 20)
