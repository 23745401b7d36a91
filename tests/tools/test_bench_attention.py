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


def test_verdicts_compare_the_rows_that_the_gates_name(monkeypatch):
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    import bench_gates
    from bench_contenders import Shape
    from bench_report import Result, Row

    def row(name, forward_ms, total_ms, extra_mb=1.0):
        return Row(name, forward_ms, total_ms, 0.0, 0.0, 0.0, extra_mb)

    small = [
        row("sdpa flash softmax", 10.0, 20.0),
        row("full matrix sigmoid", 8.0, 40.0),
        row("blockwise (c++) sigmoid none", 9.2, 23.1),
        row("blockwise (c++) sigmoid relative", 24.0, 23.1),
    ]
    longest = [row("blockwise (c++) sigmoid none", 1.0, 1.0, extra_mb=64.5)]
    results = [
        Result(Shape(8, 4, 250, 64), small, {}),
        Result(Shape(1, 1, 16384, 64), longest, {}),
        Result(Shape(1, 1, 100, 64), small, {}),  # no bound is set here
    ]
    found = {(round(v.value, 3), v.most): v.holds for v in bench_gates.verdicts(results)}
    assert found == {
        (1.15, 1.15): True,  # forward, to the full matrix
        (1.155, 1.15): False,  # with the backward, to softmax
        (2.609, 2.5): False,  # Transformer-XL, forward
        (1.0, 2.5): True,
        (64.5, 64.0): False,
    }
    missed = [line for line in bench_gates.lines(results) if line.startswith("MISSED: ")]
    assert len(missed) == 3


def test_a_gate_without_all_its_figures_is_not_judged(monkeypatch):
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    import bench_gates
    from bench_contenders import Shape
    from bench_report import Result, Row

    def row(name, total_ms, extra_mb=1.0):
        return Row(name, 4.0, total_ms, 0.0, None, 0.0, extra_mb)

    ours, softmax, full = (
        "blockwise (c++) sigmoid none",
        "sdpa flash softmax",
        "full matrix sigmoid",
    )
    both = f"{ours}, forward + backward, at (8, 4, 250, 64)"
    for rows, lacking in (
        ([row(ours, 5.0), row(softmax, 6.0)], full),
        ([row(ours, 5.0), row(softmax, 6.0), row(full, None)], full),
        ([row(ours, None), row(softmax, 6.0), row(full, 5.0)], ours),
    ):
        found = bench_gates.lines([Result(Shape(8, 4, 250, 64), rows, {})])
        assert f"not judged: {both}: no figure of {lacking}" in found
    longest = Result(Shape(1, 1, 16384, 64), [row(ours, 5.0, float("nan"))], {})
    assert bench_gates.lines([longest]) == [
        f"not judged: {ours}, extra memory, at (1, 1, 16384, 64): no figure of {ours}"
    ]
