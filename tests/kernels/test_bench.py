"""The benchmark program runs, checks what it times, and says what it could not run."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "tools" / "bench_attention.py"


def test_small_run_writes_json_markdown_and_plot(tmp_path):
    shapes = ["--shapes", "1,2,40,16", "2,1,33,16"]
    options = [*shapes, "--repeats", "2", "--threads", "1", "--no-flex"]
    command = [sys.executable, str(PROGRAM), *options, "--out", str(tmp_path / "attention")]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, timeout=200, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads((tmp_path / "attention.json").read_text())
    assert [result["shape"]["t"] for result in written["results"]] == [40, 33]
    for result in written["results"]:
        rows = {row["name"]: row for row in result["rows"]}
        assert {"sdpa flash softmax", "full matrix sigmoid"} <= rows.keys()
        for row in rows.values():
            assert len(row["times_forward"]) == len(row["times_total"]) == 2
            assert row["relative_error"] < 1e-5
            assert 0 < row["forward_tflops"] < written["roof_tflops"]
        for position in ("none", "alibi", "table", "relative"):
            assert any(name.endswith(f"sigmoid {position}") for name in rows)
        assert "sdpa cudnn softmax" in result["could_not_run"]
    assert "sdpa cudnn softmax (40, 33 frames)" in (tmp_path / "attention.md").read_text()
    assert (tmp_path / "attention.png").stat().st_size > 1000
