"""Memory linear in time: what the full matrix would take is never there."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, sys, torch
from sigmoid_attention import Weighting, attend, dispatch
if sys.argv[1] == "torch":
    dispatch._engine = lambda *_: "torch"
torch.set_num_threads(1)

def peak_kb(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(name))

def step(frames):
    x = torch.randn(1, 1, frames, 64, requires_grad=True)
    attend(x, x, x, weighting=Weighting.sigmoid(), backend="blockwise").sum().backward()

step(256)
ctypes.CDLL(None).malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")
before = peak_kb("VmRSS")
step(int(sys.argv[2]))
print((peak_kb("VmHWM") - before) / 1e3)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("engine", ["c++", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("frames", [4096, pytest.param(16384, marks=pytest.mark.slow)])
def test_extra_memory_of_forward_and_backward(engine, frames):
    command = [sys.executable, "-c", PROGRAM, engine, str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    # The matrix alone is 67 MB at 4096 frames and 1074 MB at 16384.
    assert float(done.stdout) < 64.0
