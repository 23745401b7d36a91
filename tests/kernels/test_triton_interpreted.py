"""test_triton.py in Triton's interpreter: a process of its own, so that nothing else is affected."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
TESTS = Path(__file__).with_name("test_triton.py")

# What the interpreter cannot run: inline assembly, switched by ASM in triton/device.py.
UNPROVEN = (
    "reciprocal: rcp.approx.ftz.f32 (its twin is 1 / x)",
    "exp2: ex2.approx.ftz.f32 (its twin is tl.exp2)",
    "tanh: tanh.approx.f32 (its twin is exact, so fast mode's error is not seen)",
    "anew: mov.b32 (its twin is the variable itself)",
    "bfloat16 inputs, and every matter of timing",
)


def run(selection):
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), *sys.path]))
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", selection]
    done = subprocess.run([*command, str(TESTS)], capture_output=True, text=True, env=env)
    print("not proven without a GPU:", *UNPROVEN, sep="\n    ")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)


def test_interpreted():
    run("not slow")


@pytest.mark.slow
def test_interpreted_full():
    run("slow")
