"""Recipes run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def recipe(script: str, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [ROOT / "recipes" / script, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert not check or run.returncode == 0, run.stdout + run.stderr
    return run
