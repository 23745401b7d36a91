"""Tests in Triton's interpreter: a process of its own, so that nothing else is affected."""

import ast
from pathlib import Path

import pytest
import sigmoid_attention
from interpreter import run_in_interpreter

from .unproven import ASSEMBLY

pytest.importorskip("triton")
KERNELS = Path(sigmoid_attention.__file__).with_name("triton")
TESTS = Path(__file__).with_name("test_triton.py")
BACKWARD = TESTS.with_name("test_triton_backward.py")
SOFTMAX = TESTS.with_name("test_triton_softmax.py")


def test_interpreted():
    run_in_interpreter("not slow", TESTS)


def test_softmax_interpreted():
    run_in_interpreter("not slow and not gpu", SOFTMAX)


def test_backward_interpreted():
    run_in_interpreter("not slow and not gpu", BACKWARD)


@pytest.mark.slow
def test_interpreted_full():
    run_in_interpreter("slow", TESTS, SOFTMAX)


def test_the_list_of_what_is_not_proven_names_all_assembly():
    found = set()
    for path in KERNELS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "inline_asm" in ast.unparse(node):
                found.add(node.name)
    assert found == set(ASSEMBLY)
