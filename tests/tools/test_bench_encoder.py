"""The benchmark of encoders runs, and counts what it says it counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # three processes that import everything
def test_both_tables_are_written(tmp_path: Path) -> None:
    command = [sys.executable, "tools/bench_encoder.py", "--only", "ours sigmoid relative"]
    command += ["--layers", "1", "--threads", "1", "--batch", "2", "--length", "24"]
    command += ["--rounds", "2", "--measure", "forward", "total", "update"]
    command += ["--lengths", "40", "4000", "--rounds-by-length", "1", "--memory-gb", "0.05"]
    command += ["--out", str(tmp_path / "result")]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    result = json.loads((tmp_path / "result.json").read_text())
    (row,) = result["tables"][0]["rows"]
    d, ff, kernel = 256, 1024, 31
    attention = 4 * (d * d + d) + d * d + 2 * d
    convolution = 3 * (d * d + d) + (kernel + 1) * d + 4 * d
    feed_forwards = 2 * (2 * d * ff + ff + d + 2 * d)
    # and the norms of attention and of the layer
    assert row["parameters"] == attention + convolution + feed_forwards + 4 * d
    for what in ("forward", "total", "update"):
        assert len(row[what]["times_ms"]) == 2
        assert row[what]["ratio"] == {"low": 1, "median": 1, "high": 1}  # nobody else ran
    short, long = result["by_length"]
    assert 0 < short["rows"][0]["peak_mb"] < 50
    assert long["rows"] == []
    assert "update" not in short["rows"][0]
    page = (tmp_path / "result.md").read_text()
    assert page.count("| ours sigmoid relative | relative | 1.6M |") == 2
    # 4000 frames of 1024 channels are 16 MB, and a layer keeps many of those
    assert "Could not run: ours sigmoid relative: takes more than 0.05 GB." in page

    again = [*command, "--add"]
    again[again.index("4000")] = "50"
    subprocess.run(again, cwd=ROOT, env=env, check=True, capture_output=True)
    added = json.loads((tmp_path / "result.json").read_text())
    assert added["tables"] == result["tables"]
    assert [table["length"] for table in added["by_length"]] == [40, 50, 4000]
    assert added["by_length"][2] == long
    assert added["by_length"][0]["environment"]["command"].endswith("--add")
    assert (tmp_path / "result.md").read_text().count("Measured by itself") == 2
