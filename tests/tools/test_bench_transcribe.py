"""The benchmark of `asr transcribe` runs, and judges what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_one_length_alone_is_judged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import bench_transcribe

    row = {"audio_s": 60.0, "wall_s": 0.6, "rtf": 0.01, "peak_mb": 800}
    rows = [{"input": "1 min joined", **row}, {"input": "6 utterances", **row, "rtf": 0.02}]
    judged = bench_transcribe.judged(rows)
    assert judged["rtf"] == 0.02
    assert judged["peak_mb"] == 800
    assert judged["s_per_further_hour"] == []
    assert "mb_from_last_but_one_to_last" not in judged


@pytest.mark.slow  # processes that import everything, and the model of 18 million parameters
def test_speed_is_measured_and_judged(tmp_path: Path, tiny_corpus: Path) -> None:
    command = [sys.executable, "tools/bench_transcribe.py", "speed", "--threads", "1"]
    command += ["--minutes", "0.1", "0.2", "--cuts", str(tiny_corpus / "test.cuts.jsonl.gz")]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run(
        [*command, "--out", str(tmp_path / "result")],
        cwd=ROOT,
        env=env,
        check=True,
        capture_output=True,
    )
    result = json.loads((tmp_path / "result.json").read_text())
    short, long, utterances = result["rows"]
    assert [short["audio_s"], long["audio_s"]] == [6.0, 12.0]
    assert utterances["input"] == "6 utterances"
    for row in result["rows"]:
        assert row["rtf"] == pytest.approx(row["wall_s"] / row["audio_s"], rel=0.1)
        assert 200 < row["peak_mb"] < 2048
    judged = result["judged"]
    assert judged["rtf"] == max(long["rtf"], utterances["rtf"])
    assert judged["rtf at most 0.03"] == (judged["rtf"] <= 0.03)
    assert judged["peak below 2048 MB"]
    expected = 600 * (long["wall_s"] - short["wall_s"])
    assert judged["s_per_further_hour"] == [pytest.approx(expected, abs=0.1)]
    assert "| 0.2 min joined | 12.0 |" in (tmp_path / "result.md").read_text()
    assert (tmp_path / "result.png").stat().st_size > 1000
