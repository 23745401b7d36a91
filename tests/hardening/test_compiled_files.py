"""Commands under limits leave Python's compiled files alone; a damaged one is found."""

from __future__ import annotations

import importlib
import marshal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compiled_files import HEADER_BYTES, damaged_bytecode

from .conftest import limit_files, run_apart


@pytest.fixture
def fresh_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module that nobody imported yet."""
    (tmp_path / "never_imported.py").write_text("X = [number for number in range(40)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "never_imported"


def importing(name: str, before: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        before()
        importlib.import_module(name)

    return both


@pytest.mark.parametrize("kill", [False, True])
def test_a_command_under_a_limit_writes_no_bytecode(
    fresh_module: str, tmp_path: Path, kill: bool
) -> None:
    outcome = run_apart(["--version"], importing(fresh_module, limit_files(40, kill)))
    assert outcome.code == 0, outcome.error
    assert list(tmp_path.rglob("*.pyc")) == []


def test_damaged_bytecode_is_found(fresh_module: str, tmp_path: Path) -> None:
    """Oracle: the interpreter itself, which cannot import what is found and nothing else."""
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import "]
    words[-1] += fresh_module
    subprocess.run(words, check=True, env={"PYTHONPATH": ""})
    (compiled,) = tmp_path.rglob("*.pyc")
    assert list(damaged_bytecode([tmp_path])) == []
    whole = compiled.read_bytes()
    assert marshal.loads(whole[HEADER_BYTES:])
    for length in (0, 10, HEADER_BYTES, HEADER_BYTES + 1, 40, len(whole) - 1):
        compiled.write_bytes(whole[:length])
        assert list(damaged_bytecode([tmp_path])) == [compiled]
