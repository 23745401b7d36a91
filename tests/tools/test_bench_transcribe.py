"""The benchmark of `asr transcribe` runs, and judges what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asr import config
from asr.data.store.manifest import read_cuts
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import train_tokenizer

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


def bench(*words: object) -> str:
    """What the benchmark prints."""
    command = [sys.executable, "tools/bench_transcribe.py", *map(str, words), "--threads", "1"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    run = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    return run.stdout


@pytest.mark.slow  # processes that import everything, and the model of 18 million parameters
def test_speed_is_measured_and_judged(tmp_path: Path, tiny_corpus: Path) -> None:
    bench(
        "speed",
        "--minutes",
        0.1,
        0.2,
        "--cuts",
        tiny_corpus / "test.cuts.jsonl.gz",
        "--out",
        tmp_path / "result",
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


@pytest.mark.slow  # a process that imports everything
def test_joined_audio_is_compared_with_its_utterances(tmp_path: Path, tiny_corpus: Path) -> None:
    """An untrained model, whose words are noise; as many of it are timed as are written."""
    cfg = config.load([], ["encoder.num_layers=1", "encoder.dim=32", "tokenizer.kind=char"])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(tmp_path / "model", net.state_dict(), cfg, tokenizer)
    cuts = tiny_corpus / "test.cuts.jsonl.gz"
    printed = bench(
        "joined",
        "--model",
        tmp_path,
        "--cuts",
        cuts,
        "--pause-s",
        0,
        0.5,
        "--pause-db",
        -60,
        "none",
    )
    result = json.loads(printed)
    texts = [cut.supervisions[0].text for cut in read_cuts(cuts)]
    assert result["words"] == sum(len(text.split()) for text in texts)
    rows = result["joined"]
    assert [(row["pause_s"], row["pause_db"]) for row in rows] == [
        (0, None),
        (0.5, -60),
        (0.5, None),
    ]
    for row in rows:
        assert row["words_timed"] == row["words_in_text"]
        assert row["gap"] == pytest.approx(row["wer"] - result["wer_alone"], abs=0.011)
        wrong = sum(row["sub_del_ins"])
        assert row["wer"] == pytest.approx(100 * wrong / result["words"], abs=0.006)
