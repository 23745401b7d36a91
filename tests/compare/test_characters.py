"""Character error rates: by hand, by jiwer, and in every place where word error rates are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_experiments import seeds_of, write_decoded, write_experiment

from asr.cli import main
from asr.compare.compare import compare
from asr.compare.curves import read_curves
from asr.compare.tables import comparison_as_json, format_markdown, format_terminal
from asr.decode.score import format_score, score_folder
from asr.wer import CER, count_errors, edit_distance


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


def rewritten(exp: Path, change: Any) -> None:
    """Score an experiment again whose texts were changed."""
    path = exp / "decode" / "test" / "hypotheses.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line |= {key: change(line[key]) for key in ("reference", "hypothesis")}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["score", str(path.parent)]) == 0


def unspaced(text: str) -> str:
    """Words of other lengths, some of several characters: what was one word in three is one in one."""
    return re.sub(r"([aeh]) ", r"\1", text)


def spelled(text: str) -> str:
    """Each character a word, a space too."""
    return " ".join(text.replace(" ", "_"))


def trained(folder: Path, *changes: Any) -> list[Path]:
    """Two types of three seeds each."""
    rates = {"softmax": 0.2, "sigmoid": 0.1}
    found = [one for name, rate in rates.items() for one in seeds_of(folder, name, "rope", rate)]
    for change in changes:
        for exp in found:
            rewritten(exp, change)
    return found


def without(content: Any, names: tuple[str, ...]) -> Any:
    if isinstance(content, dict):
        return {key: without(one, names) for key, one in content.items() if key not in names}
    return [without(one, names) for one in content] if isinstance(content, list) else content


def test_every_figure_by_characters_is_that_of_spelled_texts_by_words(tmp_path: Path) -> None:
    by_characters = comparison_as_json(compare(trained(tmp_path / "a", unspaced), metric=CER))
    assert by_characters.pop("metric") == "cer"
    by_words = comparison_as_json(compare(trained(tmp_path / "b", unspaced, spelled)))
    found = without(by_words, ("cer", "folder"))
    text = json.dumps(found)
    for words, characters in (("wer", "cer"), ("wers", "cers"), ("words", "characters")):
        text = text.replace(f'"{words}":', f'"{characters}":')
    text = text.replace('"reference_words":', '"reference_characters":')
    expected = json.loads(text)
    assert json.loads(json.dumps(without(by_characters, ("folder",)))) == expected
    assert expected["differences"][0]["mapsswe"] is not None
    assert expected["type_differences"][0]["p_holm"] is not None


def test_the_rate_by_characters_is_that_of_jiwer(tmp_path: Path) -> None:
    exp = trained(tmp_path, unspaced)[0]
    lines = (exp / "decode" / "test" / "hypotheses.jsonl").read_text().splitlines()
    pairs = [(one["reference"], one["hypothesis"]) for one in map(json.loads, lines)]
    references, hypotheses = map(list, zip(*pairs, strict=True))
    result = compare([exp], metric=CER).rows[0].sets["test"]
    assert result.wer == pytest.approx(jiwer.cer(references, hypotheses))
    assert result.cer == result.wer
    assert result.counts.reference_words == sum(map(len, references))
    output = jiwer.process_characters(references, hypotheses)
    assert result.counts.errors == output.substitutions + output.deletions + output.insertions


def test_everything_that_compare_writes_speaks_of_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = trained(tmp_path, unspaced)
    for exp in folders:
        records = [{"kind": "valid", "step": k, "wer": 0.9, "cer": 0.25} for k in (1, 2)]
        (exp / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    out, page = tmp_path / "out", tmp_path / "page.md"
    results, report = tmp_path / "RESULTS.md", tmp_path / "report.html"
    asked = ["compare", *map(str, folders), "--metric", "cer", "--out", str(out)]
    asked += ["--page", str(page), "--results", str(results), "--html", str(report)]
    capsys.readouterr()
    assert main(asked) == 0
    printed = capsys.readouterr().out
    texts = [printed, *(path.read_text() for path in (out / "compare.md", page, results))]
    html = report.read_text()
    for text in texts:
        assert "CER %" in text
        assert not re.search(r"\bWERs?\b|\b[Ww]ords?\b", text)
    assert "The character error rate (CER) is the share of characters" in html
    assert "<h2>Training" in html
    assert read_curves(folders[0], CER).valid_wer == [(1, 0.25), (2, 0.25)]
    assert not re.search(r"\bWERs?\b|[Ww]ord error|another word|>words<", html)
    content = json.loads((tmp_path / "compare.json").read_text())
    for path in re.findall(r'data-json="([^"]+)"', html):
        at = content
        for key in path.split("."):
            at = at[int(key)] if isinstance(at, list) else at and at[key]
    # a table of one error rate takes no row of another
    before = results.read_text()
    assert main(["compare", str(folders[0]), "--results", str(results)]) == 2
    assert "a table of CER; name another file for WER" in capsys.readouterr().err
    assert results.read_text() == before


def test_words_as_long_as_utterances_are_noticed(exp: Path) -> None:
    assert not [note for note in compare([exp]).notes if "--metric cer" in note]
    rewritten(exp, lambda text: "".join(text.split()) * 3)
    (note,) = (note for note in compare([exp]).notes if "--metric cer" in note)
    assert note.startswith("test: 14 characters a word")
    assert not [note for note in compare([exp], metric=CER).notes if "--metric cer" in note]
