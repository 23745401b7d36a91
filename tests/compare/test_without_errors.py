"""Sets without errors, without anything right, and without words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_experiments import sentences, write_decoded, write_experiment

from asr.cli import main
from asr.compare.compare import compare
from asr.compare.tables import format_markdown, format_terminal
from asr.decode.score import format_score, score_folder

WORDS_96 = [["w"] * 8 for _ in range(120)]  # 960 words


@pytest.mark.parametrize("num_speakers", [1, 4, 12])
def test_no_errors_in_960_words(num_speakers: int, tmp_path: Path) -> None:
    exps = [write_experiment(tmp_path / name) for name in "ab"]
    for exp in exps:
        write_decoded(exp, "test", 1e-12, references=WORDS_96, num_speakers=num_speakers)
    comparison = compare(exps)
    result = comparison.rows[0].sets["test"]
    assert (result.wer, result.method, result.counts.reference_words) == (0.0, "exact", 960)
    assert result.interval is not None
    # 1 - 0.025 ** (1 / 960)
    assert (result.interval.low, result.interval.high) == (0.0, pytest.approx(0.0038352, abs=1e-7))
    (difference,) = comparison.differences
    assert (difference.difference, difference.interval) == (0.0, None)
    for text in (format_terminal(comparison), format_markdown(comparison)):
        assert "0.00 [0.00, 0.38]" in text
        assert "Clopper-Pearson" in text


def test_nothing_right(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "a")
    write_decoded(exp, "test", 0.5, references=WORDS_96)
    path = exp / "decode" / "test" / "hypotheses.jsonl"
    lines = [json.loads(line) | {"hypothesis": ""} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    score_folder(path.parent)
    assert "100.00 [99.62, 100.00]" in format_terminal(compare([exp]))


def test_some_errors_keep_their_interval(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "a")
    write_decoded(exp, "test", 0.1, references=sentences(60))
    comparison = compare([exp])
    assert comparison.rows[0].sets["test"].method == "bootstrap"
    assert "Clopper" not in format_terminal(comparison)


@pytest.mark.parametrize("hypothesis", ["", "some words"])
def test_a_set_without_words_has_no_rate(hypothesis: str, tmp_path: Path) -> None:
    exps = [write_experiment(tmp_path / name) for name in "ab"]
    for exp in exps:
        write_decoded(exp, "test", 0.1, references=[[] for _ in range(12)])
        path = exp / "decode" / "test" / "hypotheses.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text(
            "".join(json.dumps(line | {"hypothesis": hypothesis}) + "\n" for line in lines)
        )
        score = score_folder(path.parent)
        content = json.loads((path.parent / "score.json").read_text())
        assert content["wer"] is None
        assert all(speaker["wer"] is None for speaker in content["speakers"].values())
        assert "0.00" not in format_score(score).splitlines()[-1].split()[:4]
        assert "WER - %" in (path.parent / "alignment.txt").read_text()
    comparison = compare(exps)
    result = comparison.rows[0].sets["test"]
    assert (result.wer, result.interval) == (None, None)
    assert comparison.differences == []
    out = tmp_path / "out"
    assert main(["compare", *map(str, exps), "--out", str(out), "--html", f"{out}/r.html"]) == 0
    assert "NaN" not in (out / "compare.json").read_text()
    assert "0.00 [" not in (out / "compare.md").read_text()
