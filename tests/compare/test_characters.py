"""Character error rates: by hand, by jiwer, and in every place where word error rates are."""

from __future__ import annotations

import json
from pathlib import Path

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_experiments import write_decoded, write_experiment

from asr.cli import main
from asr.compare.compare import compare
from asr.compare.tables import format_markdown, format_terminal
from asr.decode.score import format_score, score_folder
from asr.wer import count_errors, edit_distance


@pytest.mark.parametrize(
    ("reference", "hypothesis", "distance"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("saturday", "sunday", 3),
        ("今天天气很好", "今天天汽好", 2),
        ("a" * 200, "a" * 199 + "b", 1),
    ],
)
def test_distances_by_hand(reference: str, hypothesis: str, distance: int) -> None:
    assert edit_distance(reference, hypothesis) == distance
    assert edit_distance(hypothesis, reference) == distance


texts = st.text("ab c天", max_size=150)


@given(texts, texts)
@settings(deadline=None)
def test_distances_are_those_of_word_alignment_and_of_jiwer(
    reference: str, hypothesis: str
) -> None:
    errors = count_errors(list(reference), list(hypothesis)).errors
    assert edit_distance(reference, hypothesis) == errors
    reference, hypothesis = (" ".join(text.split()) for text in (reference, hypothesis))
    if reference:
        expected = jiwer.cer(reference, hypothesis)
        found = edit_distance(reference, hypothesis) / len(reference)
        assert found == pytest.approx(expected)


CHINESE = [("今天天气很好", "今天天汽好"), ("我 们 走", "我 门  走")]


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    """Two utterances: every word is wrong but two, and 3 of 11 characters."""
    exp = write_experiment(tmp_path / "zh")
    write_decoded(exp, "test", 0.1, references=[[reference] for reference, _ in CHINESE])
    path = exp / "decode" / "test" / "hypotheses.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, (reference, hypothesis) in zip(lines, CHINESE, strict=True):
        line |= {"reference": reference, "hypothesis": hypothesis}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["score", str(path.parent)]) == 0
    return exp


def test_chinese_by_hand(exp: Path) -> None:
    content = json.loads((exp / "decode" / "test" / "score.json").read_text())
    assert content["errors"] == 2
    assert content["wer"] == pytest.approx(2 / 4)
    assert (content["character_errors"], content["reference_characters"]) == (3, 6 + 5)
    assert content["cer"] == pytest.approx(3 / 11)
    by_speaker = content["speakers"].values()
    assert sum(one["character_errors"] for one in by_speaker) == 3
    score = score_folder(exp / "decode" / "test")
    header, total = format_score(score).splitlines()[2], format_score(score).splitlines()[-1]
    assert "CER %" in header
    assert total.split()[-2] == "27.27"
    assert "CER 27.27 %" in (exp / "decode" / "test" / "alignment.txt").read_text()


def test_compare_shows_what_was_scored(exp: Path, tmp_path: Path) -> None:
    comparison = compare([exp])
    assert comparison.rows[0].sets["test"].cer == pytest.approx(3 / 11)
    for text in (format_terminal(comparison), format_markdown(comparison)):
        assert "Character error rate" in text
        assert "27.27" in text
    page = tmp_path / "page.html"
    assert main(["compare", str(exp), "--html", str(page), "--out", str(tmp_path / "out")]) == 0
    assert "27.27" in page.read_text()
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["rows"][0]["sets"]["test"]["cer"] == pytest.approx(3 / 11)
    # an older score has none
    path = exp / "decode" / "test" / "score.json"
    old = {key: value for key, value in json.loads(path.read_text()).items() if "c" not in key[:1]}
    path.write_text(json.dumps(old | {"correct": 2}))
    assert "Character error rate" not in format_terminal(compare([exp]))
