"""The tables of `asr compare`: every printed figure recomputed, every refusal."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from made_experiments import cells, write_decoded, write_experiment

from asr.compare.compare import compare
from asr.compare.tables import comparison_files, format_markdown, format_terminal
from asr.errors import InputError
from asr.files import write_all


def test_rows_of_the_table(pair: list[Path]) -> None:
    comparison = compare(pair)
    text = format_terminal(comparison)
    for folder, row in zip(pair, comparison.rows, strict=True):
        score = json.loads((folder / "decode" / "test" / "score.json").read_text())
        result = row.sets["test"]
        assert result.wer == score["wer"]
        assert result.interval is not None
        shown = cells(text, row.name)
        assert shown[:5] == [row.name, row.run.weighting, "alibi", "conformer", "18.3M"]
        assert shown[5] == (
            f"{100 * score['wer']:.2f} "
            f"[{100 * result.interval.low:.2f}, {100 * result.interval.high:.2f}]"
        )
        assert shown[6] == f"{score['substitutions']}/{score['deletions']}/{score['insertions']}"
        assert shown[7:9] == ["0.0213", "123.5"]
    assert cells(text, "base")[9:] == ["0123456", "0"]
    assert cells(text, "new")[9:] == ["0123456+", "1"]
    assert "normaliser lowercase-apostrophe; search greedy" in text
    assert "speakers of test" in text
    assert comparison.notes == []
    assert max(len(line) for line in text.splitlines()) <= 120


def test_difference_is_printed(pair: list[Path]) -> None:
    comparison = compare(pair)
    (one,) = comparison.differences
    assert one.interval is not None
    assert one.p_value is not None
    table = format_terminal(comparison).split("WER minus that of base")[1]
    shown = cells(table, "new")
    assert shown[1:3] == ["test", f"{100 * one.difference:+.2f}"]
    assert shown[3] == f"[{100 * one.interval.low:.2f}, {100 * one.interval.high:.2f}]"
    assert shown[4] == ("<0.001" if one.p_value < 0.001 else f"{one.p_value:.3f}")


def test_several_sets(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        write_decoded(folder, "test-clean", 0.1)
    write_decoded(folders[0], "test-other", 0.3)
    comparison = compare(folders)
    assert comparison.set_names == ["test-clean", "test-other"]
    assert [one.set_name for one in comparison.differences] == ["test-clean"]
    lines = [line.split() for line in format_terminal(comparison).splitlines()]
    table = [line for line in lines if "test-clean" in line or "test-other" in line]
    assert [line[0] for line in table[:3]] == ["a", "test-other", "b"]
    markdown = format_markdown(comparison)
    assert markdown.count("| a | softmax |") == 2


def test_nothing_decoded_is_a_row_of_dashes(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "a")
    (exp / "decode" / "half-done").mkdir(parents=True)
    comparison = compare([exp])
    text = format_terminal(comparison)
    assert cells(text, "a")[5:8] == ["-", "-", "-"]
    assert "is not scored (asr score" in comparison.notes[0]
    assert "no scored set" in comparison.notes[1]
    assert text.startswith("Nothing decoded yet.")


def test_an_older_run_json_is_shown_as_dashes(tmp_path: Path) -> None:
    exp = tmp_path / "old"
    exp.mkdir()
    (exp / "run.json").write_text("{}")
    write_decoded(exp, "test", 0.2, search=None, rtf=None)
    shown = cells(format_terminal(compare([exp])), "old")
    assert shown[1:5] == ["-"] * 4
    assert shown[7:] == ["-"] * 4


def test_runs_of_one_name_are_told_apart_by_folder(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name, name="same") for name in ("a", "b")]
    assert [row.name for row in compare(folders).rows] == [str(folder) for folder in folders]


def test_written_files_say_what_is_printed(pair: list[Path], tmp_path: Path) -> None:
    comparison = compare(pair)
    out = tmp_path / "new" / "folder"
    write_all(comparison_files(comparison, out))
    assert sorted(path.name for path in out.iterdir()) == ["compare.json", "compare.md"]
    content = json.loads((out / "compare.json").read_text())
    assert (content["num_resamples"], content["seed"], content["level"]) == (10_000, 1, 0.95)
    for row, row_content in zip(comparison.rows, content["rows"], strict=True):
        result, result_content = row.sets["test"], row_content["sets"]["test"]
        assert row_content["run"]["weighting"] == row.run.weighting
        assert result_content["wer"] == result.wer
        assert result_content["counts"]["errors"] == result.counts.errors
        assert result.interval is not None
        assert result_content["interval"]["low"] == result.interval.low
    assert content["differences"][0]["p_value"] == comparison.differences[0].p_value

    markdown = (out / "compare.md").read_text()
    assert "asr train --config conf/x.yaml" in markdown
    tables = re.findall(r"((?:^\|.*\n)+)", markdown, flags=re.MULTILINE)
    assert len(tables) == 3  # systems, differences, character error rates
    shown = [re.split(r" ?\| ?", line)[1:-1] for line in tables[0].splitlines()]
    assert len({len(line) for line in shown}) == 1
    assert shown[0][0] == "system"
    assert set("".join(shown[1])) == {"-", ":"}
    assert shown[2] == cells(format_terminal(comparison), "base")


def test_a_bar_in_a_name_stays_in_its_cell(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "a", name="x|y")
    assert "| x\\|y |" in format_markdown(compare([exp]))


def test_refusals(pair: list[Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folders, message in [
        ([], "give at least one"),
        ([tmp_path / "nowhere"], "nowhere: no such folder"),
        ([empty], "empty: no run.json in it"),
        ([pair[0], pair[0]], "given 2 times"),
    ]:
        assert_refused(folders, message)
    (empty / "run.json").write_text("[1]")
    assert_refused([empty], "expected an object")
    (empty / "run.json").write_text('{"num_params": "many"}')
    assert_refused([empty], "'num_params' is 'many', expected a whole number")
    with pytest.raises(InputError, match="num_resamples = 0: must be at least 1"):
        compare(pair, num_resamples=0)
    with pytest.raises(InputError, match=r"level = 1\.0: must be between 0 and 1"):
        compare(pair, level=1.0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.yaml", "- 1\n", "config.yaml: expected sections with settings, found a list"),
        ("config.yaml", "word", "config.yaml: expected sections with settings, found a str"),
        ("config.yaml", "a: 2024-99-99", "config.yaml: not valid yaml"),
        ("config.yaml", "a: [", "config.yaml: not valid yaml"),
        ("run.json", '{"train_audio_s_per_s": Infinity}', "'train_audio_s_per_s' is inf"),
        ("run.json", '{"num_params": 1' + "0" * 400 + "}", "'num_params' is 1000"),
        ("run.json", '{"resumed": [1]}', "'resumed' holds 1, expected objects"),
        ("decode/test/decode.json", '{"set": "test", "normaliser": "none", "rtf": NaN}', "'rtf'"),
        ("decode/test/score.json", '{"reference_words": 1e400}', "'reference_words' is inf"),
    ],
)
def test_files_that_say_something_else(
    name: str, text: str, message: str, pair: list[Path]
) -> None:
    (pair[1] / name).write_text(text)
    assert_refused(pair, message)


def test_scores_of_other_hypotheses_are_refused(pair: list[Path]) -> None:
    path = pair[1] / "decode" / "test" / "hypotheses.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["hypothesis"] += " more words than were scored"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert_refused(pair, "not of the hypotheses beside it; run `asr score")
    path.write_text("")
    assert_refused(pair, "no utterances in it")


def assert_refused(folders: list[Path], message: str) -> None:
    with pytest.raises(InputError) as raised:
        compare(folders)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unwritable_place(pair: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make this folder"):
        write_all(comparison_files(compare(pair), tmp_path / "file" / "out"))


def test_one_set_under_two_names_is_told(pair: list[Path]) -> None:
    assert not any("twice" in note for note in compare(pair).notes)
    decoded = pair[1] / "decode"
    shutil.copytree(decoded / "test", decoded / "again")
    (note,) = [note for note in compare(pair).notes if "twice" in note]
    assert note.startswith("WARNING: test of new has the utterances and hypotheses of again")
