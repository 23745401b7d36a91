"""Recipes run as a user runs them."""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import warm

ROOT = Path(__file__).parents[2]


def recipe(
    script: str, *words: object, check: bool = True, loads_anew: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a recipe's script.

    Args:
        loads_anew: its commands are the program as it is installed, which loads everything each time;
            else they run in forks of a process that has.
    """
    programs = [Path(sys.executable).parent]
    if not loads_anew:
        programs.insert(0, _warm_program())
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
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


@functools.cache
def _warm_program() -> Path:
    """The folder of a program `asr` whose server ends with the tests."""
    folder = tempfile.TemporaryDirectory(prefix="sigmoid-asr-warm-")
    path = Path(folder.name) / "socket"
    server = subprocess.Popen(
        [sys.executable, warm.__file__, path],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    warm.write_client(Path(folder.name), path)
    return Path(folder.name)
