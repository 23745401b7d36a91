"""The benchmark of long audio measures every length with every window and writes what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_long.py"


@pytest.mark.slow  # five processes that import everything
def test_every_length_is_measured_with_every_window(tmp_path: Path) -> None:
    # the program imports its neighbours in tools/, which a safe path hides
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    words = [*("--minutes", "0.1", "0.2"), *("--windows", "0", "8"), "--rounds", "1"]
    words += [*("--layers", "1"), *("--dim", "16"), "attention.weighting=softmax"]
    command = [sys.executable, str(TOOL), *words, "--out", str(tmp_path / "long")]
    subprocess.run(command, check=True, env=env, capture_output=True)
    content = json.loads((tmp_path / "long.json").read_text())
    (rows,) = content["rounds"]
    assert [(row["minutes"], row["window"]) for row in rows] == [
        *((0.1, 0), (0.1, 8), (0.2, 0), (0.2, 8))
    ]
    assert all(row["s"] > 0 for row in rows)
    assert "attention.weighting=softmax" in content["options"]
    page = (tmp_path / "long.md").read_text()
    assert page.count("\n| 0.1 |") == page.count("\n| 0.2 |") == 2
