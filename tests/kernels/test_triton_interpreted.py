"""Tests in Triton's interpreter: a process of its own, so that nothing else is affected."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sigmoid_attention

from .unproven import ASSEMBLY

pytest.importorskip("triton")
KERNELS = Path(sigmoid_attention.__file__).with_name("triton")
TESTS = Path(__file__).with_name("test_triton.py")
BACKWARD = TESTS.with_name("test_triton_backward.py")
SOFTMAX = TESTS.with_name("test_triton_softmax.py")
LAYERS = Path(__file__).parents[1] / "nn" / "test_compile.py"


def run(selection, *tests):
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), *sys.path]))
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", selection]
    done = subprocess.run([*command, *map(str, tests)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)


def test_interpreted():
    run("not slow", TESTS)


def test_softmax_interpreted():
    run("not slow and not gpu", SOFTMAX)


def test_backward_interpreted():
    run("not slow and not gpu", BACKWARD)


def test_whole_layers_compile_around_the_kernels():
    run("not slow", LAYERS, "-k", "triton")


@pytest.mark.slow
def test_interpreted_full():
    run("slow", TESTS, SOFTMAX)


def test_the_list_of_what_is_not_proven_names_all_assembly():
    found = set()
    for path in KERNELS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "inline_asm" in ast.unparse(node):
                found.add(node.name)
    assert found == set(ASSEMBLY)
