"""``asr doctor`` in a process of its own, with a home folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def doctor(home: Path) -> str:
    packages = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-m", "asr.cli", "doctor"],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": packages},
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_it_says_where_the_engine_comes_from(tmp_path: Path) -> None:
    printed = doctor(tmp_path)
    (library,) = (tmp_path / ".cache" / "sigmoid_attention").iterdir()
    assert f"engine      C++ engine compiled, kept as {library}\n" in printed
    assert "attention   cpu sigmoid    blockwise  works" in printed
    library.write_bytes(bytes(library.stat().st_size))  # damaged: compiled again
    assert f"engine      C++ engine compiled, kept as {library}\n" in doctor(tmp_path)
    assert f"engine      C++ engine loaded from {library}\n" in doctor(tmp_path)
