"""Triton's interpreter, which must be chosen before triton is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def run_in_interpreter(selection: str, *tests: Path | str) -> None:
    """Run tests in a process of its own, so that nothing else is affected; they must pass.

    Args:
        selection: pytest's ``-m``.
        tests: files and further options of pytest.
    """
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), *sys.path]))
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", selection]
    done = subprocess.run([*command, *map(str, tests)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout
