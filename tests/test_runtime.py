"""Signals in the middle of computing damage nothing.

Kernels may use the stack pointer for other purposes, as those of oneDNN before 3.12 do for products over
more than some hundred columns: it points into the heap, and there the kernel of the operating system
writes the frame of a signal's handler (https://github.com/uxlfoundation/oneDNN/issues/4845).
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

STORM = """
    import signal, time
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    count = 0

    def handler(number, frame):
        global count
        count += 1

    signal.signal(signal.SIGALRM, handler)

    def storm(compute, seconds=3.0):
        wanted = [x.clone() for x in compute()]
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for got, want in zip(compute(), wanted, strict=True):
                assert torch.equal(got, want)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert count > 50, count
"""

WIDE_LINEAR = """
    from asr.nn.modules import FeedForward

    layer = FeedForward(192, 768, 0.0)
    x = torch.randn(3, 239, 192, requires_grad=True)

    def compute():
        y = layer(x, None)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]

    storm(compute)
"""

# the operator itself, which corrupts the heap within a second where a handler shares its stack
UNSAFE_OPERATOR = """
    from asr.runtime import prepare_cpu

    prepare_cpu(1)
    x, weight = torch.randn(717, 768), torch.randn(192, 768)
    storm(lambda: [torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no interval timers")
@pytest.mark.parametrize("program", [WIDE_LINEAR, UNSAFE_OPERATOR], ids=["layer", "operator"])
def test_signals_while_computing_damage_nothing(program: str) -> None:
    source = textwrap.dedent(STORM) + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
